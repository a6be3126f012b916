"""Refusals on the way to a certificate: without `cryptography`, and of what lies in the CA's directory."""

import os
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca
from swtpm_svc.provision.ca_directory import CaDirectory
from swtpm_svc.provision.issuer import Issuer

PLATFORM = ("a", "b", "c", "d")


def test_without_cryptography_it_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("cryptography", "swtpm_svc.provision.c"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)  # what an import of it then raises is ImportError
    import swtpm_svc.provision

    for name in ("ca", "certificates"):
        monkeypatch.delattr(swtpm_svc.provision, name, raising=False)
    issuer = Issuer(str(tmp_path / "ca"), PLATFORM)
    for call in (issuer.wait, issuer.complaint):
        with pytest.raises(VtpmError, match="cryptography cannot be used") as caught:
            call()
        assert caught.value.code is Code.INSTALLATION
        assert "install python3-cryptography" in caught.value.remedy
    assert not (tmp_path / "ca").exists()


def test_an_unusable_ca_is_told_to_each_who_asks(tmp_path):
    (tmp_path / "ca").write_text("no directory")
    issuer = Issuer(str(tmp_path / "ca"), PLATFORM)
    for call in (issuer.wait, issuer.complaint):
        with pytest.raises(VtpmError) as caught:
            call()
        assert caught.value.code in (Code.CA_UNUSABLE, Code.STATE_UNWRITABLE)


@pytest.fixture
def made(tmp_path):
    directory = CaDirectory(str(tmp_path / "ca"))
    with directory.locked() as locked:
        locked.replace({"a": b"content"})
    return directory


def test_what_is_no_file_is_not_taken_for_one(made):
    """A FIFO would read as an empty file."""
    os.mkfifo(made.file("fifo"), 0o600)
    with pytest.raises(VtpmError, match="fifo is not a regular file") as caught:
        made.read()
    assert caught.value.code is Code.CA_UNUSABLE


def test_a_file_that_others_may_use_is_refused(made):
    os.chmod(made.file("a"), 0o640)
    with pytest.raises(VtpmError, match="has the mode 0640, others may use it"):
        made.read()


def test_an_imported_key_is_kept_in_one_form_and_with_nothing_else(tmp_path):
    """Whatever it came with: an older form, a text before it."""
    made = ca.obtain(str(tmp_path / "made"))
    (tmp_path / "used").mkdir(0o700)
    chain = b"".join(map(ca.pem, made.chain))
    key = serialization.load_pem_private_key(_key_of(tmp_path / "made"), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    older = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    imported, _kept = ca.import_issuer(chain, key=b"Its owner is\n" + older, directory=str(tmp_path / "used"))
    assert isinstance(imported.chain[0], x509.Certificate)
    assert _key_of(tmp_path / "used") == key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_of(place):
    return (place / "current" / ca.ISSUER_KEY).read_bytes()
