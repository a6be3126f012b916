"""Each option of each classic command with a value that is none, and with no value: one line, the classic exit status,
and nothing is made. The options are those of the commands' own tables: who adds one adds a wrong value here."""

import os

import pytest
from many_runs import run_all

from swtpm_svc.cli.classic import (
    comma_list,
    setup_options,
    swtpm_bios,
    swtpm_cert,
    swtpm_channels,
    swtpm_ioctl,
    swtpm_keys,
    swtpm_lists,
    swtpm_localca,
    swtpm_options,
)
from swtpm_svc.cli.classic.option_scanner import REQUIRED

FACTS = ["--tpm-spec-family", "2.0", "--tpm-spec-revision", "164", "--tpm-spec-level", "0"]
FACTS += ["--tpm-manufacturer", "id:1", "--tpm-model", "m", "--tpm-version", "id:2"]
STATE = ["--tpm2", "--tpmstate", "dir=state", "--flags", "not-need-init"]
MODULUS = "ab" * 128
#: Words of each command to which one option is added.
COMMANDS = {
    "socket": ["swtpm", "socket", *STATE],
    "chardev": ["swtpm", "chardev", *STATE],
    "cuse": ["swtpm_cuse", *STATE, "-n", "none"],
    "nameless": ["swtpm_cuse", *STATE],
    "setup": ["swtpm_setup", "--tpm2", "--tpm-state", "state", "--config", "empty"],
    "localca": ["swtpm_localca", "--type", "ek", "--ek", MODULUS, "--tpm2", *FACTS, "--dir", "{place}"],
    "cert": ["swtpm_cert", "--tpm2", *FACTS, "--signkey", "none", "--issuercert", "none", "--modulus", MODULUS],
    "ioctl": ["swtpm_ioctl"],
    "bios": ["swtpm_bios"],
    "takeown": ["takeown"],
}
COMMANDS["localca"] += ["--configfile", "localca.conf", "--optsfile", "empty"]
OPTIONS = {
    "socket": swtpm_options.SOCKET_OPTIONS,
    "chardev": swtpm_options.CHARDEV_OPTIONS,
    "cuse": swtpm_options.CUSE_OPTIONS,
    "setup": setup_options.OPTIONS,
    "localca": swtpm_localca.OPTIONS,
    "cert": swtpm_cert.OPTIONS,
    "ioctl": swtpm_ioctl.OPTIONS,
    "bios": swtpm_bios.OPTIONS,
}
#: What is wrong with all commands that share the option.
SWTPM = {
    "tpmstate": [
        "foo",
        "mode=0600",
        "dir=none/where",
        "dir=key",
        "backend-uri=foo://x",
        "backend-uri=file://none/where/x",
    ],
    "log": ["foo", "fd=77", "file=none/where", "file=state", "file=link"],
    "locality": ["foo"],
    "key": [
        "foo",
        "mode=aes-cbc",
        "remove",
        "file=none",
        "file=state",
        "file=short",
        "file=empty",
        "fd=77",
        "pwdfd=77",
    ],
    "migration-key": [
        "foo",
        "mode=aes-cbc",
        "remove",
        "file=none",
        "file=state",
        "file=short",
        "fd=77",
        "pwdfile=none",
    ],
    "pid": ["foo", "fd=77", "file=none/where", "file=state", "file=link", "file=/dev/null"],
    "runas": ["nobody-here", "", "4294967295", "-1"],
    "chroot": ["none", "key", ""],
    "seccomp": ["foo", "action=foo"],
    "flags": ["foo", "startup-foo"],
    "migration": ["foo"],
    "profile": ["foo", "name=a,profile={}", "file=none", "fd=77", "remove-disabled=foo", "remove-disabled=check"],
    "pcap": ["foo", "fd=77", "file=none/where", "file=state", "file=link", "mode=0600", "truncate"],
    "print-info": ["x", "", "-1", "1x"],
}
CHANNELS = {
    "fd": ["x", "", "0", "2", "77", "-1"],
    "ctrl": ["foo", "path=c", "type=foo", "type=tcp", "type=unixio", "type=unixio,fd=77", "type=unixio,clientfd=77"],
}
WRONG = {
    "socket": {
        **SWTPM,
        **CHANNELS,
        "port": ["x", "", "-1", "70000", "1x"],
        "server": ["foo", "type=foo", "type=tcp", "type=tcp,fd=77", "type=unixio", "type=unixio,fd=77", "port=70000"],
    },
    "chardev": {**SWTPM, **CHANNELS, "chardev": ["none", "key", "state", ""]},
    # its pid file is made after its device, which a machine may not have
    "cuse": {**SWTPM, "pid": ["foo", "fd=77"], "maj": ["x", "", "-1", "65536"], "min": ["x", "", "-1", "65536"]},
    "setup": {
        "tpm": ["none", "key", "state", "state socket", ""],
        "tpm-state": ["none", "key", "", "file://none/where/x", "file://state", "dir://none"],
        "tpmstate": ["none", "key", ""],
        "config": ["none", "state"],
        "keyfile": ["none", "state", "short", "empty", ""],
        "keyfile-fd": ["x", "77", "-1", ""],
        "pwdfile": ["none", "state", ""],
        "pwdfile-fd": ["x", "77", "-1", ""],
        "cipher": ["foo"],
        "pcr-banks": ["foo"],
        "rsa-keysize": ["x", "1024"],
        "ek1keyalgo": ["foo"],
        "ek2keyalgo": ["foo"],
        "iakkeyalgo": ["foo", "rsa2048"],
        "idevidkeyalgo": ["foo", "rsa2048"],
        "write-ek-cert-files": ["none", "key", ""],
        "profile": ["foo", "{}", ""],
        "profile-name": ["foo", "a/b", ""],
        "profile-file": ["none", "state", "short", ""],
        "profile-file-fd": ["x", "77", ""],
        "profile-remove-disabled": ["foo", ""],
        "logfile": ["none/where", "state", "link", ""],
        "runas": ["nobody-here", "4294967295", "-1"],
        "ownerpass": ["word --take-ownership"],
    },
    "localca": {
        "type": ["foo", ""],
        "ek": ["zz", "abc", "", "x=1", "x=z,y=z", "x=01,y=02,id=foo"],
        "key": ["zz"],
        "dir": ["none", "key"],
        "optsfile": ["none", "state", "binary"],
        "configfile": ["none", "state", "binary", "key"],
        "logfile": ["none/where", "state", "link"],
        "tpm-spec-revision": ["x", "", "-1"],
        "tpm-spec-level": ["x", "", "-1"],
    },
    "cert": {
        "pubkey": ["none", "state", "key", ""],
        "modulus": ["zz", "abc", "", "00"],
        "exponent": ["x", "0", "-1", "", "4294967296"],
        "ecc-x": ["01"],
        "ecc-y": ["01", "z"],
        "ecc-curveid": ["foo", ""],
        "public": ["00"],
        "keyalgo": ["ml-kem-512"],
        "signkey": ["none", "state", "key", "pkcs11:foo", ""],
        "signkey-pwd": ["file:none", "file:state", "fd:77", "fd:x", "fd:-1", "env:NONE"],
        "issuercert": ["none", "state", "key", ""],
        "serial": ["x", "0", "-1", "", "9" * 60],
        "days": ["x", "-2", "", "9" * 20],
        "type": ["foo", ""],
        "tpm-spec-level": ["x", "", "-1"],
        "tpm-spec-revision": ["x", "", "-1"],
        "subject": ["foo", "CN"],
    },
    "ioctl": {
        "tpm-device": ["none -c", "key -c", "state -c", " -c"],
        "tcp": [":x -c", ":70000 -c", ":0 -c"],
        "unix": ["none -c", "key -c", " -c"],
        "r": ["x", "5", "-1", ""],
        "l": ["x", "5", "-1", ""],
        "save": ["foo", "permanent", "permanent -x"],
        "load": ["foo", "permanent"],
        "b": ["x", ""],
        "info": ["x", "-"],
        "lock-storage": ["x", ""],
    },
    "bios": {"tpm-device": ["none", "key", "state", ""], "tcp": [":x", ":70000", ":0"], "unix": ["none", "key", ""]},
}
#: Any text is right.
FREE = {
    "cuse": {"name"},  # missing, or a name that is none: below
    "setup": {"swtpm_ioctl", "tcsd-system-ps-file", "srkpass", "vmid"},
    "localca": {"vmid", "tpm-spec-family", "tpm-manufacturer", "tpm-model", "tpm-version", "tpm-serial-num"},
    "cert": {
        "signkey-password",
        "parentkey-password",
        "parentkey-pwd",
        "out-cert",  # looked at when there is something to write
        "tpm-manufacturer",
        "tpm-model",
        "tpm-version",
        "platform-manufacturer",
        "platform-model",
        "platform-version",
        "tpm-spec-family",
        "tpm-serial-num",
    },
    "ioctl": {"h"},
}
#: The words of a comma list whose value is a number, a mode or a name, with what is none. All others are booleans,
#: files, descriptors or text, which stand above or have no wrong value.
IN_LISTS = {
    ("tpmstate", "mode"): ["x", "8", "1777", "-1"],
    ("log", "fd"): ["x"],
    ("log", "level"): ["x"],
    ("key", "fd"): ["x"],
    ("key", "pwdfd"): ["x"],
    ("key", "format"): ["foo"],
    ("key", "mode"): ["foo"],
    ("key", "kdf"): ["foo"],
    ("migration-key", "fd"): ["x"],
    ("migration-key", "pwdfd"): ["x"],
    ("migration-key", "format"): ["foo"],
    ("migration-key", "mode"): ["foo"],
    ("migration-key", "kdf"): ["foo"],
    ("pid", "fd"): ["x"],
    ("seccomp", "action"): ["foo"],
    ("profile", "fd"): ["x"],
    ("pcap", "fd"): ["x"],
    ("pcap", "mode"): ["x", "8", "1777"],
    ("ctrl", "type"): ["foo"],
    ("ctrl", "port"): ["x"],
    ("ctrl", "fd"): ["x"],
    ("ctrl", "clientfd"): ["x"],
    ("ctrl", "mode"): ["x", "1777"],
    ("ctrl", "uid"): ["nobody-here"],
    ("ctrl", "gid"): ["nobody-here"],
    ("server", "type"): ["foo"],
    ("server", "port"): ["x"],
    ("server", "fd"): ["x"],
    ("server", "mode"): ["x", "1777"],
    ("server", "uid"): ["nobody-here"],
    ("server", "gid"): ["nobody-here"],
}
#: What reads each list, and the words that it takes.
LISTS = {
    "tpmstate": swtpm_lists.state,
    "log": swtpm_lists.log,
    "locality": swtpm_lists.locality,
    "key": lambda text: swtpm_keys.load(text, "key", print),
    "migration-key": lambda text: swtpm_keys.load(text, "migration-key", print),
    "pid": swtpm_lists.pid_file,
    "seccomp": swtpm_lists.seccomp,
    "flags": swtpm_lists.flags,
    "migration": swtpm_lists.migration,
    "profile": swtpm_lists.profile,
    "pcap": swtpm_lists.pcap,
    "ctrl": swtpm_channels.control,
    "server": swtpm_channels.server,
}
BOOLEANS_AND_TEXT = {
    *((option, "remove") for option in ("key", "migration-key")),
    *((option, word) for option in ("key", "migration-key") for word in ("file", "pwdfile")),
    *(("tpmstate", word) for word in ("dir", "backend-uri", "lock", "backup", "fsync")),
    *(("log", word) for word in ("file", "prefix", "truncate")),
    *(("locality", word) for word in ("reject-locality-4", "allow-set-locality")),
    ("pid", "file"),
    *(("flags", f"startup-{kind}") for kind in swtpm_lists.STARTUPS),
    *(("flags", word) for word in ("not-need-init", "disable-auto-shutdown")),
    *(("migration", word) for word in ("incoming", "release-lock-outgoing")),
    *(("profile", word) for word in ("name", "profile", "file", "remove-disabled")),
    *(("pcap", word) for word in ("file", "truncate", "checksums")),
    *(("ctrl", word) for word in ("path", "bindaddr", "ifname", "terminate")),
    *(("server", word) for word in ("path", "bindaddr", "ifname", "disconnect")),
}
#: Options that do not go together, or have too many or too few beside them.
CONTRADICTIONS = [
    ("socket", ["--profile", "name=a,file=b"]),
    ("socket", ["--profile", "file=b,fd=3"]),
    ("socket", ["--tpmstate", "backend-uri=file://{place}/x,backup"]),
    ("socket", ["--tpmstate", "backend-uri=file://{place}/x,fsync"]),
    ("socket", ["--key", "file=key,mode=aes-256-cbc"]),
    ("socket", ["left"]),
    ("socket", ["--ctrl", "type=unixio,path=key"]),
    ("socket", ["--server", "type=unixio,path=key"]),
    ("socket", ["--ctrl", "type=unixio,path=/dev/null"]),
    ("chardev", []),
    ("chardev", ["--vtpm-proxy", "--chardev", "/dev/null"]),
    ("chardev", ["--vtpm-proxy", "--fd", "77"]),
    ("chardev", ["--server", "type=tcp,port=0"]),
    ("nameless", []),
    ("nameless", ["--name", ""]),
    ("cuse", ["left"]),
    ("setup", ["--take-ownership"]),
    ("setup", ["--reconfigure", "--createek"]),
    ("setup", ["--reconfigure", "--profile-name", "null"]),
    ("setup", ["--profile-name", "null", "--profile-file", "key"]),
    ("setup", ["--iakkeyalgo", "rsa2048"]),
    ("setup", ["--create-ek-cert"]),  # the configuration names no tool
    ("setup", ["--create-ek-cert", "--config", "bad-tool.conf"]),
    ("setup", ["--create-config-files=overwrite,skip-if-exist"]),
    ("setup", ["--create-config-files=foo"]),
    ("cert", ["--ecc-x", "01", "--ecc-y", "02"]),
    ("cert", ["--type", "platform"]),
    ("cert", ["--type", "iak"]),
    ("ioctl", ["-c", "-i"]),
    ("ioctl", ["-c"]),
    ("ioctl", []),
    ("takeown", []),
    ("takeown", ["-pwds", "x"]),
]
STATUSES = {"cuse": {1, 251, 253, 255}, "nameless": {254}, "bios": {1, 255}}
#: Two lines, as swtpm says it: what is wrong, and that there is therefore no TPM or certificate; or one line a Digit.
PAIRS = ("swtpm: Error: Could not initialize libtpms.", "Could not create ", "Got an odd number of hex digits")
PAIRS += ("An error occurred. Authoring the TPM state failed.", "Could not get password from environment variable.")


