"""The key that swtpm_cert signs with, in PEM, with a password and without."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import swtpm_signer

CLEAR, LOCKED = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"secret")


@pytest.fixture
def key(tmp_path):
    """Writes a key; its path."""

    def write(private, encryption):
        path = tmp_path / "key.pem"
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, encryption))
        return str(path)

    return write


@pytest.mark.parametrize(("encryption", "password"), [(CLEAR, None), (CLEAR, b"needless"), (LOCKED, b"secret")])
def test_a_key_is_loaded(key, encryption, password):
    private = ec.generate_private_key(ec.SECP256R1())
    found = swtpm_signer.load_key(key(private, encryption), password)
    assert found.private_numbers() == private.private_numbers()


@pytest.mark.parametrize(
    ("encryption", "password", "remedy"),
    [
        (LOCKED, None, "give its password: --signkey-pwd"),
        (LOCKED, b"wrong", "name a private key in PEM, and its password"),
    ],
)
def test_a_key_that_its_password_does_not_open(key, encryption, password, remedy):
    path = key(ec.generate_private_key(ec.SECP256R1()), encryption)
    with pytest.raises(VtpmError, match="Could not import signing key") as refused:
        swtpm_signer.load_key(path, password)
    assert (refused.value.code, refused.value.remedy) == (Code.CA_UNUSABLE, remedy)


def test_a_key_that_cannot_sign(key):
    with pytest.raises(VtpmError, match="it is of a kind that signs no certificates here"):
        swtpm_signer.load_key(key(x25519.X25519PrivateKey.generate(), CLEAR), None)
