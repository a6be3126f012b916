"""vtpm-attach and vtpm-udev-properties look at the files with a shell, and start a Python only where it could have
work.

What they decide is compared with what the real parser finds: to start it in vain costs time, not to start it would be a
fault.
"""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swtpm_svc.config import loading
from swtpm_svc.errors import VtpmError
from swtpm_svc.service.systemd import udev_properties

ROOT = Path(__file__).resolve().parents[3]
PYTHON = "a Python is started\n"
EXAMPLES = [(ROOT / f"etc/vtpm.d/{name}.toml").read_text() for name in ("vtpm0", "vtpm1")]


class Launcher:
    """The script with another directory of configurations, and a sentence in the place of Python."""

    def __init__(self, name, folder):
        self.directory = folder / "vtpm.d"
        self.directory.mkdir()
        before, start, _after = (ROOT / "packaging/libexec" / name).read_text().rpartition("exec ")
        assert start
        self.path = folder / name
        self.path.write_text(
            f"{before}echo {PYTHON}".replace("/etc/vtpm.d", str(self.directory)).replace(
                "getent group vtpm", "echo vtpm:x:960:"
            )
        )

    def write(self, **files):
        for path in self.directory.iterdir():
            path.unlink()
        for instance, text in files.items():
            (self.directory / f"{instance}.toml").write_bytes(text.encode())

    def run(self, *arguments):
        done = subprocess.run(["sh", self.path, *arguments], capture_output=True, text=True, check=False, timeout=20)
        assert done.stderr == ""
        return done.returncode, done.stdout

    def starts_python(self, *arguments):
        return self.run(*arguments)[1] == PYTHON


@pytest.fixture(scope="module")
def attach(tmp_path_factory):
    return Launcher("vtpm-attach", tmp_path_factory.mktemp("attach"))


