"""The local CA's directory and files: made once, read back, never made anew; what does not fit is refused with its
cause."""

import base64
import datetime
import json
import os
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca, ca_chain, ca_directory, validity

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> ca.Authority:
    return ca.obtain(str(tmp_path_factory.mktemp("module") / "ca"))


def refusal(call, *arguments, **options) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        call(*arguments, **options)
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def contents(directory: Path) -> "dict[str, bytes]":
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def key_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(
    name: str,
    key,
    parent=None,
    parent_key=None,
    *,
    is_ca=True,
    below=None,
    usage="key_cert_sign",
    begin=NOW - 2 * DAY,
    end=NOW + DAY,
):
    """A certificate for `key`, signed by the parent's key or by its own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, below if is_ca else None), critical=True)
    if parent:
        builder = builder.add_extension(ca._authority_key_identifier(parent), critical=False)
    if usage:
        builder = builder.add_extension(ca.usage(usage), critical=True)
    return builder.sign(
        parent_key or key, None if isinstance(parent_key or key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def chain_of(*certificates) -> bytes:
    return b"".join(ca.pem(found) for found in certificates)


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


# --- import ----------------------------------------------------------------------------------------------------------

KEYS = {
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_an_issuer_of_ones_own_signs(place, kind):
    root_key, key = rsa.generate_private_key(65537, 2048), KEYS[kind]()
    root = certificate("root", root_key)
    issuer = certificate("issuer", key, root, root_key, below=0)
    authority, kept = ca.import_issuer(chain_of(issuer, root), key=key_pem(key), directory=str(place))
    assert (authority.chain, kept) == ((issuer, root), None)
    leaf = authority.issue(x509.CertificateBuilder().subject_name(x509.Name([])).public_key(key.public_key()))
    assert leaf.issuer == issuer.subject
    if kind == "rsa2048":
        key.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.public_key().verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm))


def test_the_root_may_be_left_out(place):
    root_key, key = KEYS["p256"](), KEYS["p256"]()
    issuer = certificate("issuer", key, certificate("root", root_key), root_key)
    assert ca.import_issuer(ca.pem(issuer), key=key_pem(key), directory=str(place))[0].chain == (issuer,)


def test_a_root_whose_issuer_is_damaged_is_no_intermediate(place):
    """One byte in that name, and nothing below the root would notice."""
    root = ca.obtain(str(place)).chain[1]
    der = root.public_bytes(serialization.Encoding.DER)
    position = der.index(b"vtpm root CA")
    damaged = x509.load_der_x509_certificate(der[:position] + b"w" + der[position + 1 :])
    chain = place / "current/chain.pem"
    chain.write_bytes(chain.read_bytes().replace(ca.pem(root), ca.pem(damaged)))
    error = refusal(ca.load, str(place))
    assert "is not signed by itself" in error.message


def test_an_import_over_a_ca_needs_force_and_keeps_the_old_one(place):
    old = ca.obtain(str(place))
    key = KEYS["p256"]()
    root = certificate("own", key)
    before = contents(place)
    assert refusal(ca.import_issuer, ca.pem(root), key=key_pem(key), directory=str(place)).code is Code.CA_EXISTS
    assert contents(place) == before
    authority, kept = ca.import_issuer(ca.pem(root), key=key_pem(key), directory=str(place), force=True)
    assert authority.chain == ca.load(str(place)).chain == (root,)
    assert kept
    assert contents(Path(kept)) == {
        name.split("/")[1]: text for name, text in before.items() if name.startswith("current/")
    }
    assert (Path(kept) / ca.CHAIN).read_bytes() == chain_of(*old.chain)


def test_an_import_with_force_is_the_way_out_of_a_damaged_ca(place):
    ca.obtain(str(place))
    (place / "current/chain.pem").write_text("gone")
    key = KEYS["p256"]()
    ca.import_issuer(ca.pem(certificate("own", key)), key=key_pem(key), directory=str(place), force=True)
    assert ca.load(str(place)).certificate.subject.rfc4514_string() == "CN=own"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no certificate", "should have certificates in PEM"),
        ("a key in the chain", "should have certificates in PEM"),
        ("not a CA", "is not the certificate of a CA"),
        ("no constraints", "is not the certificate of a CA"),
        ("may not sign", "may not sign certificates"),
        ("too deep", "allows no more than 0 CAs below it"),
        ("wrong order", "its certificates are in another order than the issuer's first"),
        ("another root of that name", "is not signed by"),
        ("expired", "expired at"),
        ("early", "is not valid before"),
        ("early root", "is not valid before"),
        ("nameless", "has an empty subject"),
        ("ed25519", "has neither an RSA nor an EC key"),
        ("rsa1024", "an RSA key of 2048 bits or more"),
        ("p192", "an RSA key of 2048 bits or more"),
        ("another key", "is not the key of the first certificate"),
        ("encrypted key", "is encrypted"),
        ("no key", "is not a private key in PEM"),
    ],
)
def test_what_does_not_fit_is_not_imported(place, case, words):
    root_key, key = KEYS["p256"](), KEYS["p256"]()
    if case == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif case == "rsa1024":
        key = rsa.generate_private_key(65537, 1024)
    elif case == "p192":
        key = ec.generate_private_key(ec.SECP192R1())
    root = certificate("root", root_key, below=0 if case == "too deep" else None)
    options = {
        "not a CA": {"is_ca": False},
        "no constraints": {"is_ca": None},
        "may not sign": {"usage": "digital_signature"},
        "expired": {"end": NOW - DAY},
        "early": {"begin": NOW + DAY / 2},
    }
    if case == "early root":
        root = certificate("root", root_key, begin=NOW + DAY / 2)
    issuer = certificate("" if case == "nameless" else "issuer", key, root, root_key, **options.get(case, {}))
    chain = chain_of(issuer, root)
    if case == "no certificate":
        chain = b"nothing"
    elif case == "a key in the chain":
        chain += key_pem(key)
    elif case == "wrong order":
        chain = chain_of(root, issuer)
    elif case == "too deep":
        lower_key = KEYS["p256"]()
        chain, key = chain_of(certificate("lower", lower_key, issuer, key), issuer, root), lower_key
    elif case == "another root of that name":
        chain = chain_of(issuer, certificate("root", KEYS["p256"]()))
    text = key_pem(key)
    if case == "another key":
        text = key_pem(KEYS["p256"]())
    elif case == "encrypted key":
        encryption = serialization.BestAvailableEncryption(b"secret")
        text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    elif case == "no key":
        text = b"nothing"
    error = refusal(ca.import_issuer, chain, key=text, directory=str(place))
    assert error.code is Code.CA_UNUSABLE
    assert words in error.message
    assert "restore" not in error.remedy
    assert not place.exists()


def test_a_clock_that_was_set_back_stops_no_ca(place, monkeypatch):
    authority = ca.obtain(str(place))
    monkeypatch.setattr(validity, "now", lambda: NOW - DAY)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).public_key(authority.certificate.public_key())
    assert ca.load(str(place)).issue(builder).issuer == authority.certificate.subject


def test_an_issuer_that_has_expired_since_signs_no_more(place, monkeypatch):
    key = KEYS["p256"]()
    authority, _ = ca.import_issuer(ca.pem(certificate("own", key)), key=key_pem(key), directory=str(place))
    monkeypatch.setattr(validity, "now", lambda: NOW + 2 * DAY)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).public_key(key.public_key())
    error = refusal(authority.issue, builder)
    assert error.message.startswith(f"{place} cannot be used: CN=own expired at ")
    assert error.remedy == (  # not the CA of the host, which is another
        f"see that the clock is right: date -u; if it is, import another issuer: vtpmctl ca import --force --ca {place}"
    )


def test_remedies_are_about_the_ca_that_is_meant(tmp_path, monkeypatch):
    place = tmp_path / "a b"
    authority = ca.obtain(str(place))
    (place / "current/issuer-key.pem").chmod(0o640)
    assert refusal(ca.load, str(place)).remedy.endswith(f"vtpmctl ca import --force --ca '{place}'")
    monkeypatch.setattr(validity, "now", lambda: datetime.datetime(1999, 1, 1, tzinfo=datetime.timezone.utc))
    complaint = authority.complaint()
    assert complaint is not None
    assert complaint.remedy.endswith(f"move '{place}' aside, and make a new CA: vtpmctl ca create --ca '{place}'")
    in_use = authority._replace(directory=ca.DIRECTORY).complaint()
    assert in_use is not None
    assert in_use.remedy.endswith("vtpmctl ca create")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"command": []}',
        '{"command": "openssl"}',
        '{"command": ["openssl"]}',
        '{"command": ["/x", 1]}',
        "[" * 9999,
    ],
)
def test_a_signer_file_that_says_something_else_is_refused(place, text):
    key = KEYS["p256"]()
    ca.import_issuer(ca.pem(certificate("own", key)), key=key_pem(key), directory=str(place))
    (place / "current/issuer-key.pem").rename(place / "current/signer.json")
    (place / "current/signer.json").write_text(text)
    error = refusal(ca.load, str(place))
    assert error.code is Code.CA_UNUSABLE
    wrong = 'have one object with "command", a list of words'
    if text == '{"command": ["openssl"]}':
        wrong = "name the program by its whole path, not openssl"
    assert error.message == f"{place}/current/signer.json should {wrong}"
    assert error.remedy == "restore the directory of the CA from a backup; nothing was changed"


def test_the_files_of_a_signer_are_readable_json(place):
    assert json.loads(ca._signer_file(("/usr/bin/x", "a b")))["command"] == ["/usr/bin/x", "a b"]


def test_a_chain_in_another_order_is_told_which_is_right(place):
    """As many tools write it: the root first.

    Where a root allows no CA below the issuer, its path length was blamed for it.
    """
    keys = [KEYS["p256"]() for _ in range(3)]
    root = certificate("root", keys[0])
    middle = certificate("middle", keys[1], root, keys[0])
    issuer = certificate("issuer", keys[2], middle, keys[1])
    for chain in ((root, middle, issuer), (middle, issuer, root), (issuer, root, middle), (middle, root, issuer)):
        error = refusal(ca.import_issuer, chain_of(*chain), key=key_pem(keys[2]), directory=str(place))
        assert error.remedy == "put them in this order: CN=issuer, then CN=middle, then CN=root; nothing was changed"
    ca.import_issuer(chain_of(issuer, middle, root), key=key_pem(keys[2]), directory=str(place))
