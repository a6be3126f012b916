"""Commands, responses, handles and NV indices in words. What libtpms says of the tables: integration/tpm/test_anatomy.py."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tpm_commands import (
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    TPM12_PCR_EXTEND_10,
    with_session,
)

from swtpm_svc.provision import device_keys, nv_certificates
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.wire import anatomy, command_codes, command_shapes, command_shapes_12, handle_names
from swtpm_svc.wire.protocol_error import ProtocolError

h = bytes.fromhex


def lines(message):
    return [f"{part.kind} {part.number} {part.name}: {part.text}" for part in message.parts]


# --- handles and NV indices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "handle", "words"),
    [
        ("2.0", 0x40000001, "TPM_RH_OWNER: the owner's hierarchy"),
        ("1.2", 0x40000001, "TPM_KH_OWNER: the owner"),
        ("2.0", 0x00000007, "PCR 7"),
        ("2.0", 0x00000018, ""),
        ("2.0", 0x80000001, "loaded object (transient), number 1"),
        ("2.0", 0x02000003, "session for HMACs, or loaded session, number 3"),
        ("2.0", 0x03000000, "session for a policy, or saved session, number 0"),
        ("2.0", 0x81000002, "persistent object, in the range of the owner's storage keys"),
        ("2.0", 0x81800000, "persistent object of the platform"),
        ("2.0", 0x01500000, "NV index for the platform's maker"),
        ("2.0", 0x01C00016, "NV index: certificate of the endorsement key, NIST P-384"),
        ("2.0", 0x01C00017, "NV index: template of the endorsement key, NIST P-384"),
        ("2.0", 0x4000FFFF, "permanent handle that is not known"),
        ("2.0", 0xFFFFFFFF, ""),
        ("1.2", 0x1000F000, "NV index TPM_NV_INDEX_EKCert, defined by the maker: certificate of the endorsement key"),
        ("1.2", 0x0000F004, "NV index TPM_NV_INDEX_TRIAL: tries a definition without making it"),
        ("1.2", 0xFFFFFFFF, "NV index TPM_NV_INDEX_LOCK: turns the protection of NV storage on"),
        ("1.2", 0x00000001, ""),
        ("1.2", 0x00011200, ""),
    ],
)
def test_a_handle_in_words(version, handle, words):
    assert handle_names.describe(version, handle) == words


def test_what_a_manufacturer_makes_is_where_the_words_say():
    for key in ENDORSEMENT_KEYS.values():
        assert handle_names.describe("2.0", key.certificate_index).startswith(
            "NV index: certificate of the endorsement"
        )
        assert "endorsement key" in handle_names.describe("2.0", key.handle)
    assert "platform" in handle_names.describe("2.0", nv_certificates.PLATFORM_INDEX)
    for key in (device_keys.IDEVID, device_keys.IAK):
        assert "IDevID and IAK" in handle_names.describe("2.0", key.certificate_index)
    for index in (nv_certificates.EK_INDEX_1_2, nv_certificates.PLATFORM_INDEX_1_2):
        assert "certificate" in handle_names.describe("1.2", index)


# --- the tables ------------------------------------------------------------------------------------------------------


def test_every_command_of_2_0_has_a_shape():
    assert [name for code, name in command_codes.COMMAND_CODES_20.items() if command_shapes.shape(code) is None] == []
    assert command_shapes.shape(0x20000000) is None


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (command_codes.COMMAND_CODES_20, command_shapes),
        (command_codes.ORDINALS_12, command_shapes_12),
    ],
    ids=["2.0", "1.2"],
)
def test_the_tables_are_whole(names, table):
    """Each line is of a command that there is, each type has a reader, and nothing follows the rest."""
    assert set(table._LINES) <= set(names.values())
    for code in names:
        shape = table.shape(code)
        for side in (shape.command, shape.response) if shape else ():
            kinds = [field.kind for field in side.parameters]
            assert set(kinds) <= set(anatomy.READERS), names[code]
            assert "rest" not in kinds[:-1], names[code]
            assert side.authorized <= len(side.handles)


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_of_2_0():
    startup = anatomy.read_command(STARTUP_CLEAR)
    assert (startup.name, startup.version, startup.kind) == ("TPM2_Startup", "2.0", "command")
    assert lines(startup) == ["parameter 1 startupType: TPM_SU_CLEAR"]
    assert lines(anatomy.read_command(PCR_READ_16)) == ["parameter 1 pcrSelectionIn: sha256:16"]
    extend = anatomy.read_command(PCR_EXTEND_16)
    assert lines(extend) == [
        "handle 1 pcrHandle: 0x00000010 (PCR 16)",
        "session 1 : 0x40000009 (TPM_RS_PW: a password in place of a session), attributes none, for pcrHandle, "
        "authorization empty",
        f"parameter 1 digests: sha256 {bytes(range(32)).hex()}",
    ]
    assert (extend.handles, extend.sessions) == ((("pcrHandle", 16),), 1)


def test_authorization_values_and_secrets_are_not_shown_unless_asked_for():
    command = with_session(0x129, h("40000001"), h("0003 53454b"), h("40000009 0000 01 0004 50415353"))
    message = anatomy.read_command(command)
    assert lines(message) == [
        "handle 1 authHandle: 0x40000001 (TPM_RH_OWNER: the owner's hierarchy)",
        "session 1 : 0x40000009 (TPM_RS_PW: a password in place of a session), attributes continueSession, for "
        "authHandle, authorization not shown (4 bytes)",
        "parameter 1 newAuth: not shown (3 bytes)",
    ]
    assert [part.is_hidden for part in message.parts] == [False, True, True]
    shown = lines(anatomy.read_command(command, secrets=True))
    assert shown[1].endswith("authorization 50415353")
    assert shown[2] == "parameter 1 newAuth: 3 bytes, 53454b"


def test_commands_of_1_2():
    extend = anatomy.read_command(TPM12_PCR_EXTEND_10)
    assert (extend.version, extend.name) == ("1.2", "TPM_Extend")
    assert lines(extend) == ["parameter 1 pcrNum: 10", f"parameter 2 inDigest: {bytes(range(20)).hex()}"]
    session = h("02000001") + bytes(20) + b"\1" + b"S" * 20
    seal = h("00c2 00000067 00000017 40000000") + b"A" * 20 + h("00000000 00000004 44415441") + session
    seal = seal[:2] + len(seal).to_bytes(4, "big") + seal[6:]
    message = anatomy.read_command(seal)
    assert lines(message) == [
        "handle 1 keyHandle: 0x40000000 (TPM_KH_SRK: the storage root key)",
        "parameter 1 encAuth: not shown (20 bytes)",
        "parameter 2 pcrInfo: 0 bytes",
        "parameter 3 inData: not shown (4 bytes)",
        "session 1 : 0x02000001, goes on, authorization not shown (20 bytes)",
    ]


def test_what_does_not_fit_is_said():
    short = anatomy.read_command(h("8001 0000000c 0000017e 0000"))
    assert lines(short) == [
        "rest 0 : does not fit, from offset 10 on: the field at offset 10 has 4 bytes, the data ends after 12"
    ]
    long = anatomy.read_command(h("8001 0000000e 0000017b 0008 ffff"))
    assert lines(long) == [
        "parameter 1 bytesRequested: 8",
        "rest 0 : does not fit, from offset 10 on: 2 bytes are left after the last field",
    ]
    unknown = anatomy.read_command(h("8001 0000000e 20000001 41424344"))
    assert (unknown.name, lines(unknown)) == (
        "vendor command 0x20000001",
        ["rest 0 : 4 bytes, unknown to this program"],
    )


# --- responses -------------------------------------------------------------------------------------------------------


def test_responses():
    random = anatomy.read_command(GET_RANDOM)
    answer = h("8001 00000014 00000000 0008 0102030405060708")
    assert lines(anatomy.read_response(answer, random)) == ["parameter 1 randomBytes: not shown (8 bytes)"]
    assert lines(anatomy.read_response(answer)) == ["rest 0 : 10 bytes, unknown to this program"]
    changed = h("8002 00000013 00000000 00000000 0000 01 0000")
    message = anatomy.read_response(changed, anatomy.read_command(HIERARCHY_CHANGE_AUTH))
    assert message.result == "success"
    assert lines(message) == ["session 1 : attributes continueSession, authorization empty"]


@pytest.mark.parametrize(
    ("rc", "ending"),
    [
        (0x1D5, "(parameter 1, newAuth)"),
        (0x2D5, "(parameter 2)"),
        (0x18B, "(handle 1, authHandle)"),
        (0x98E, "(session 1)"),
        (0x921, "(warning)"),
    ],
)
def test_a_result_names_what_it_is_about(rc, ending):
    asked = anatomy.read_command(HIERARCHY_CHANGE_AUTH)
    assert anatomy.read_response(struct.pack(">HII", 0x8001, 10, rc), asked).result.endswith(ending)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (STARTUP_CLEAR, True),
        (TPM12_PCR_EXTEND_10, True),
        (h("80010000000a00000000"), False),
        (h("80010000000a00000921"), False),
        (h("80010000000a00000144"), False),  # a Startup has a parameter
        (h("80010000000a00000181"), None),  # ReadClock, or TPM_RC_ASYMMETRIC
        (h("00c40000000a00000026"), False),
        (h("00c10000000a00000098"), True),
    ],
)
def test_what_is_a_command(data, answer):
    assert anatomy.is_command(data) is answer


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes are too few"),
        (h("80010000000b00000000"), "it says that it has 11 bytes, and has 10"),
        (h("12340000000a00000000"), "it begins with 0x1234"),
    ],
)
def test_what_is_neither(data, why):
    with pytest.raises(ProtocolError, match=why):
        anatomy.is_command(data)


CODES = st.sampled_from([*command_codes.COMMAND_CODES_20, *command_codes.ORDINALS_12, 0, 0x921])
TAGS = st.sampled_from([0x8001, 0x8002, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6])


@given(TAGS, CODES, st.binary(max_size=120), TAGS, st.binary(max_size=120))
def test_any_bytes_are_taken_apart_in_lines(tag, code, body, other, answer):
    asked = anatomy.read_command(struct.pack(">HII", tag, 10 + len(body), code) + body)
    answered = anatomy.read_response(struct.pack(">HII", other, 10 + len(answer), 0) + answer, asked)
    for message in (asked, answered):
        assert all(line.isprintable() for line in lines(message))
    with suppress(ProtocolError):
        anatomy.read_command(body)
