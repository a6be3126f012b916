"""The configuration: what is accepted, and the exact words for what is not."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH = "/etc/vtpm.d/vtpm0.toml"
ROOT = Path(__file__).resolve().parents[3]


def refused(text: str) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        loading.parse(text, PATH, "vtpm0")
    return caught.value


def test_an_empty_file_is_a_tpm_2_with_every_default():
    assert loading.parse("", PATH, "vtpm7") == loading.Config(
        instance="vtpm7",
        path=PATH,
        tpm=loading.TpmConfig(
            version="2.0", power_on="auto", startup="clear", disable_auto_shutdown=False, buffer_size=0, profile="none"
        ),
        device=loading.DeviceConfig(
            enabled=True, name="vtpm7", major=0, minor=0, owner="root", group="vtpm", mode=0o660
        ),
        socket=loading.SocketConfig(
            control="/run/vtpm/vtpm7/ctrl.sock", data="none", managed="none", mssim="none", mode=0o660
        ),
        fuse=loading.FuseConfig(enabled=False, directory="/run/vtpm/vtpm7/fs"),
        kernel_tpm=loading.KernelTpmConfig(enabled=False),
        state=loading.StateConfig(
            *("/var/lib/vtpm/vtpm7", "none", 0o600, False, True, True), *("none", "none", "none", "auto", "auto") * 2
        ),
        migration=loading.MigrationConfig(incoming=False, release_lock=False),
        provision=loading.ProvisionConfig(
            enabled=False,
            endorsement_keys=("rsa2048", "ecc-p384"),
            pcr_banks=("sha256", "sha384"),
            storage_key="none",
            idevid=False,
            iak=False,
            certificates=True,
            ca="/var/lib/vtpm-ca",
            platform_manufacturer="python3-swtpm",
            platform_model="vtpm",
            platform_version="1",
            platform_serial="",
        ),
        control=loading.ControlConfig(group="vtpm-admin"),
        log=loading.LogConfig(level="info", pcap="none"),
    )


def test_every_value_is_taken():
    loaded = loading.parse(
        """
        [tpm]
        version = "1.2"
        power-on = "manual"
        startup = "deactivated"
        disable-auto-shutdown = true
        buffer-size = 3072
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
    assert loaded.tpm == loading.TpmConfig("1.2", "manual", "deactivated", True, 3072, "none")
    assert loaded.device == loading.DeviceConfig(True, "tpm-for_tests.1", 240, 1048575, "1000", "Domain.Users", 0o600)
    assert loaded.device.node == "/dev/tpm-for_tests.1"
    assert loaded.state.directory == "/srv/tpm/x"
    assert loaded.control.group == "wheel"
    assert loaded.log.level == "debug"


def test_a_profile_is_said_in_three_ways():
    for written in ('"custom:lab"', '"/etc/vtpm.d/lab.json"', """'{"Name":"custom","Algorithms":"rsa,a/b"}'"""):
        assert loading.parse(f"[tpm]\nprofile = {written}", PATH, "vtpm0").tpm.profile == written[1:-1]


TABLES = "[tpm], [device], [socket], [fuse], [vtpm-proxy], [state], [migration], [provision], [control], [log]"

A_NAME = "1 to 87 letters, digits, dots, dashes and underscores, the first a letter or digit"
A_USER = "the name of a user, or a number up to 4294967294"
A_GROUP = "the name of a group, or a number up to 4294967294"
A_MODE = 'three octal digits in quotes, such as "0660"'
A_PORT = '"none" or "tcp:[HOST:]PORT" with a port below 65535'
A_SERIAL_NUMBER = "at most 64 letters, digits, spaces and '()+,-./:=?"
A_PROFILE = '"none", the name of a profile of libtpms, one JSON object, or an absolute path without ..'
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
        "[tpm]: found the key power_on, expected version, power-on, startup, disable-auto-shutdown, buffer-size or profile",
        "write power-on instead of power_on",
    ),
    (
        '[tpm]\nmode = "0660"',
        "[tpm]: found the key mode, expected version, power-on, startup, disable-auto-shutdown, buffer-size or profile",
        "write it below the line [device]",
    ),
    ("[log]\ncolour = 1", "[log]: found the key colour, expected level or pcap", "remove colour, or see vtpm.d(5)"),
    ('[log]\n"a\\nb" = 1', "[log]: found the key a\\nb, expected level or pcap", "remove a\\nb, or see vtpm.d(5)"),
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
        'write for example: startup = "clear"',
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
    *(
        (
            f"[tpm]\nprofile = '{profile}'",
            f'[tpm] profile: found "{shown}", expected {A_PROFILE}',
            'write for example: profile = "none"',
        )
        for profile, shown in (
            ("a b", "a b"),
            ('{"Name": 1', '{"Name": 1'),
            ("{" * 3000, "{" * 57 + "..."),
            ('["Name"]', '["Name"]'),
        )
    ),
    # values that do not go together
    (
        '[tpm]\nversion = "1.2"\nprofile = "null"',
        '[tpm] profile: found "null", expected "none": a TPM 1.2 has no profiles',
        'remove it, or write version = "2.0" in [tpm]',
    ),
    (
        '[vtpm-proxy]\nenabled = true\n[tpm]\npower-on = "manual"',
        '[vtpm-proxy] enabled: found true with power-on = "manual", expected false: the kernel wants an answer at once',
        'write power-on = "auto"',
    ),
    (
        '[state]\nfile = "/dev/vg/vm1"\ndirectory = "/srv/vm1"',
        '[state] file: found "/dev/vg/vm1" with directory = "/srv/vm1", expected one of them',
        "remove the one that the state is not in",
    ),
    (
        '[state]\nfile = "/srv/vm1"\nbackup = true',
        "[state] backup: found true with file, expected false: a file has room for one generation",
        "remove one of them",
    ),
    (
        '[state]\nfile = "/srv/vm1"\n[provision]\nenabled = true',
        "[provision] enabled: found true with file in [state], expected false: such a TPM is made elsewhere",
        "write enabled = false, and put the TPM into the file: vtpm.d(5), [state]",
    ),
    (
        '[device]\nenabled = false\n[socket]\ncontrol = "none"',
        "nothing leads to this TPM: none of [device], [fuse] and [vtpm-proxy] is enabled, and [socket] has no address",
        "enable one of them",
    ),
    (
        '[tpm]\nversion = "1.2"\n[socket]\nmanaged = "/run/managed"',
        '[socket] managed: found "/run/managed", expected "none": a TPM 1.2 has no resource manager',
        'remove it, or write version = "2.0" in [tpm]',
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


def test_changes_say_what_a_reload_takes_over():
    old = loading.parse("", PATH, "vtpm0")
    new = loading.parse('[log]\nlevel = "debug"\n[control]\ngroup = "wheel"\n[device]\nmode = "0600"\n', PATH, "vtpm0")
    assert loading.changes(old, old) == []
    assert loading.changes(old, new) == [
        loading.Change("device", "mode", reloads=False),
        loading.Change("control", "group", reloads=True),
        loading.Change("log", "level", reloads=True),
    ]


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


def test_every_character_of_a_serial_number():
    serial = "AZaz09 '()+,-./:=?"
    assert (
        loading.parse(f'[provision]\nplatform-serial = "{serial}"', PATH, "vtpm0").provision.platform_serial == serial
    )
