"""TPM commands as bytes, for tests that talk to a TPM without a library (TPM 2.0 Part 3; TPM Main Part 3)."""

h = bytes.fromhex

STARTUP_CLEAR = h("80010000000c000001440000")
GET_RANDOM = h("80010000000c0000017b0008")
PCR_READ_16 = h("8001000000140000017e00000001000b03000001")
PCR_READ_17 = h("8001000000140000017e00000001000b03000002")

#: The handles' authorizations: one empty password.
EMPTY_PASSWORD = h("40000009 0000 00 0000")


def with_session(code, handles, parameters=b"", auth=EMPTY_PASSWORD):
    """A TPM 2.0 command with one authorization session."""
    body = handles + len(auth).to_bytes(4, "big") + auth + parameters
    return h("8002") + (10 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def result_of(response):
    """The return code of a response."""
    return int.from_bytes(response[6:10], "big")


PCR_EXTEND_16 = with_session(0x182, h("00000010"), h("00000001 000b") + bytes(range(32)))
HIERARCHY_CHANGE_AUTH = with_session(0x129, h("40000001"), h("0001 78"))


def create_rsa(number=0, bits=2048):
    """TPM2_CreatePrimary in the null hierarchy: an RSA signing key, another one for each `number`.

    It takes between 20 ms and a second, as long as its primes take to be found, and can be cancelled between two tries.
    """
    template = (
        h("0001 000b 00040072 0000 0010 0014 000b")
        + bits.to_bytes(2, "big")
        + h("00000000 0008")
        + number.to_bytes(8, "big")
    )
    public = len(template).to_bytes(2, "big") + template
    return with_session(0x131, h("40000007"), h("0004 0000 0000") + public + h("0000 00000000"))


CREATE_RSA = create_rsa()


#: TPM2_CreatePrimary in the null hierarchy: a parent for keys (ECC P-256), which takes no time; the first object is
#: 80000000.
CREATE_PARENT = with_session(
    0x131,
    h("40000007"),
    h("0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000"),
)
#: TPM2_Create below it: an RSA 2048 key, each time another one, which takes its time and leaves nothing behind.
CREATE_CHILD = with_session(
    0x153,
    h("80000000"),
    h("0004 0000 0000 0018 0001 000b 00040072 0000 0010 0014 000b 0800 00000000 0000 0000 00000000"),
)


def flush_context(handle):
    return h("80010000000e00000165") + handle


_NV_INDEX = h("01500000")
#: An NV counter: its value counts what was acknowledged.
NV_DEFINE_COUNTER = with_session(0x12A, h("40000001"), h("0000 000e 01500000 000b 00020012 0000 0008"))
NV_INCREMENT = with_session(0x134, h("40000001") + _NV_INDEX)
NV_READ_COUNTER = with_session(0x14E, h("40000001") + _NV_INDEX, h("0008 0000"))


def counter_of(response):
    """The counter's value in the response to NV_READ_COUNTER."""
    assert result_of(response) == 0, response.hex()
    return int.from_bytes(response[16:24], "big")


TPM12_PCR_EXTEND_10 = h("00c10000002200000014 0000000a") + bytes(range(20))
TPM12_PCR_READ_10 = h("00c10000000e00000015 0000000a")
TPM12_SAVE_STATE = h("00c10000000a00000098")
TPM12_GET_RANDOM = h("00c10000000e0000004600000010")
#: TPM_GetCapability(TPM_CAP_PROPERTY, TPM_CAP_PROP_MANUFACTURER)
TPM12_GET_MANUFACTURER = h("00c10000001600000065 00000005 00000004 00000103")
