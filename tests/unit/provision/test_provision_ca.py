"""The local CA's directory and files: made once, read back, never made anew; what does not fit is refused with its
cause."""

import base64
import os
import shutil
from pathlib import Path

import pytest
from ca_material import contents, refusal
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca, ca_chain, ca_directory, validity


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> ca.Authority:
    return ca.obtain(str(tmp_path_factory.mktemp("module") / "ca"))


# --- making and loading ----------------------------------------------------------------------------------------------


def test_the_first_one_makes_it_and_the_next_one_finds_it(place):
    made = ca.obtain(str(place))
    assert ca.obtain(str(place)).chain == made.chain == ca.load(str(place)).chain
    assert sorted(path.name for path in place.iterdir()) == [".lock", "current"]


def test_the_files_are_for_their_owner_only(place):

    ca.obtain(str(place))
    modes = {path.name: path.stat().st_mode & 0o777 for path in [place, *place.rglob("*")]}
    assert modes == {
        "ca": 0o700,
        ".lock": 0o600,
        "current": 0o700,
        "chain.pem": 0o600,
        "issuer-key.pem": 0o600,
        "root-key.pem": 0o600,
    }


def test_root_and_issuer_are_what_rfc_5280_wants_of_a_ca(place):
    issuer, root = ca.obtain(str(place)).chain
    for found, below in ((issuer, 0), (root, 1)):
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, below)
        usage = found.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value == ca.usage("key_cert_sign")
        identifier = found.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert identifier == x509.SubjectKeyIdentifier.from_public_key(found.public_key())
        assert 0 < found.serial_number < 1 << 159
        assert validity.period(found)[1] == validity.FOREVER
    assert issuer.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == (
        root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    assert issuer.issuer == root.subject == root.issuer


def test_two_authorities_have_different_names(tmp_path):
    one, two = (ca.obtain(str(tmp_path / name)) for name in ("one", "two"))
    assert len({found.subject for found in (*one.chain, *two.chain)}) == 4


def test_the_root_key_may_be_taken_away(place):
    ca.obtain(str(place))
    (place / "current/root-key.pem").unlink()
    assert ca.load(str(place)).signer is None


def test_no_ca_is_said_and_not_made(place):
    assert refusal(ca.load, str(place)).code is Code.STATE_MISSING
    assert not place.exists()


def test_an_empty_directory_that_exists_is_used(place):
    place.mkdir(mode=0o700)
    ca.obtain(str(place))


@pytest.mark.parametrize("name", ["issuer-key.pem", "replaced-20261125T000000Z-0000", "next.old"])
def test_it_is_not_made_where_something_else_is(place, name):
    """A CA that was moved away, or restored to the wrong level, is a CA all the same."""
    place.mkdir(mode=0o700)
    (place / name).touch()
    error = refusal(ca.obtain, str(place))
    assert error.code is Code.CA_UNUSABLE
    assert error.message == f"{place} has no CA in current, but is not empty: {name}"
    assert error.remedy == (
        f"name an empty or a new directory; if there was a CA in this one, put it back as {place}/current"
    )
    assert not (place / "current").exists()


def test_a_draft_of_a_process_that_is_gone_is_removed(place):
    (place / ".new-12345678").mkdir(parents=True)
    place.chmod(0o700)
    (place / ".new-12345678/issuer-key.pem").write_text("half")
    ca.obtain(str(place))
    assert not (place / ".new-12345678").exists()


def test_a_whole_set_that_was_not_put_in_place_yet_is(place, tmp_path):
    """Killed between the two renames of an import: the new one is whole, and the old one is kept."""
    old, new = (ca.obtain(str(tmp_path / name)) for name in ("old", "new"))
    place.mkdir(mode=0o700)
    shutil.copytree(tmp_path / "old/current", place / "current")
    shutil.copytree(tmp_path / "new/current", place / "next")
    assert ca.load(str(place)).chain == old.chain
    (place / "current").rename(place / "replaced-x")
    assert ca.load(str(place)).chain == new.chain
    assert not (place / "next").exists()


# --- what cannot be used is refused and left alone -------------------------------------------------------------------


@pytest.mark.parametrize("name", [ca.CHAIN, ca.ISSUER_KEY])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "garbage", "of another"])
def test_a_damaged_ca_is_an_error_and_is_not_replaced(place, tmp_path, name, damage):
    ca.obtain(str(place))
    file = place / "current" / name
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "garbage":
        file.write_bytes(os.urandom(500))
    else:
        ca.obtain(str(tmp_path / "other"))
        shutil.copy(tmp_path / "other/current" / name, file)
    before = contents(place)
    for call in (ca.load, ca.obtain):
        error = refusal(call, str(place))
        assert error.code is Code.CA_UNUSABLE
        assert str(place / "current") in error.message
    assert contents(place) == before


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_that_is_changed_is_an_error_or_does_not_matter(data, tmp_path):
    """Of a certificate's text only the base64 counts: some changes do not matter. A key is never taken for another."""
    place = tmp_path / "one"
    made = ca.obtain(str(place))
    name = data.draw(st.sampled_from([ca.CHAIN, ca.ISSUER_KEY]))
    file = place / "current" / name
    good = file.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    file.write_bytes(good[:position] + bytes([data.draw(st.integers(0, 255))]) + good[position + 1 :])
    found = code = None
    try:
        found = ca.load(str(place))
    except VtpmError as error:
        code = error.code
    finally:
        file.write_bytes(good)
    if found:
        assert found.chain == made.chain
        assert found.key.public_key().public_numbers() == made.key.public_key().public_numbers()
    else:
        assert code is Code.CA_UNUSABLE


