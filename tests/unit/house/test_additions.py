"""What a new key, command or way in brings along, where no other test asks for it: CONTRIBUTING.md has the list."""

import ast
import re
from pathlib import Path

import pytest

from swtpm_svc.config.schema import SCHEMA
from swtpm_svc.tpm import controller
from swtpm_svc.wire import ptm

ROOT = Path(__file__).resolve().parents[3]
FRONTENDS = ROOT / "swtpm_svc/frontends"
UNIT = (ROOT / "packaging/vtpm@.service").read_text()
POLICY = (ROOT / "packaging/swtpm.te").read_text()
LABELS = (ROOT / "packaging/swtpm.fc").read_text()
ALLOWED = (ROOT / "packaging/swtpm.allowed").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
#: Which table of the configuration turns a room of frontends/ on.
ROOMS = {"cuse": "device", "sockets": "socket", "fuse": "fuse", "kernel": "vtpm-proxy"}
#: Where a family of addresses has another name than its own.
FAMILY_WORDS = {"AF_INET": "TCP", "AF_INET6": "TCP"}
FAMILY_CLASSES = {"AF_UNIX": "unix_stream_socket", "AF_INET": "tcp_socket", "AF_INET6": "tcp_socket"}


def assert_all(there):
    """`there`: what must be there, and whether it is; told in full, as pytest would not."""
    missing = [what for what, is_there in there.items() if not is_there]
    assert not missing, "missing:\n" + "\n".join(missing)


def page(name):
    return (ROOT / "docs/man" / name).read_text()


def has(pattern, text):
    return re.search(pattern, text, re.MULTILINE) is not None


def nodes_of_the_daemon():
    """What its front ends and the service itself are written in; of strings that are put together, no parts."""
    for floor in ("frontends", "service"):
        for path in (ROOT / "swtpm_svc" / floor).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
            yield from (node for node in nodes if node not in parts)


def families():
    """Also one that is imported by its name."""
    nodes = [*nodes_of_the_daemon()]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.name for node in nodes if isinstance(node, ast.alias)}
    return sorted(name for name in names if name.startswith("AF_"))


def devices():
    constants = (node.value for node in nodes_of_the_daemon() if isinstance(node, ast.Constant))
    return sorted(
        {text for text in constants if isinstance(text, str) and re.fullmatch(r"/dev/[a-z][a-z0-9_/-]*[a-z0-9]", text)}
    )


def told_by_the_changelog():
    """`[table] key` and `vtpmctl command`; in an entry that has one, the names in backticks behind it are more of them."""
    told = set()
    for entry in re.split(r"^(?:- |#)", CHANGELOG, flags=re.MULTILINE):
        prefix = ""
        for words in re.findall(r"`([^`]+)`", " ".join(entry.split())):
            found = re.match(r"(\[[a-z-]+\]|vtpmctl)(?: (.*)|$)", words)
            prefix, name = (found[1], found[2] or "") if found else (prefix, words)
            if prefix:
                told |= {f"{prefix} {name}", f"{prefix} {name.split(' ')[0]}"}
    return told


# --- the changelog -----------------------------------------------------------------------------------------------------


def test_the_changelog_tells_of_every_key():
    keys = [f"[{table.name}] {key.name}" for table in SCHEMA for key in table.keys]
    told = told_by_the_changelog()
    assert_all({key: key in told for key in keys})


def test_the_changelog_tells_of_every_command():
    """The manual has them all: test_cli_manual.py."""
    commands = re.findall(r"^\.It Cm ([a-z-]+(?: [a-z-]+)?)(?= [A-Z|]|$)", page("vtpmctl.8"), re.MULTILINE)
    assert len(commands) > 25
    told = told_by_the_changelog()
    assert_all({f"vtpmctl {name}": f"vtpmctl {name}" in told for name in commands})


# --- a key -------------------------------------------------------------------------------------------------------------


