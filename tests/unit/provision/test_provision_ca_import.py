"""An issuer of one's own for the local CA: what is taken, what does not fit, and when it signs no more."""

import datetime
import json
from pathlib import Path

import pytest
from ca_material import DAY, KEYS, NOW, certificate, chain_of, contents, key_pem, refusal
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from swtpm_svc.errors import Code
from swtpm_svc.provision import ca, validity


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "ca"


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