def test_a_marker_that_is_damaged_does_not_hide_a_certificate(place):
    ca.obtain(str(place))
    file = place / "current/chain.pem"
    good = file.read_bytes()
    for marker in (b"-----BEGIN", b"-----END"):
        for which in (good.index(marker), good.rindex(marker)):
            file.write_bytes(good[:which] + b"\0" + good[which + 1 :])
            assert refusal(ca.load, str(place)).code is Code.CA_UNUSABLE


@pytest.mark.filterwarnings("ignore:Parsed a")  # a serial number that is negative now
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_bit_of_the_certificates_counts(data, authority):
    ders = [found.public_bytes(serialization.Encoding.DER) for found in authority.chain]
    which = data.draw(st.integers(0, len(ders) - 1))
    bit = data.draw(st.integers(0, 8 * len(ders[which]) - 1))
    # the count of unused bits before a signature's octets is not signed, and some versions take one that is too high
    assume(bit // 8 != ders[which].rindex(authority.chain[which].signature) - 1)
    changed = bytearray(ders[which])
    changed[bit // 8] ^= 1 << bit % 8
    ders[which] = bytes(changed)
    blocks = [
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in ders
    ]
    assert refusal(ca_chain.read, b"".join(blocks), "chain.pem").code is Code.CA_UNUSABLE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(place, mode):
    ca.obtain(str(place))
    (place / "current/issuer-key.pem").chmod(mode)
    error = refusal(ca.load, str(place))
    assert error.code is Code.CA_UNUSABLE
    key = f"{place}/current/issuer-key.pem"
    assert error.message == f"{key} has the mode {mode:04o}, others may use it"
    assert error.remedy == (
        f"chmod 600 {key}; if others can have read a key there, have another CA: vtpmctl ca import --force --ca {place}"
    )


def test_a_directory_that_others_can_write_is_not_used_for_a_new_one(place):
    place.mkdir()
    place.chmod(0o777)
    error = refusal(ca.obtain, str(place))
    assert error.message == f"{place} may be written by others"
    assert error.remedy == f"see that nothing in it is a stranger's: ls -laR {place}; then chmod go-w {place}"


def test_of_a_directory_that_is_more_than_a_ca_the_mode_is_left_alone(place):
    """/tmp, named by mistake: to close it would stop the host."""
    place.mkdir()
    place.chmod(0o1777)
    (place / "somebody's").touch()
    assert (
        refusal(ca.obtain, str(place)).remedy
        == "name a directory that has nothing but the CA in it: --ca DIR, or ca in [provision]"
    )


def test_of_a_ca_with_something_else_beside_it_that_is_to_be_moved(place):
    """Else the remedy would lead to a new CA."""
    ca.obtain(str(place))
    (place / "README").touch()
    place.chmod(0o777)
    remedy = refusal(ca.load, str(place)).remedy
    assert remedy == f"move what is not the CA's to another place: ls -la {place}; then chmod go-w {place}"


def test_a_symbolic_link_in_its_place_is_not_followed(place, tmp_path):
    ca.obtain(str(place))
    (place / "current/issuer-key.pem").rename(tmp_path / "key")
    (place / "current/issuer-key.pem").symlink_to(tmp_path / "key")
    assert refusal(ca.load, str(place)).code is Code.CA_UNUSABLE


@pytest.mark.parametrize("kind", ["file", "missing parent"])
def test_a_place_that_cannot_be_is_said(tmp_path, kind):
    (tmp_path / "file").touch()
    place = tmp_path / "file" if kind == "file" else tmp_path / "no/ca"
    assert refusal(ca.obtain, str(place)).code in (Code.STATE_UNWRITABLE, Code.CA_UNUSABLE)


def test_a_lock_that_is_held_for_ever_is_an_error_in_the_end(place, monkeypatch):
    monkeypatch.setattr(ca_directory, "LOCK_TIME_S", 0.05)
    with ca_directory.CaDirectory(str(place)).locked():
        assert refusal(ca.obtain, str(place)).code is Code.STATE_LOCKED
