"""`vtpmctl decode`: what a person has from a log or a capture, in words."""

import io
import json

import pytest
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, STARTUP_CLEAR, with_session

h = bytes.fromhex
REMEDY = "  remedy: give a number or a whole message in hexadecimal: vtpmctl decode 0x921\n"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["0x921"], ["TPM 2.0, return code: TPM_RC_LOCKOUT: the TPM is in dictionary-attack lockout (warning)"]),
        (
            ["000001c4"],
            [
                "TPM 2.0, return code: TPM_RC_VALUE: the value is out of range or wrong in this context (parameter 1)",
            ],
        ),
        (
            ["5"],
            [
                "TPM 1.2, return code: TPM_CLEAR_DISABLED: clearing is disabled and now needs physical access",
                "TPM 2.0, handle: PCR 5",
            ],
        ),
        (
            ["0x144"],
            [
                "TPM 2.0, return code: TPM_RC_AUTHSIZE: the authorization area has the wrong size",
                "TPM 2.0, command: TPM2_Startup",
            ],
        ),
        (["01c00002"], ["TPM 2.0, NV index: certificate of the endorsement key, RSA 2048"]),
        (
            ["0x1000f000"],
            ["TPM 1.2, NV index: TPM_NV_INDEX_EKCert, defined by the maker: certificate of the endorsement key"],
        ),
        (["0x40000001", "--tpm-version", "1.2"], ["TPM 1.2, handle: TPM_KH_OWNER: the owner"]),
        (
            ["0xa000a"],
            ["TPM 2.0, return code: layer 10 of the TSS (TCTI): error 0x000a (input or output failed)"],
        ),
        (
            [STARTUP_CLEAR.hex()],
            ["TPM2_Startup: a command of a TPM 2.0, 12 bytes", "  parameter 1 startupType: TPM_SU_CLEAR"],
        ),
        (
            ["80 01:00000 00a 0x00000921"],
            [
                "response of a TPM 2.0, 10 bytes: return code 0x921, TPM_RC_LOCKOUT: the TPM is in dictionary-attack "
                "lockout (warning)"
            ],
        ),
        (
            ["80010000000a00000181"],
            [
                "TPM2_ReadClock: a command of a TPM 2.0, 10 bytes",
                "response of a TPM 2.0, 10 bytes: return code 0x181, TPM_RC_ASYMMETRIC: the asymmetric algorithm is "
                "not supported or not right (handle 1)",
            ],
        ),
        (["80010000000a0000017c"], ["TPM2_GetTestResult: a command of a TPM 2.0, 10 bytes"]),
        (
            [PCR_EXTEND_16.hex(), "0x18b"],
            [
                "TPM2_PCR_Extend: a command of a TPM 2.0, 65 bytes",
                "  handle 1 pcrHandle: 0x00000010 (PCR 16)",
                "  session 1: 0x40000009 (TPM_RS_PW: a password in place of a session), attributes none, for "
                "pcrHandle, authorization empty",
                f"  parameter 1 digests: sha256 {bytes(range(32)).hex()}",
                "return code 0x18b: TPM_RC_HANDLE: the handle is wrong for this use (handle 1, pcrHandle)",
            ],
        ),
        (
            [GET_RANDOM.hex(), "8001000000140000000000080102030405060708"],
            [
                "TPM2_GetRandom: a command of a TPM 2.0, 12 bytes",
                "  parameter 1 bytesRequested: 8",
                "response to TPM2_GetRandom of a TPM 2.0, 20 bytes: return code 0x0, success",
                "  parameter 1 randomBytes: not shown (8 bytes)",
            ],
        ),
    ],
)
def test_in_words(run, words, lines):
    status, out, err = run("decode", *words)
    assert (status, err) == (0, "")
    assert out.splitlines() == lines


def test_secrets_are_shown_to_who_asks(run):
    command = with_session(0x129, h("40000001"), h("0003 53454b"), h("40000009 0000 00 0004 50415353")).hex()
    for shown in (run("decode", command)[1], run("decode", "--json", command)[1]):
        assert "50415353" not in shown
        assert "53454b" not in shown
    shown = run("decode", command, "--secrets")[1]
    assert "50415353" in shown
    assert "53454b" in shown


def test_as_json(run):
    values = json.loads(run("decode", "0x921", "--json")[1])
    (meaning,) = values["meanings"]
    assert (values["number"], meaning["version"], meaning["kind"]) == (0x921, "2.0", "return code")
    values = json.loads(run("decode", PCR_EXTEND_16.hex(), "18b", "--json")[1])
    (message,) = values["messages"]
    assert message["parts"][0] == {
        "kind": "handle", "number": 1, "name": "pcrHandle", "text": "0x00000010 (PCR 16)", "hidden": False,
    }  # fmt: skip
    assert values["return_code"]["code"] == 0x18B


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["-"], f"{GET_RANDOM.hex()[:8]}\n{GET_RANDOM.hex()[8:]}\n"),
        (["-", "-"], f"{GET_RANDOM.hex()}\n8001000000\n0c000000000000\n"),
        ([GET_RANDOM.hex(), "-"], "0x921\n"),
        (["-", "0x921"], GET_RANDOM.hex()),
    ],
)
def test_from_standard_input(run, monkeypatch, words, given):
    """Where no list of processes shows it."""
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    status, out, err = run("decode", *words)
    assert (status, err) == (0, "")
    assert out.startswith("TPM2_GetRandom: ")
    assert len(out.splitlines()) == 2 + (len(words) == 2) + (words == ["-", "-"])


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["secret"], "what was given is not hexadecimal"),
        ([""], "there are no digits"),
        (["0x"], "there are no digits"),
        (["7777777"], "0x7777777 is no return code, command, handle or NV index of any TPM that is known"),
        (["0x921", "--tpm-version", "1.2"], "0x921 is no return code, command, handle or NV index of a TPM 1.2 that is known"),
        (["123456789"], "there are 9 digits: a number has up to 8, a command or response two for each byte, and 20 or more"),
        (["0" * 200001], "there are 200001 digits, more than a TPM has to say"),
        (["80010000000d000001440000"], "this is neither a TPM's command nor a response: it says that it has 13 bytes, and has 12"),
        (["12340000000a00000000"], "this is neither a TPM's command nor a response: it begins with 0x1234, and no command or response does"),
        (["80010000000a00000921", "0x921"], "this is not a TPM's command: it is a response"),
        ([STARTUP_CLEAR.hex(), STARTUP_CLEAR.hex()], "this is not a TPM's response: it is a command"),
        ([STARTUP_CLEAR.hex(), "x"], "what was given is not hexadecimal"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(run, words, cause):
    assert run("decode", *words) == (64, "", f"vtpmctl: {cause}\n{REMEDY}")


def test_nothing_on_standard_input(run, monkeypatch):
    for stdin in (None, io.StringIO("\n \n")):
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("decode", "-") == (64, "", f"vtpmctl: there is nothing on standard input\n{REMEDY}")