def test_every_key_is_used():
    """By the name that it has as a value, wherever. That a reload applies it: test_reload.py."""
    used = {
        node.attr
        for path in (ROOT / "swtpm_svc").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    fields = {f"[{table.name}] {key.name}": key.name.replace("-", "_") for table in SCHEMA for key in table.keys}
    assert_all({name: field in used for name, field in fields.items()})


# --- a way in ----------------------------------------------------------------------------------------------------------


def test_these_are_the_rooms():
    """A new one says here by which table it is configured."""
    assert sorted(ROOMS) == sorted(path.parent.name for path in FRONTENDS.glob("*/__init__.py"))
    assert set(ROOMS.values()) <= {table.name for table in SCHEMA}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_in_the_readme_and_in_the_house(room):
    ways_in = (ROOT / "README.md").read_text().split("## Ways in", 1)[1].split("\n## ", 1)[0]
    floors = (ROOT / "docs/architecture.md").read_text().split("## Floors", 1)[1].split("\n## ", 1)[0]
    assert_all(
        {
            f"README.md, Ways in: [{ROOMS[room]}]": f"[{ROOMS[room]}]" in ways_in,
            f"docs/architecture.md, Floors: `{room}/`": f"`{room}/`" in floors,
        }
    )


def test_what_is_looked_for_is_found():
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(families())
    assert {"/dev/cuse", "/dev/fuse", "/dev/vtpmx"} <= set(devices())


@pytest.mark.parametrize("family", families())
def test_a_family_of_addresses_is_allowed_and_told_of(family):
    word = FAMILY_WORDS.get(family, family[len("AF_") :])
    kind = FAMILY_CLASSES.get(family, family[len("AF_") :].lower() + "_socket")
    unit = " ".join(
        re.findall(r"^(?:\.Li )?RestrictAddressFamilies=(.*)$", UNIT + page("vtpm@.service.8"), re.MULTILINE)
    ).split()
    assert_all(
        {
            "packaging/vtpm@.service: RestrictAddressFamilies=, or a drop-in in vtpm@.service(8)": family in unit,
            f"packaging/swtpm.te: allow vtpm_t ...:{kind}": has(rf"^\s*allow vtpm_t \w+:{kind} ", POLICY),
            f"packaging/swtpm.allowed: vtpm_t ... {kind}": has(rf"^(?:if \w+ )?vtpm_t \w+ {kind}: ", ALLOWED),
            f"CHANGELOG.md: {word}": has(rf"(?i)\b{word}\b", CHANGELOG),
            f"vtpm.d(5): {word}": has(rf"(?i)\b{word}\b", page("vtpm.d.5")),
        }
    )


@pytest.mark.parametrize("device", devices())
def test_a_device_is_allowed(device):
    labelled = re.search(rf"^{device}\s.*:object_r:(\w+),", LABELS, re.MULTILINE)
    kind = labelled[1] if labelled else f"{device.rpartition('/')[2].replace('-', '_')}_device_t"
    assert_all(
        {
            f"packaging/vtpm@.service: DeviceAllow={device}": has(rf"^DeviceAllow={device} ", UNIT),
            f"packaging/swtpm.te: {kind}": has(rf"^allow vtpm(_attach)?_t {kind}:chr_file ", POLICY),
            f"packaging/swtpm.allowed: {kind}": has(rf"^vtpm(_attach)?_t {kind} chr_file: ", ALLOWED),
        }
    )


def test_every_service_of_a_socket_can_be_passed_by_systemd_and_the_manual_says_so():
    (services,) = (
        ast.literal_eval(node.value)
        for node in nodes_of_the_daemon()
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["SERVICES"]
    )
    assert "control" in services
    text = page("vtpm@.service.8")
    assert_all({f"vtpm@.service(8): {service}": has(rf"^\.Li {service}\b", text) for service in services})


# --- a control operation, a lab ----------------------------------------------------------------------------------------


def test_every_control_request_is_carried_out():
    """GET_CAPABILITY is a front end's to answer; who may make a request is `needs_control`, which is true of new ones."""
    assert_all(
        {kind.__name__: kind in controller._HANDLERS for kind in {*ptm.REQUEST_OF.values()} - {ptm.GetCapability}}
    )


def test_every_folder_of_labs_is_in_the_manual_of_tests():
    text = (ROOT / "docs/testing.md").read_text()
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tests/lab").rglob("test_*.py")}
    assert len(folders) >= 4
    assert_all({f"docs/testing.md: {folder}": f"`{folder}`" in text for folder in folders})