@pytest.fixture(scope="module")
def udev(tmp_path_factory):
    """For a machine that has the group, with this number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "group_id", lambda name: 960)
        yield Launcher("vtpm-udev-properties", tmp_path_factory.mktemp("udev"))


def has_work(verb, text):
    try:
        found = loading.parse(text, "x.toml", "x")
    except VtpmError:
        return False
    return found.fuse.enabled or (verb == "start" and (found.kernel_tpm.enabled or found.provision.enabled))


# --- vtpm-attach -----------------------------------------------------------------------------------------------------

#: Texts, and of which verbs Python has to know: sure of "no" only where a line says so.
FOR_ATTACH = [
    *((text, ()) for text in EXAMPLES),
    ("", ()),
    ("[fuse]\nenabled = true\n", ("start", "stop")),
    ("[fuse]\nenabled = true", ("start", "stop")),
    ("[fuse]\r\nenabled = true\r\n", ("start", "stop")),
    ("\t[ fuse ] # as files\n\n  enabled=true # now\n", ("start", "stop")),
    ('["fuse"]\n"enabled" = true\n', ("start", "stop")),
    ('["f\\u0075se"]\nenabled = true\n', ("start", "stop")),
    ("fuse.enabled = true\n", ("start", "stop")),
    ("fuse = { enabled = true }\n", ("start", "stop")),
    ('fuse = { directory = "/run/#x", enabled = true }\n', ("start", "stop")),
    ("fuse = {\n enabled = true }\n", ("start", "stop")),  # TOML 1.1
    ("[vtpm-proxy]\nenabled = true\n", ("start",)),
    ("[provision]\nenabled = true\n", ("start",)),
    ('[state]\ndirectory = """\n[fuse]\n"""\n[fuse]\nenabled = true\n', ("start", "stop")),
    ("[fuse]\nenabled = false # not true\n[device]\nenabled = true\n", ()),
    ("[fuse]\n#enabled = true\n  # enabled = true\n[vtpm-proxy]\n[provision]\n", ()),
    ('[fuse]\ndirectory = "/run/vtpm/x/fs"\n[device]\nenabled = true\n', ()),
]


@pytest.mark.parametrize(("text", "verbs"), FOR_ATTACH)
def test_attach_starts_python_where_it_has_work(attach, text, verbs):
    attach.write(x=text)
    for verb in ("start", "stop"):
        assert attach.starts_python(verb, "x") == (verb in verbs)
        assert verb in verbs or not has_work(verb, text)


def test_attach_leaves_what_is_no_file_to_the_daemon(attach):
    attach.write()
    assert attach.run("start", "x") == (0, "")
    (attach.directory / "x.toml").mkdir()
    try:
        assert attach.run("start", "x") == (0, "")
    finally:
        (attach.directory / "x.toml").rmdir()


TABLES = [table.name for table in loading.SCHEMA]
LINES = st.one_of(
    st.sampled_from(TABLES).map(lambda name: f"[{name}]"),
    st.sampled_from(TABLES).map(lambda name: f' [ "{name}" ] # true'),
    st.sampled_from(
        ["enabled = true", 'enabled=true # "', "  enabled = false # true", "enabled = false", "", "# [fuse]"]
    ),
    st.sampled_from(TABLES).map(lambda name: f"{name}.enabled = true"),
    st.sampled_from(TABLES).map(lambda name: f"{name} = {{ enabled = true }}"),
    st.sampled_from(
        ['name = "true"', "name = '#'", 'name = "x" # [fuse]', 'startup = "clear"', "directory = '''\n/x'''"]
    ),
)


@given(st.lists(LINES, max_size=8), st.sampled_from(["start", "stop"]))
@settings(max_examples=60)
def test_attach_misses_nothing(attach, lines, verb):
    text = "\n".join(lines)
    attach.write(x=text)
    assert attach.starts_python(verb, "x") or not has_work(verb, text), text


# --- vtpm-udev-properties --------------------------------------------------------------------------------------------


def answer(udev, capsys, name):
    """By Python: (status, output)."""
    capsys.readouterr()
    return udev_properties.main([name], str(udev.directory)), capsys.readouterr().out


FOR_UDEV = [
    ("x", {"x": EXAMPLES[0], "y": EXAMPLES[1]}),
    ("x", {"x": ""}),
    ("other", {"x": EXAMPLES[0]}),
    ("other", {}),
    ("x", {"x": '#name = "y"\n  #group = "a"\n[tpm]\nversion = "1.2"\n'}),
]


@pytest.mark.parametrize(("name", "files"), FOR_UDEV)
def test_udev_is_answered_without_python(udev, capsys, name, files):
    udev.write(**files)
    assert udev.run(name) == answer(udev, capsys, name)


FOR_PYTHON = [
    ("x", {"x": '[device]\ngroup = "staff"\n'}),
    ("x", {"x": '  mode = "0600"\n'}),
    ("x", {"x": '[device]\n"own\\u0065r" = "a"\n'}),
    ("x", {"x": "device.owner = '''\na'''\n"}),
    ("x", {"x": "", "y": '[device]\nname = "x"\n'}),
    ("z", {"x": "", "y": 'device={name="z"}\n'}),
    ("z", {"y": '[device]\n"n\\u0061me" = "z"\n'}),
    ("a/b", {}),
    ("é", {}),
    ("-x", {"-x": ""}),
    ("x" * 88, {"x" * 88: ""}),
]


@pytest.mark.parametrize(("name", "files"), FOR_PYTHON)
def test_what_takes_a_parser_is_left_to_python(udev, name, files):
    udev.write(**files)
    assert udev.starts_python(name)
    assert udev.starts_python("--kernel-tpm", name)


KEYS = st.sampled_from(['name = "x"', 'name = "y"', 'group = "g"', 'mode = "0600"', "enabled = true", "minor = 1", ""])
TEXTS = st.lists(st.one_of(KEYS, st.sampled_from(["[device]", "[control]", "# name", "[tpm]"])), max_size=4).map(
    "\n".join
)


@given(x=TEXTS, y=TEXTS, name=st.sampled_from(["x", "y", "z"]))
@settings(max_examples=60)
def test_udev_is_told_what_the_parser_finds(udev, x, y, name):
    for text, instance in ((x, "x"), (y, "y")):
        try:
            loading.parse(text, f"{instance}.toml", instance)
        except VtpmError:
            return
    udev.write(x=x, y=y)
    status, text = udev.run(name)
    found = udev_properties.find(name, str(udev.directory))
    assert text == PYTHON or (status, text) == ((0, udev_properties.properties(found)) if found else (1, ""))


def test_a_pipe_in_the_way_is_no_hang(udev):
    udev.write(x="")
    os.mkfifo(udev.directory / "y.toml")
    assert udev.run("x")[0] == 0
