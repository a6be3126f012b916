"""TPM headers, the names of commands, and return codes in words."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import command_codes, return_codes, tpm_header
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import InfoFlag
from swtpm_svc.wire.results import TpmRc, TpmResult, without_subject

LIBTPMS_ERRORS = Path("/usr/include/libtpms/tpm_error.h")
LIBTPMS_LIBRARY = LIBTPMS_ERRORS.with_name("tpm_library.h")


def h(text):
    return bytes.fromhex(text)


# --- headers
# -----------------------------------------------------------------------------------------------------------------


def test_headers_of_both_versions():
    get_random = tpm_header.encode_command(tpm_header.ST_NO_SESSIONS, 0x17B, h("0008"))
    assert get_random == h("8001 0000000c 0000017b 0008")
    assert tpm_header.decode_header(memoryview(get_random)) == tpm_header.Header(tpm_header.ST_NO_SESSIONS, 12, 0x17B)
    startup_12 = h("00c1 0000000c 00000099 0001")
    assert tpm_header.decode_header(startup_12) == tpm_header.Header(tpm_header.TAG_RQU_COMMAND, 12, 0x99)


def test_responses():
    assert tpm_header.encode_response(tpm_header.ERROR_TAG["1.2"], 0x26) == h("00c4 0000000a 00000026")
    assert tpm_header.encode_response(tpm_header.ERROR_TAG["2.0"], 0x101) == h("8001 0000000a 00000101")
    assert (
        tpm_header.encode_response(tpm_header.ST_SESSIONS, 0, memoryview(b"body"))
        == h("8002 0000000e 00000000") + b"body"
    )


@given(st.binary(max_size=20))
def test_any_bytes_have_a_header_or_are_refused(data):
    with suppress(ProtocolError):
        header = tpm_header.decode_header(data)
        assert tpm_header.encode_command(header.tag, header.code)[:2] == data[:2]
        assert header.size.to_bytes(4, "big") + header.code.to_bytes(4, "big") == data[2:10]
        return
    assert len(data) < tpm_header.HEADER_SIZE


# --- names of commands
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "code", "name"),
    [
        ("2.0", 0x11F, "TPM2_NV_UndefineSpaceSpecial"),
        ("2.0", 0x131, "TPM2_CreatePrimary"),
        ("2.0", 0x144, "TPM2_Startup"),
        ("2.0", 0x17B, "TPM2_GetRandom"),
        ("2.0", 0x182, "TPM2_PCR_Extend"),
        ("2.0", 0x198, "TPM2_ACT_SetTimeout"),
        ("2.0", 0x65, "unknown command 0x00000065"),
        ("2.0", 0x20000000, "vendor command 0x20000000"),
        ("1.2", 0x0A, "TPM_OIAP"),
        ("1.2", 0x14, "TPM_Extend"),
        ("1.2", 0x46, "TPM_GetRandom"),
        ("1.2", 0x65, "TPM_GetCapability"),
        ("1.2", 0x99, "TPM_Startup"),
        ("1.2", 0xF2, "TPM_TickStampBlob"),
        ("1.2", 0x4000000A, "TSC_PhysicalPresence"),
        ("1.2", 0x17B, "unknown command 0x0000017b"),
        ("1.2", 0x20000001, "vendor command 0x20000001"),
        ("1.2", 0x20001000, "vtpm_proxy SetLocality"),
        ("2.0", 0x20001000, "vtpm_proxy SetLocality"),
    ],
)
def test_names(version, code, name):
    assert command_codes.name(version, code) == name


# TPM Main Part 2 level 2 revision 116, section 17: the ordinals that are assigned.
ORDINAL_RUNS_12 = [
    (0x0A, 0x25), (0x28, 0x33), (0x3C, 0x41), (0x46, 0x47), (0x50, 0x50), (0x52, 0x54), (0x5A, 0x5E), (0x64, 0x66), (0x6E, 0x75),
    (0x78, 0x7A), (0x7C, 0x83), (0x85, 0x86), (0x8C, 0x8D), (0x96, 0x9A), (0xA0, 0xA3), (0xAA, 0xAA), (0xB4, 0xBA), (0xC8, 0xC8),
    (0xCC, 0xD2), (0xD4, 0xD6), (0xD8, 0xD8), (0xDB, 0xE0), (0xE6, 0xE8), (0xF1, 0xF2), (0x4000000A, 0x4000000B),
]  # fmt: skip


def test_the_tables_are_complete():
    """Part 2 rev.

    1.59: 0x11F to 0x198 but for 5 numbers that are not assigned. TPM Main Part 2: 123 ordinals and 2 TSC_.
    """
    not_assigned = {0x123, 0x15A, 0x15F, 0x166, 0x175}
    assert {code for code in command_codes.COMMAND_CODES_20 if code < 0x199} == {*range(0x11F, 0x199)} - not_assigned
    assert len(command_codes.ORDINALS_12) == 125
    assert set(command_codes.ORDINALS_12) == {
        code for first, last in ORDINAL_RUNS_12 for code in range(first, last + 1)
    }
    for table in (command_codes.COMMAND_CODES_20, command_codes.ORDINALS_12):
        assert len(set(table.values())) == len(table)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (command_codes.Ordinal, command_codes.ORDINALS_12),
        (command_codes.CommandCode, command_codes.COMMAND_CODES_20),
    ],
)
def test_commands_that_are_sent_have_the_names_that_they_have_in_words(kind, names):
    for code in kind:
        assert code.name.replace("_", "") == names[code].replace("_", "").upper()


def test_long_running_commands():
    for version, table in (("1.2", command_codes.ORDINALS_12), ("2.0", command_codes.COMMAND_CODES_20)):
        assert command_codes.LONG_RUNNING[version] <= set(table)
    assert {0x131, 0x153, 0x191, 0x143} <= command_codes.LONG_RUNNING["2.0"]
    assert {0x1F, 0x79, 0x78, 0x0D, 0x50} <= command_codes.LONG_RUNNING["1.2"]
    frequent = {
        "GetRandom",
        "PCR_Read",
        "PCR_Extend",
        "PcrRead",
        "Extend",
        "OIAP",
        "GetCapability",
        "NV_Read",
        "NV_ReadValue",
    }
    for version, names in (("1.2", command_codes.ORDINALS_12), ("2.0", command_codes.COMMAND_CODES_20)):
        assert not {names[code] for code in command_codes.LONG_RUNNING[version]} & frequent


@given(st.sampled_from(["1.2", "2.0"]), st.integers(0, 2**32 - 1))
def test_every_number_has_a_name(version, code):
    assert re.fullmatch(r"[A-Za-z0-9_ ]{5,50}", command_codes.name(version, code))


# --- return codes
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "rc", "text"),
    [
        ("2.0", 0, "success"),
        ("1.2", 0, "success"),
        ("2.0", 0x100, "TPM_RC_INITIALIZE: the TPM was not started with TPM2_Startup, or was started already"),
        ("2.0", 0x101, "TPM_RC_FAILURE: the TPM is in failure mode and takes no commands"),
        ("2.0", 0x143, "TPM_RC_COMMAND_CODE: the command is not supported"),
        ("2.0", 0x14C, "TPM_RC_NV_DEFINED: the NV index or persistent object exists already"),
        ("2.0", 0x01E, "TPM_BADTAG: the tag is wrong for this command"),
        ("2.0", 0x921, "TPM_RC_LOCKOUT: the TPM is in dictionary-attack lockout (warning)"),
        ("2.0", 0x922, "TPM_RC_RETRY: the TPM could not start the command, send it again (warning)"),
        ("2.0", 0x910, "TPM_RC_REFERENCE_H0: handle 1 refers to an object or session that is not loaded (warning)"),
        ("2.0", 0x91E, "TPM_RC_REFERENCE_S6: session handle 7 refers to a session that is not loaded (warning)"),
        ("2.0", 0x1C4, "TPM_RC_VALUE: the value is out of range or wrong in this context (parameter 1)"),
        ("2.0", 0xFD5, "TPM_RC_SIZE: the structure has the wrong size (parameter 15)"),
        ("2.0", 0x18B, "TPM_RC_HANDLE: the handle is wrong for this use (handle 1)"),
        ("2.0", 0x98E, "TPM_RC_AUTH_FAIL: the authorization failed, and the dictionary-attack counter went up (session 1)"),
        ("2.0", 0x9A2, "TPM_RC_BAD_AUTH: the authorization failed (not counted as a dictionary attack) (session 1)"),
        ("2.0", 0x08A, "TPM_RC_TYPE: the type is wrong for this use"),
        ("2.0", 0x0CA, "TPM_RC_TYPE: the type is wrong for this use"),
        ("2.0", 0x2BF, "unknown TPM 2.0 return code 0x2bf (handle 2)"),
        ("2.0", 0x17E, "unknown TPM 2.0 return code 0x17e"),
        ("2.0", 0x300, "unknown TPM 2.0 return code 0x300"),  # bit 9 is reserved
        ("2.0", 0x1100, "unknown TPM 2.0 return code 0x1100"),
        ("2.0", 0x501, "vendor TPM 2.0 return code 0x501"),
        ("2.0", 0xA000A, "layer 10 of the TSS (TCTI): error 0x000a (input or output failed)"),
        ("2.0", 0xA7777, "layer 10 of the TSS (TCTI): error 0x7777"),
        ("2.0", 0xB0902, "layer 11 of the TSS (resource manager): TPM_RC_OBJECT_MEMORY: no room for another loaded object: flush one (warning)"),
        ("2.0", 0xB0001, "layer 11 of the TSS (resource manager): error 0x0001 (an error for which there is no other code)"),
        ("2.0", 0xC0907, "layer 12 of the TSS (resource manager, from the TPM): TPM_RC_LOCALITY: not allowed from this locality"
                         " (warning)"),
        ("2.0", 0xC0000, "layer 12 of the TSS (resource manager, from the TPM): success"),
        ("1.2", 0x01, "TPM_AUTHFAIL: authentication failed"),
        ("1.2", 0x26, "TPM_INVALID_POSTINIT: the TPM was not started, or the command comes in the wrong order after start-up"),
        ("1.2", 0x3D, "TPM_BAD_LOCALITY: not allowed from this locality, or no such locality"),
        ("1.2", 0x800, "TPM_RETRY: the TPM is busy, ask again"),
        ("1.2", 0x403, "vendor TPM 1.2 return code 0x403"),
        ("1.2", 0x60, "unknown TPM 1.2 return code 0x60"),
        ("1.2", 0x100, "unknown TPM 1.2 return code 0x100"),
    ],
)  # fmt: skip
def test_return_codes_in_words(version, rc, text):
    assert return_codes.describe(version, rc) == text


@pytest.mark.parametrize(("version", "prefix", "kind"), [("1.2", "TPM_", TpmResult), ("2.0", "TPM_RC_", TpmRc)])
def test_return_codes_have_the_names_that_they_have_in_words(version, prefix, kind):
    for code in set(kind) - {kind.SUCCESS}:
        assert return_codes.describe(version, code).startswith(f"{prefix}{code.name}: ")


def test_what_a_return_code_is_about_can_be_left_out():
    assert [without_subject(rc) for rc in (0x98E, 0x1C4, 0x18B)] == [TpmRc.AUTH_FAIL, TpmRc.VALUE, TpmRc.HANDLE]
    assert [without_subject(rc) for rc in (0x921, 0x101, 0xFFFF0000)] == [TpmRc.LOCKOUT, TpmRc.FAILURE, 0xFFFF0000]


def test_where_a_response_has_its_return_code():
    response = tpm_header.encode_response(tpm_header.ST_NO_SESSIONS, TpmRc.LOCKOUT)
    assert response[tpm_header.RESULT] in tpm_header.results(TpmRc.FAILURE, TpmRc.LOCKOUT)
    assert tpm_header.encode_response(tpm_header.ST_NO_SESSIONS, 0)[tpm_header.RESULT] == tpm_header.SUCCESS


@given(st.sampled_from(["1.2", "2.0"]), st.one_of(st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)))
def test_every_return_code_is_one_line(version, rc):
    text = return_codes.describe(version, rc)
    assert text.isprintable()
    assert 5 < len(text) < 200


def test_1_2_codes_are_those_of_libtpms():
    if not LIBTPMS_ERRORS.exists():
        pytest.skip(f"there is no {LIBTPMS_ERRORS} (package libtpms-dev)")
    pattern = r"#define TPM_(\w+)\s+TPM_BASE \+ (TPM_NON_FATAL)?(?: \+ )?(\d+)?"
    found = {
        (0x800 if non_fatal else 0) + int(number or 0): name
        for name, non_fatal, number in re.findall(pattern, LIBTPMS_ERRORS.read_text())
    }
    assert found == {code: name for code, (name, _words) in return_codes.CODES_12.items()}


def test_the_flags_of_information_are_those_of_libtpms():
    """0.9 has three, newer ones have more; none has one that we have not."""
    if not LIBTPMS_LIBRARY.exists():
        pytest.skip(f"there is no {LIBTPMS_LIBRARY} (package libtpms-dev)")
    found = re.findall(r"TPMLIB_INFO_(?:TPM)?(\w+) = (\w+)", LIBTPMS_LIBRARY.read_text())
    assert len(found) >= 3
    assert [(name, InfoFlag[name].value) for name, _number in found] == [
        (name, int(number, 0)) for name, number in found
    ]


@pytest.fixture(scope="module")
def tss_decode():
    """tpm2-tss says what a return code is about: an independent reading of the specification."""
    try:
        library = ctypes.CDLL("libtss2-rc.so.0")
    except OSError:
        pytest.skip("there is no libtss2-rc.so.0 (package libtss2-rc0 or libtss2-esys-3.0.2-0)")
    library.Tss2_RC_Decode.restype = ctypes.c_char_p
    library.Tss2_RC_Decode.argtypes = [ctypes.c_uint32]
    return lambda rc: library.Tss2_RC_Decode(rc).decode()


def tss_knows(text):
    return not re.search(r"\(null\)|unknown|^tpm:0x", text.lower())


def test_format_1_codes_are_about_what_tpm2_tss_says(tss_decode):
    # parameters from the 8th on are left out: tpm2-tss 3.2 leaves the highest bit of their number away
    for rc in (code for code in range(0x80, 0x1000) if code & 0x80 and code & 0x840 != 0x840):
        theirs = re.match(r"tpm:(handle|session|parameter)\((\w+)\):(.*)", tss_decode(rc))
        ours = return_codes.describe("2.0", rc)
        subject = f" ({theirs[1]} {theirs[2]})" if theirs[2] != "unk" else ""
        assert ours.endswith(subject), (hex(rc), ours, theirs[0])
        assert re.search(r"\((parameter|session|handle) \d+\)$", ours) is not None or not subject
        code = rc & 0x3F
        if code < 0x28:  # later revisions have more
            assert ours.startswith("unknown") == (not tss_knows(theirs[3])), (hex(rc), ours, theirs[0])


def test_format_0_codes_are_known_where_tpm2_tss_knows_them(tss_decode):
    for rc in (*range(0x100, 0x180), *range(0x900, 0x980)):
        theirs, ours = tss_decode(rc), return_codes.describe("2.0", rc)
        if rc in (0x156, 0x97F):  # of a later revision; reserved
            continue
        assert ours.startswith("unknown") != tss_knows(theirs), (hex(rc), ours, theirs)
        assert ("(warning)" in ours) == ("warn" in theirs and not ours.startswith("unknown"))


def test_the_layers_above_have_words_where_tpm2_tss_has(tss_decode):
    for layer, name in return_codes.LAYERS.items():
        if layer > 10:  # a resource manager passes on what the TPM says
            continue
        known = [code for code in range(1, 0x100) if not re.search(r":0x", tss_decode(layer << 16 | code))]
        assert known == sorted(return_codes.TSS_ERRORS), name


@pytest.mark.parametrize(
    ("rc", "subject"),
    [
        (0x1C4, ("parameter", 1)),
        (0xFD5, ("parameter", 15)),
        (0x98E, ("session", 1)),
        (0x28B, ("handle", 2)),
        (0x08B, None),
        (0x921, None),
        (0x101, None),
        (0x000, None),
        (0xA01C4, None),
    ],
)
def test_what_a_return_code_is_about(rc, subject):
    assert return_codes.subject(rc) == subject


def test_what_has_no_meaning_is_unknown():
    unknown = [("2.0", 0x17F), ("2.0", 0x500), ("2.0", 0xF000), ("1.2", 0x64), ("1.2", 0x101)]
    assert [pair for pair in unknown if not return_codes.is_unknown(*pair)] == []
    known = [("2.0", 0), ("2.0", 0x921), ("2.0", 0x1C4), ("2.0", 0x1E), ("1.2", 0x26), ("2.0", 0xA000A)]
    assert [pair for pair in known if return_codes.is_unknown(*pair)] == []


def test_commands_that_a_version_has():
    assert command_codes.is_known("2.0", 0x17B)
    assert command_codes.is_known("1.2", 0x46)
    assert not command_codes.is_known("1.2", 0x17B)
    assert not command_codes.is_known("2.0", 0x46)