def wanting(command):
    """The options of a command that want a value."""
    return {option.name: option for option in OPTIONS[command] if option.argument == REQUIRED}


def spelled(command, option):
    return f"-{option}" if command in ("ioctl", "bios") and len(option) == 1 else f"--{option}"


def lines():
    """Every command line, by its name in a report."""
    for command, wrong in WRONG.items():
        for option, values in wrong.items():
            for value in values:
                more = value.split(" ") if command == "ioctl" or " --" in value else [value]
                yield command, f"{option} {value[:40]!r}", [spelled(command, option), *more]
    for (option, word), values in IN_LISTS.items():
        for value in values:
            yield "socket", f"{option} {word}={value}", [f"--{option}", f"{word}={value}"]
    for option in LISTS:
        words = words_of(option)
        for text in ("", "=", f"{words[0]},", f"{words[0]},foo", *(f"{word}=" for word in words)):
            yield "socket", f"{option} {text!r}", [f"--{option}", text]
    for command, words in CONTRADICTIONS:
        yield command, " ".join(words) or "nothing", words


def words_of(option):
    """Those that the comma list of an option takes: what its reader asks for."""
    asked = []

    class Asked(Exception):
        pass

    def parse(_text, _what, names):
        asked.extend(names)
        raise Asked

    real, comma_list.parse = comma_list.parse, parse
    try:
        LISTS[option]("x")
    except Asked:
        pass
    finally:
        comma_list.parse = real
    return asked


