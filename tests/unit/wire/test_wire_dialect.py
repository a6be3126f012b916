"""What the service sends and answers by itself: bytes laid out by hand from TPM Main Part 3 and TPM 2.0 Library Part 3."""

import pytest

from swtpm_svc.provision.device_keys import STORAGE_KEYS
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.wire.algorithms import (
    ENDORSEMENT_KEY_NAMES,
    HASH_NAMES,
    HASHES,
    STORAGE_KEY_NAMES,
    Alg,
    hash_name,
    hash_of,
)
from swtpm_svc.wire.dialect import DIALECTS, STARTUP_WANTED

h = bytes.fromhex


def test_tpm_12():
    dialect = DIALECTS["1.2"]
    assert dialect.startup == {
        "clear": h("00c1 0000000c 00000099 0001"),
        "state": h("00c1 0000000c 00000099 0002"),
        "deactivated": h("00c1 0000000c 00000099 0003"),
    }
    assert (dialect.fatal, dialect.in_failure) == (h("00c4 0000000a 00000009"), h("00c4 0000000a 0000001c"))
    assert (dialect.unstarted, dialect.bad_locality) == (h("00c4 0000000a 00000026"), h("00c4 0000000a 0000003d"))
    assert dialect.test == h("00c1 0000000a 000000f1")
    assert dialect.failing == {h("00000009"), h("0000001c")}
    assert (dialect.startup_code, dialect.shutdown, dialect.shutdown_code, dialect.stir) == (0x99, None, None, None)


def test_tpm_20():
    dialect = DIALECTS["2.0"]
    assert dialect.startup == {
        "clear": h("8001 0000000c 00000144 0000"),
        "state": h("8001 0000000c 00000144 0001"),
    }
    assert dialect.fatal == dialect.in_failure == h("8001 0000000a 00000101")
    assert (dialect.unstarted, dialect.bad_locality) == (h("8001 0000000a 00000100"), h("8001 0000000a 00000907"))
    assert dialect.test == h("8001 0000000a 0000017c")
    assert dialect.failing == {h("00000101")}
    assert (dialect.startup_code, dialect.shutdown_code) == (0x144, 0x145)
    assert dialect.shutdown == h("8001 0000000c 00000145 0000")
    assert dialect.stir == h("8001 0000003c 00000146 0030")  # and 48 bytes


@pytest.mark.parametrize(
    ("version", "response", "is_failed"),
    [
        ("1.2", h("00c4 0000000a 0000001c"), True),
        ("1.2", h("00c4 0000000a 00000026"), False),
        # TPM2_GetTestResult: outData is a TPM2B, then testResult
        ("2.0", h("8001 00000010 00000000 0000 00000101"), True),
        ("2.0", h("8001 00000010 00000000 0000 00000000"), False),
        ("2.0", h("8001 0000000a 00000100"), False),
    ],
)
def test_failure_for_good(version, response, is_failed):
    assert DIALECTS[version].is_in_failure(response) is is_failed


def test_the_startup_that_an_unstarted_tpm_wants():
    assert {
        h("00c4 0000000a 00000026"): h("00c1 0000000c 00000099 0001"),
        h("8001 0000000a 00000100"): h("8001 0000000c 00000144 0000"),
    } == STARTUP_WANTED


# --- names of algorithms
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [(0x04, "sha1"), (0x0B, "sha256"), (0x12, "sm3_256"), (0x27, "0x27")])
def test_hashes_by_number_and_by_name(number, name):
    assert (hash_name(number), hash_of(name)) == (name, number)


def test_a_number_without_a_name_is_kept():
    assert all(hash_of(hash_name(number)) == number for number in range(0x10000))
    with pytest.raises(ValueError, match="md5"):
        hash_of("md5")


def test_what_can_be_configured_is_there():
    assert set(HASH_NAMES) <= set(HASHES)
    assert set(ENDORSEMENT_KEY_NAMES) == set(ENDORSEMENT_KEYS)
    assert set(STORAGE_KEY_NAMES) == set(STORAGE_KEYS)
    assert HASHES["sha384"] is Alg.SHA384
