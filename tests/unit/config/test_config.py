"""The configuration: what is accepted, and the exact words for what is not."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.keys import Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH = "/etc/vtpm.d/vtpm0.toml"
ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534


def refused(text: str) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        loading.parse(text, PATH, "vtpm0")
    return caught.value


def test_an_empty_file_is_a_tpm_2_with_every_default():
    assert loading.parse("", PATH, "vtpm7") == loading.Config(
        instance="vtpm7",
        path=PATH,
        tpm=loading.TpmConfig(version="2.0", power_on="auto", startup="none"),
        device=loading.DeviceConfig(
            enabled=True, name="vtpm7", major=0, minor=0, owner="root", group="vtpm", mode=0o660
        ),
        socket=loading.SocketConfig(control="/run/vtpm/vtpm7/ctrl.sock", data="none", mssim="none", mode=0o660),
        fuse=loading.FuseConfig(enabled=False, directory="/run/vtpm/vtpm7/fs"),
        kernel_tpm=loading.KernelTpmConfig(enabled=False),
        state=loading.StateConfig("/var/lib/vtpm/vtpm7", *("none", "none", "none", "auto", "auto") * 2),
        provision=loading.ProvisionConfig(
            enabled=False,
            endorsement_keys=("rsa2048", "ecc-p384"),
            pcr_banks=("sha256", "sha384"),
            storage_key="none",
            idevid=False,
            iak=False,
            profile="none",
            certificates=True,
            ca="/var/lib/vtpm-ca",
            platform_manufacturer="python3-swtpm",
            platform_model="vtpm",
            platform_version="1",
            platform_serial="",
        ),
        control=loading.ControlConfig(group="vtpm-admin"),
        log=loading.LogConfig(level="info"),
    )


def test_every_value_is_taken():
    loaded = loading.parse(
        """
        [tpm]
        version = "1.2"
        power-on = "manual"
        startup = "deactivated"
        [device]
        name = "tpm-for_tests.1"
        major = 240
        minor = 1048575
        owner = "1000"
        group = "Domain.Users"
        mode = "600"
        [state]
        directory = "/srv//tpm/x/"
        [control]
        group = "wheel"
        [log]
        level = "debug"
        """,
        PATH,
        "vtpm0",
    )
    assert loaded.tpm == loading.TpmConfig("1.2", "manual", "deactivated")
    assert loaded.device == loading.DeviceConfig(True, "tpm-for_tests.1", 240, 1048575, "1000", "Domain.Users", 0o600)
    assert loaded.device.node == "/dev/tpm-for_tests.1"
    assert loaded.state.directory == "/srv/tpm/x"
    assert loaded.control.group == "wheel"
    assert loaded.log.level == "debug"


TABLES = "[tpm], [device], [socket], [fuse], [vtpm-proxy], [state], [provision], [control], [log]"

A_NAME = "1 to 87 letters, digits, dots, dashes and underscores, the first a letter or digit"
A_USER = "the name of a user, or a number up to 4294967294"
A_GROUP = "the name of a group, or a number up to 4294967294"
A_MODE = 'three octal digits in quotes, such as "0660"'
A_PORT = '"none" or "tcp:[HOST:]PORT" with a port below 65535'
A_SERIAL_NUMBER = "at most 64 letters, digits, spaces and '()+,-./:=?"
A_PATH = "an absolute path without .."
NOT_TOML = f"correct the TOML syntax (strings in quotes), then: vtpmctl check {PATH}"
#: Of late Python refuses to read or write numbers of more than 4300 digits.
HAS_DIGITS_LIMIT = hasattr(sys, "get_int_max_str_digits")
HUGE_INTEGER = "an integer of thousands of digits" if HAS_DIGITS_LIMIT else f"{str(16**5000 - 1)[:57]}..."

WRONG = [
    # tables
    ("[tmp]", f"found the table [tmp], expected one of {TABLES}", "write [tpm]"),
    ("[network]", f"found the table [network], expected one of {TABLES}", "remove it, or see vtpm.d(5)"),
    (
        "tpm = 3",
        "[tpm]: found the integer 3, expected a table",
        "write [tpm] on a line of its own and the keys below it",
    ),
    ("[[tpm]]", "[tpm]: found an array, expected a table", "write [tpm] on a line of its own and the keys below it"),
    (
        'version = "2.0"',
        f'found "version" outside of any table, expected one of {TABLES}',
        "write it below the line [tpm]",
    ),
    (
        "colour = 1",
        f'found "colour" outside of any table, expected one of {TABLES}',
        "write it below its table, see vtpm.d(5)",
    ),
    # keys
    (
        '[tpm]\npower_on = "auto"',
        "[tpm]: found the key power_on, expected version, power-on or startup",
        "write power-on instead of power_on",
    ),
    (
        '[tpm]\nmode = "0660"',
        "[tpm]: found the key mode, expected version, power-on or startup",
        "write it below the line [device]",
    ),
    ("[log]\ncolour = 1", "[log]: found the key colour, expected level", "remove colour, or see vtpm.d(5)"),
    ('[log]\n"a\\nb" = 1', "[log]: found the key a\\nb, expected level", "remove a\\nb, or see vtpm.d(5)"),
    # types
    (
        "[tpm]\nversion = 2.0",
        '[tpm] version: found the float 2.0, expected "1.2" or "2.0"',
        'write for example: version = "2.0"',
    ),
    (
        "[tpm]\npower-on = true",
        '[tpm] power-on: found the boolean true, expected "auto" or "manual"',
        'write for example: power-on = "auto"',
    ),
    (
        "[device]\nenabled = 0",
        "[device] enabled: found the integer 0, expected true or false",
        "write for example: enabled = true",
    ),
    (
        "[device]\nmajor = true",
        "[device] major: found the boolean true, expected an integer from 0 to 511",
        "write for example: major = 0",
    ),
    (
        '[device]\nmajor = "0"',
        '[device] major: found the string "0", expected an integer from 0 to 511',
        "write for example: major = 0",
    ),
    (
        "[device]\nminor = 1.0",
        "[device] minor: found the float 1.0, expected an integer from 0 to 1048575",
        "write for example: minor = 0",
    ),
    ("[device]\nname = []", f"[device] name: found an array, expected {A_NAME}", 'write for example: name = "vtpm0"'),
    (
        "[device]\nowner = 0",
        f"[device] owner: found the integer 0, expected {A_USER}",
        'write for example: owner = "root"',
    ),
    ("[device.group]", f"[device] group: found a table, expected {A_GROUP}", 'write for example: group = "vtpm"'),
    (
        "[device]\nmode = 660",
        f"[device] mode: found the integer 660, expected {A_MODE}",
        'write for example: mode = "0660"',
    ),
    (
        "[state]\ndirectory = 1979-05-27",
        f"[state] directory: found the date or time 1979-05-27, expected {A_PATH}",
        'write for example: directory = "/var/lib/vtpm/vtpm0"',
    ),
    # values
    (
        '[tpm]\nversion = "3.0"',
        '[tpm] version: found "3.0", expected "1.2" or "2.0"',
        'write for example: version = "2.0"',
    ),
    (
        '[tpm]\nstartup = "Clear"',
        '[tpm] startup: found "Clear", expected "none", "clear", "state" or "deactivated"',
        'write for example: startup = "none"',
    ),
    (
        "[device]\nmajor = 512",
        "[device] major: found 512, expected an integer from 0 to 511",
        "write for example: major = 0",
    ),
    (
        "[device]\nmajor = -1",
        "[device] major: found -1, expected an integer from 0 to 511",
        "write for example: major = 0",
    ),
    (
        "[device]\nminor = 1048576",
        "[device] minor: found 1048576, expected an integer from 0 to 1048575",
        "write for example: minor = 0",
    ),
    (
        '[device]\nname = "../null"',
        f'[device] name: found "../null", expected {A_NAME}',
        'write for example: name = "vtpm0"',
    ),
    ('[device]\nname = "a/b"', f'[device] name: found "a/b", expected {A_NAME}', 'write for example: name = "vtpm0"'),
    ('[device]\nname = ""', f'[device] name: found "", expected {A_NAME}', 'write for example: name = "vtpm0"'),
    (
        f'[device]\nname = "{"a" * 88}"',
        f'[device] name: found "{"a" * 57}...", expected {A_NAME}',
        'write for example: name = "vtpm0"',
    ),
    ('[device]\nowner = ""', f'[device] owner: found "", expected {A_USER}', 'write for example: owner = "root"'),
    (
        '[device]\ngroup = "a\\nb"',
        f'[device] group: found "a\\nb", expected {A_GROUP}',
        'write for example: group = "vtpm"',
    ),
    (
        '[device]\ngroup = "a:b"',
        f'[device] group: found "a:b", expected {A_GROUP}',
        'write for example: group = "vtpm"',
    ),
    (
        '[device]\ngroup = "4294967295"',
        f'[device] group: found "4294967295", expected {A_GROUP}',
        'write for example: group = "vtpm"',
    ),
    (
        f'[device]\nowner = "{"9" * 256}"',
        f'[device] owner: found "{"9" * 57}...", expected {A_USER}',
        'write for example: owner = "root"',
    ),
    (
        f'[device]\nowner = "{"a" * 257}"',
        f'[device] owner: found "{"a" * 57}...", expected {A_USER}',
        'write for example: owner = "root"',
    ),
    (
        '[device]\nmode = "rw-rw----"',
        f'[device] mode: found "rw-rw----", expected {A_MODE}',
        'write for example: mode = "0660"',
    ),
    ('[device]\nmode = "4755"', f'[device] mode: found "4755", expected {A_MODE}', 'write for example: mode = "0660"'),
    (
        '[socket]\nmssim = "/run/mssim"',
        f'[socket] mssim: found "/run/mssim", expected {A_PORT}',
        'write for example: mssim = "none"',
    ),
    (
        '[socket]\nmssim = "tcp:65535"',
        f'[socket] mssim: found "tcp:65535", expected {A_PORT}',
        'write for example: mssim = "none"',
    ),
    (
        '[socket]\nmssim = "tcp:port"',
        f'[socket] mssim: found "tcp:port", expected {A_PORT}',
        'write for example: mssim = "none"',
    ),
    (
        '[state]\ndirectory = "state"',
        f'[state] directory: found "state", expected {A_PATH}',
        'write for example: directory = "/var/lib/vtpm/vtpm0"',
    ),
    (
        '[state]\ndirectory = "/a/../b"',
        f'[state] directory: found "/a/../b", expected {A_PATH}',
        'write for example: directory = "/var/lib/vtpm/vtpm0"',
    ),
    (
        '[state]\ndirectory = "/a\\u0000"',
        f'[state] directory: found "/a\\x00", expected {A_PATH}',
        'write for example: directory = "/var/lib/vtpm/vtpm0"',
    ),
    (
        '[control]\ngroup = "\\u0085"',
        f'[control] group: found "\\x85", expected {A_GROUP}',
        'write for example: group = "vtpm-admin"',
    ),
    (
        '[provision]\nplatform-serial = "SN_1@b*c"',
        f'[provision] platform-serial: found "SN_1@b*c", expected {A_SERIAL_NUMBER}',
        'write for example: platform-serial = ""',
    ),
    (
        f'[provision]\nplatform-serial = "{"1" * 65}"',
        f'[provision] platform-serial: found "{"1" * 57}...", expected {A_SERIAL_NUMBER}',
        'write for example: platform-serial = ""',
    ),
    *(
        (
            f'[provision]\nplatform-{name} = ""',
            f'[provision] platform-{name}: found "", expected 1 to 128 printable ASCII characters',
            f'write for example: platform-{name} = "{default}"',
        )
        for name, default in (("manufacturer", "python3-swtpm"), ("model", "vtpm"), ("version", "1"))
    ),
    (
        '[log]\nlevel = "loud"',
        '[log] level: found "loud", expected "debug", "info", "notice", "warning" or "error"',
        'write for example: level = "info"',
    ),
    # values that do not go together
    (
        '[vtpm-proxy]\nenabled = true\n[tpm]\npower-on = "manual"',
        '[vtpm-proxy] enabled: found true with power-on = "manual", expected false: the kernel wants an answer at once',
        'write power-on = "auto"',
    ),
    (
        '[device]\nenabled = false\n[socket]\ncontrol = "none"',
        "nothing leads to this TPM: none of [device], [fuse] and [vtpm-proxy] is enabled, and [socket] has no address",
        "enable one of them",
    ),
    (
        '[tpm]\nstartup = "deactivated"',
        '[tpm] startup: found "deactivated", expected "none", "clear" or "state" for a TPM 2.0',
        'write startup = "clear", or version = "1.2"',
    ),
    (
        "[device]\nminor = 0x" + "f" * 5000,
        f"[device] minor: found {HUGE_INTEGER}, expected an integer from 0 to 1048575",
        "write for example: minor = 0",
    ),
    ("a = " + "[" * 100000, "nested too deeply", NOT_TOML),
]

#: TOML itself, with the line, and what stands behind the words of the parser, Python's own or tomli's, of whatever
#: version.
SYNTAX = [
    ("[tpm]\nversion = 2.x", "line 2, column 12", ""),
    ("[tpm]\n\nversion", "line 3", ""),
    ('[tpm]\nversion = "1.2"\nversion = "2.0"\n', "line 3, column 16", ""),
    ('[log]\nlevel = "info', "line 2", ""),
    *([("[log]\nlevel = " + "1" * 5000, "line 2", "")] if HAS_DIGITS_LIMIT else []),
    # characters that look like others
    ("[tpm]\n\ufeff[device]", "line 2, column 1", ", at the character U+FEFF (zero width no-break space)"),
    ('[tpm]\n\u00a0version = "2.0"', "line 2, column 1", ", at the character U+00A0 (no-break space)"),
    (
        "[tpm]\nversion = \u201c2.0\u201d",
        "line 2, column 11",
        ", at the character U+201C (left double quotation mark)",
    ),
    ('[tpm]\nversion\u200b = "2.0"', "line 2, column 8", ", at the character U+200B (zero width space)"),
]


def words_of_the_parser(text: str) -> str:
    """Why it refuses the text; cut as values are."""
    with pytest.raises(ValueError, match=r".") as caught:
        tomllib.loads(text)
    words = str(caught.value).partition(" (at ")[0]
    return words if len(words) <= 60 else words[:57] + "..."


@pytest.mark.parametrize(("text", "message", "remedy"), WRONG, ids=[text[:40] for text, _, _ in WRONG])
def test_what_is_wrong_is_named_with_what_is_expected(text, message, remedy):
    error = refused(text)
    assert (error.code, error.message, error.remedy) == (Code.CONFIG_INVALID, f"{PATH}: {message}", remedy)


@pytest.mark.parametrize(("text", "where", "seen"), SYNTAX, ids=[text[:40] for text, _, _ in SYNTAX])
def test_what_is_not_toml_is_told_with_its_line(text, where, seen):
    error, words = refused(text), words_of_the_parser(text)
    assert (error.code, error.message) == (Code.CONFIG_INVALID, f"{PATH}: {where}: {words}{seen}")
    assert error.remedy == NOT_TOML


@given(st.text(max_size=300))
def test_any_text_parses_or_is_refused(text):
    parse_or_refuse(text)


def toml_values() -> "st.SearchStrategy[str]":
    odd = [
        '"\\u0000"',
        "[]",
        "{}",
        "1979-05-27T07:32:00",
        "inf",
        "nan",
        "-0",
        "0x7fffffffffffffffff",
        '"""\na\n"""',
        "true",
    ]
    return st.one_of(
        st.sampled_from([*odd, '"1.2"', '"2.0"', '"auto"', '"0660"', '"/x"', '"info"', '"clear"', '"state"']),
        st.integers().map(str),
        st.text(
            st.characters(min_codepoint=32, max_codepoint=0x2FF).filter(lambda char: char not in '"\\\x7f'), max_size=40
        ).map('"{}"'.format),
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from([table.name for table in loading.SCHEMA]),
            st.sampled_from([key.name for table in loading.SCHEMA for key in table.keys]),
            toml_values(),
        ),
        max_size=6,
    )
)
def test_any_keys_with_any_values_parse_or_are_refused(settings):
    parse_or_refuse("\n".join(f"{table}.{key} = {value}" for table, key, value in settings))


def parse_or_refuse(text: str) -> None:
    loaded, refusal = None, None
    try:
        loaded = loading.parse(text, PATH, "vtpm0")
    except VtpmError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code is Code.CONFIG_INVALID
        assert refusal.remedy
        assert (refusal.message + refusal.remedy).isprintable()
        assert len(refusal.message) < 400
    if loaded is not None:
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]{0,86}", loaded.device.name, re.ASCII)
        assert 0 <= loaded.device.mode <= 0o777
        assert loaded.state.directory.startswith("/")
        assert loaded.tpm.version in ("1.2", "2.0")


# --- names of instances ----------------------------------------------------------------------------------------------


def test_the_default_path():
    assert loading.default_path("vtpm0") == "/etc/vtpm.d/vtpm0.toml"


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "-x", "a/b", "../../etc/passwd", "a b", "a\n", "é", "a" * 88, "vtpm@0"]
)
def test_no_other_name_becomes_a_path(name):
    for use in (loading.default_path, loading.check_instance, lambda instance: loading.parse("", PATH, instance)):
        with pytest.raises(VtpmError) as caught:
            use(name)
        assert caught.value.code is Code.USAGE
        assert caught.value.message.isprintable()


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def load_error(path: object) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        loading.load(str(path), "vtpm0")
    assert caught.value.remedy
    return caught.value


def test_a_file_is_loaded(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_text('[tpm]\nversion = "1.2"\n')
    loaded = loading.load(str(file), "vtpm0")
    assert (loaded.tpm.version, loaded.path) == ("1.2", str(file))


def test_a_byte_order_mark_at_the_beginning_says_nothing(tmp_path):
    """As some editors write it; the parser calls it an invalid statement."""
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b'\xef\xbb\xbf[tpm]\r\nversion = "1.2"\r\n')
    assert loading.load(str(file), "vtpm0").tpm.version == "1.2"
    file.write_bytes(b"\xff\xfe[\0t\0p\0m\0]\0")
    assert load_error(file).message == f"{file}: line 1: found the byte 0xff, expected text in UTF-8"


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 30000) + " = 1",  # took 20 s
        "[" + ".".join(["a"] * 30000) + "]",
        "x = {" + ", ".join(f"k{number}.a.b.c = 1" for number in range(3500)) + "}",
        "\n".join(".".join([f"k{number}"] + ["a"] * 150) + " = 1" for number in range(200)),
        "[" * 30000,
        "x = " + "[" * 30000,
        "a = 1\n" * 10000,
    ],
)
def test_no_file_takes_the_parser_long(text):
    assert len(text) < loading.FILE_MAX_BYTES
    start = time.process_time()
    with pytest.raises(VtpmError):
        loading.parse(text, "/etc/vtpm.d/vtpm0.toml", "vtpm0")
    assert time.process_time() - start < 2


def test_dots_in_values_and_remarks_are_no_parts_of_keys(tmp_path):
    path = "/" + ".".join(["a"] * 150)
    loaded = loading.parse(f'# {"." * 500}\n[state]\ndirectory = "{path}"\n', "/etc/vtpm.d/vtpm0.toml", "vtpm0")
    assert loaded.state.directory == path


def test_a_missing_file(tmp_path):
    error = load_error(tmp_path / "vtpm0.toml")
    assert error.code is Code.CONFIG_MISSING
    assert error.message == f"{tmp_path}/vtpm0.toml does not exist"
    assert error.remedy == f"create it; an empty file is a TPM 2.0 at /dev/vtpm0: touch {tmp_path}/vtpm0.toml"
    (tmp_path / "file").touch()
    assert load_error(tmp_path / "file" / "vtpm0.toml").code is Code.CONFIG_MISSING
    folder = tmp_path / "of me"
    assert load_error(folder / "vtpm0.toml").remedy == (
        "create it; an empty file is a TPM 2.0 at /dev/vtpm0:"
        f" install -d -m 0755 '{folder}' && touch '{folder}/vtpm0.toml'"
    )


def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        file = Path(directory) / "vtpm0.toml"
        file.touch(mode=0o000)
        with unprivileged():
            error = load_error(file)
    assert error.code is Code.CONFIG_UNREADABLE
    assert error.message == f"{file}: Permission denied"
    assert error.remedy == "run this as root"  # /etc/shadow, named by mistake, is not to be made readable


def test_what_is_no_file(tmp_path):
    error = load_error(tmp_path)
    assert (error.code, error.message) == (Code.CONFIG_UNREADABLE, f"{tmp_path}: found a directory, expected a file")
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    assert load_error(fifo).message == f"{fifo}: found a special file, expected a file"
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    assert load_error(loop).code is Code.CONFIG_UNREADABLE


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b"[tpm]\n# \xe9t\xe9\n")
    error = load_error(file)
    assert error.code is Code.CONFIG_INVALID
    assert error.message == f"{file}: line 2: found the byte 0xe9, expected text in UTF-8"


def test_a_file_that_does_not_end(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b"#" * (64 * 1024))
    loading.load(str(file), "vtpm0")
    file.write_bytes(b"#" * (64 * 1024 + 1))
    error = load_error(file)
    says = f"{file}: found more than 65536 bytes, expected a configuration of at most that"
    assert (error.code, error.message) == (Code.CONFIG_INVALID, says)


def test_failures_leave_no_descriptor_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_error(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_instances_are_the_toml_files(tmp_path):
    for name in ("b.toml", "a.toml", "a.toml.rpmnew", ".hidden.toml", "with space.toml", "README"):
        (tmp_path / name).touch()
    assert loading.instances(str(tmp_path)) == ["a", "b"]
    with pytest.raises(VtpmError) as caught:
        loading.instances(str(tmp_path / "none"))
    assert caught.value.code is Code.CONFIG_MISSING


# --- what the daemon asks further ------------------------------------------------------------------------------------


def test_changes_say_what_a_reload_takes_over():
    old = loading.parse("", PATH, "vtpm0")
    new = loading.parse('[log]\nlevel = "debug"\n[control]\ngroup = "wheel"\n[device]\nmode = "0600"\n', PATH, "vtpm0")
    assert loading.changes(old, old) == []
    assert loading.changes(old, new) == [
        loading.Change("device", "mode", reloads=False),
        loading.Change("control", "group", reloads=True),
        loading.Change("log", "level", reloads=True),
    ]


def test_accounts_are_looked_up():
    assert (loading.user_id("root"), loading.user_id("1234")) == (0, 1234)
    assert (loading.group_id("root"), loading.group_id("1234")) == (0, 1234)
    for look_up, kind in ((loading.user_id, "user"), (loading.group_id, "group")):
        with pytest.raises(VtpmError) as caught:
            look_up("no-such-account")
        assert (caught.value.code, caught.value.message) == (Code.USER_MISSING, f"there is no {kind} no-such-account")


#: As directories and containers have them: with a domain before or behind, a machine's `$`, 44 characters, in French.
ACCOUNTS = [
    "domain users",
    "CORP\\admins",
    "admins@corp.example",
    "svc$",
    "7zip",
    "a" * 44,
    "équipe",
    "-x",
    "$(id)",
    "1000660000",
]


@pytest.mark.parametrize("name", [*ACCOUNTS, "0", "4294967294"])
def test_any_account_that_a_database_may_know_may_be_named(name):
    text = f"[device]\nowner = '{name}'\ngroup = '{name}'\n[control]\ngroup = '{name}'\n"
    loaded = loading.parse(text, PATH, "vtpm0")
    assert (loaded.device.owner, loaded.device.group, loaded.control.group) == (name, name, name)


@pytest.mark.parametrize("name", ACCOUNTS)
def test_an_account_is_what_the_database_says(monkeypatch, name):
    number = 1000660000
    monkeypatch.setattr("pwd.getpwnam", lambda asked: SimpleNamespace(pw_uid={name: number}[asked]))
    monkeypatch.setattr("grp.getgrnam", lambda asked: SimpleNamespace(gr_gid={name: number}[asked]))
    assert loading.user_id(name) == loading.group_id(name) == number


def test_the_remedy_for_an_unknown_account_can_be_typed():
    with pytest.raises(VtpmError) as caught:
        loading.group_id("domain $(id) users")
    assert caught.value.remedy == (
        "see whether it is known: getent group 'domain $(id) users';"
        " name another, or make it: groupadd --system 'domain $(id) users'"
    )


def test_digits_of_other_scripts_are_a_name():
    """They are not numbers to chown(2), though they are to Python."""
    for text in ("\u00b2", "\u0661"):
        with pytest.raises(VtpmError) as caught:
            loading.group_id(text)
        assert caught.value.code is Code.USER_MISSING


@pytest.mark.parametrize("name", ["3f1c1c5e-6a0b-4a57-9c22-7d8a41f0a8d3", "a" * 87])
def test_an_instance_may_have_the_name_of_a_machine(name):
    loaded = loading.parse("", f"/etc/vtpm.d/{name}.toml", name)
    assert loaded.device.name == name
    assert len(loaded.socket.control) <= 107


def test_a_name_that_is_too_long_is_told_why():
    with pytest.raises(VtpmError) as caught:
        loading.check_instance("a" * 88)
    expected = "instance name: found 88 characters, expected at most 87: the path of its control socket may have 107"
    assert caught.value.message == expected


def test_defaults_satisfy_their_own_rules():
    for table in loading.SCHEMA:
        for key in table.keys:
            default = key.default_for("vtpm0")
            assert type(default) is key.kind.type
            key.kind.read(default)


@pytest.mark.parametrize("name", ["vtpm0", "vtpm1"])
def test_the_examples_show_every_key_with_its_default(name):
    text = (ROOT / f"etc/vtpm.d/{name}.toml").read_text()
    loading.parse(text, PATH, name)
    shown = re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE)
    loaded = loading.parse(re.sub(r"^(version|startup) = .*", "", shown, flags=re.MULTILINE), PATH, name)
    assert loaded == loading.parse("", PATH, name)
    for table in loading.SCHEMA:
        assert f"\n[{table.name}]\n" in text
        for key in table.keys:
            assert re.search(rf"^#?{key.name} = ", text, re.MULTILINE), key.name


# --- keys ------------------------------------------------------------------------------------------------------------


def state(text: str) -> loading.StateConfig:
    return loading.parse(f"[state]\n{text}", PATH, "vtpm0").state


@pytest.mark.parametrize("prefix", ["", "migration-"])
@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", None),
        ('{}key-credential = "state-key"', Source("credential", "state-key", "hex")),
        ('{}key-credential = "pass.1"\n{}key-format = "sha512"', Source("credential", "pass.1", "sha512")),
        ('{}key-file = "/etc//k"\n{}key-mode = "aes-256-cbc"', Source("file", "/etc/k", "hex", "aes-256-cbc")),
        ('{}key-file = "/k"\n{}key-format = "binary"', Source("file", "/k", "binary")),
        ('{}passphrase-file = "/p"', Source("file", "/p", "pbkdf2")),
        ('{}passphrase-file = "/p"\n{}key-format = "sha512"', Source("file", "/p", "sha512")),
    ],
)
def test_a_key_has_a_source(prefix, text, source):
    found = state(text.replace("{}", prefix))
    assert (found.migration_key if prefix else found.key) == source
    assert (found.key if prefix else found.migration_key) is None


@pytest.mark.parametrize(
    "key", ["key-file", "key-credential", "passphrase-file", "migration-key-file", "migration-key-credential"]
)
@pytest.mark.parametrize("value", ["5ec4e7aa" * 4, "5EC4E7aa" * 8, "0x" + "5ec4e7aa" * 4])
def test_a_key_in_the_place_of_its_place_is_not_shown(key, value):
    with pytest.raises(VtpmError) as caught:
        state(f'{key} = "{value}"')
    expected = A_CREDENTIAL if "credential" in key else A_FILE
    found = f"{64 if len(value) == 64 else 32} hex digits, which are not shown"
    assert caught.value.message == f"{PATH}: [state] {key}: found {found}, expected {expected}"
    assert caught.value.remedy == f'write for example: {key} = "none"'


A_FILE = '"none" or an absolute path without ..'
A_CREDENTIAL = '"none" or the name of a credential: letters, digits, dots, dashes and underscores, the first neither a dot nor a dash'
NAME_A_KEY = "name one: {}key-credential, {}key-file or {}passphrase-file"

CONTRADICTIONS = [
    (
        '{}key-file = "/k"\n{}passphrase-file = "/p"',
        "found {}key-file and {}passphrase-file, expected one of them",
        "remove all but one",
    ),
    (
        '{}key-file = "/k"\n{}key-credential = "c"',
        "found {}key-credential and {}key-file, expected one of them",
        "remove all but one",
    ),
    ('{}key-format = "hex"', '{}key-format: found "hex", but no key', NAME_A_KEY),
    ('{}key-mode = "aes-cbc"', '{}key-mode: found "aes-cbc", but no key', NAME_A_KEY),
    (
        '{}passphrase-file = "/p"\n{}key-format = "hex"',
        '{}key-format: found "hex", expected "auto", "pbkdf2" or "sha512" for a passphrase',
        "write {}key-file instead of {}passphrase-file, or another format",
    ),
    ('{}key-file = "k"', f'{{}}key-file: found "k", expected {A_FILE}', 'write for example: {}key-file = "none"'),
    (
        '{}key-file = "/a/../k"',
        f'{{}}key-file: found "/a/../k", expected {A_FILE}',
        'write for example: {}key-file = "none"',
    ),
    *(
        (
            f'{{}}key-credential = "{name}"',
            f'{{}}key-credential: found "{name}", expected {A_CREDENTIAL}',
            'write for example: {}key-credential = "none"',
        )
        for name in ("../k", ".k")
    ),
    (
        '{}key-mode = "aes-128-cbc"',
        '{}key-mode: found "aes-128-cbc", expected "auto", "aes-cbc" or "aes-256-cbc"',
        'write for example: {}key-mode = "auto"',
    ),
]


@pytest.mark.parametrize("prefix", ["", "migration-"])
@pytest.mark.parametrize(("text", "message", "remedy"), CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(prefix, text, message, remedy):
    text, message, remedy = (words.replace("{}", prefix) for words in (text, message, remedy))
    with pytest.raises(VtpmError) as caught:
        state(text)
    error = caught.value
    assert (error.code, error.message, error.remedy) == (Code.CONFIG_INVALID, f"{PATH}: [state] {message}", remedy)


def test_every_character_of_a_serial_number():
    serial = "AZaz09 '()+,-./:=?"
    assert (
        loading.parse(f'[provision]\nplatform-serial = "{serial}"', PATH, "vtpm0").provision.platform_serial == serial
    )