LINES = list(lines())
MISSING = [(command, name) for command in OPTIONS for name in wanting(command)]


def prepare(folder):
    (folder / "state").mkdir()
    (folder / "key").write_text("ab" * 16)
    (folder / "short").write_text("1234")
    (folder / "empty").write_text("")
    (folder / "binary").write_bytes(b"a\0b\n")
    (folder / "bad-tool.conf").write_text("create_certs_tool = ./state\n")
    (folder / "link").symlink_to("target")
    (folder / "localca.conf").write_text("statedir = ca\nsigningkey = ca/key\nissuercert = ca/issuer\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    words = [[*COMMANDS[command], *more] for command, _name, more in LINES]
    found = run_all(tmp_path_factory.mktemp("runs"), words, prepare)
    return dict(zip([(command, name) for command, name, _words in LINES], found))


@pytest.fixture(scope="module")
def without_values(tmp_path_factory):
    words = [[*COMMANDS[command], spelled(command, name)] for command, name in MISSING]
    return dict(zip(MISSING, run_all(tmp_path_factory.mktemp("missing"), words, prepare)))


@pytest.mark.parametrize("line", [line[:2] for line in LINES], ids=" ".join)
def test_what_is_wrong_is_told_in_one_line(runs, line):
    command, _name = line
    ran = runs[line]
    if command in ("cuse", "nameless") and os.geteuid():
        assert ran.status in (1, 252, 255)
        return
    assert ran.status in STATUSES.get(command, {1}), ran
    said = ran.lines or [ran.out]  # of two messages swtpm_setup has the second kind on standard output
    assert len(said) == 1 or any(found.startswith(PAIRS) for found in said), ran
    assert "fault of this program" not in ran.err
    assert ran.changed == set(), ran


@pytest.mark.parametrize("line", MISSING, ids=" ".join)
def test_an_option_without_its_value_is_named(without_values, line):
    command, option = line
    ran = without_values[line]
    # swtpm_cuse and swtpm_ioctl say so, and go on without
    if command not in ("cuse", "ioctl"):
        assert ran.status == 1, ran
    assert f"{option}'" in ran.lines[0] or f"'{option[0]}'" in ran.lines[0], ran
    assert "requires an argument" in ran.lines[0]
    assert command == "cuse" or ran.changed == set(), ran


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_has_a_wrong_value_here(command):
    """Or is said to take any."""
    wrong, free = set(WRONG[command]), FREE.get(command, set())
    assert wrong | free == set(wanting(command))
    assert not wrong & free


@pytest.mark.parametrize("option", LISTS)
def test_every_word_of_a_comma_list_has_a_wrong_value_here(option):
    """Or is a boolean, text, or a file."""
    words = {(option, word) for word in words_of(option)}
    here = {pair for pair in (*IN_LISTS, *BOOLEANS_AND_TEXT) if pair[0] == option}
    assert here == words


def test_every_comma_list_is_here():
    plain = {"runas", "chroot", "print-info", "fd", "port"}
    assert set(LISTS) == set(wanting("socket")) - plain
