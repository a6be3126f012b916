"""Keys and sealing, against what swtpm 0.7.1 wrote (recorded), and against every flipped byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.state import blob, encryption
from swtpm_svc.state.blob import BlobError, DamagedBlob, EncryptedBlob, WrongKey
from swtpm_svc.state.encryption import BadKey, Keys, NotAuthentic, Sealed, StateKey

K128, K256 = StateKey(bytes(range(16))), StateKey(bytes(range(32)))
OTHER128, OTHER256 = StateKey(bytes(range(1, 17))), StateKey(bytes(range(1, 33)))
EVERY_KEY = [K128, K256]
OTHER = {"aes-cbc": OTHER128, "aes-256-cbc": OTHER256}
PERMALL_2_0 = bytes.fromhex("0003ab36472300030003c9ea643100010000007800000001")


@pytest.mark.parametrize("key", EVERY_KEY, ids=repr)
@given(text=st.binary(max_size=100))
def test_what_is_sealed_opens_with_its_key_alone(key, text):
    sealed = key.seal(text)
    assert len(sealed.iv) == len(key._key)
    size = len(sealed.iv)
    assert len(sealed.ciphertext) == (len(text) // size + 1) * size
    assert key.open(sealed) == text
    for wrong in (OTHER[key.mode], K256 if key is K128 else K128):
        with pytest.raises(NotAuthentic):
            wrong.open(sealed)


@pytest.mark.parametrize("key", EVERY_KEY, ids=repr)
def test_no_flipped_bit_and_no_truncation_opens(key):
    sealed = key.seal(PERMALL_2_0)
    for part in Sealed._fields:
        value = getattr(sealed, part)
        for bit in range(len(value) * 8):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(NotAuthentic):
                key.open(sealed._replace(**{part: bytes(flipped)}))
        for length in range(len(value)):
            with pytest.raises(NotAuthentic):
                key.open(sealed._replace(**{part: value[:length]}))


@pytest.mark.parametrize("key", EVERY_KEY, ids=repr)
def test_bytes_do_not_move_from_the_iv_into_the_ciphertext(key):
    """The HMAC is over the two in a row, and would not notice."""
    sealed = key.seal(bytes(64))
    for moved in (-32, -16, 16, 32):
        row, size = sealed.ciphertext + sealed.iv, len(sealed.ciphertext) + moved
        with pytest.raises(NotAuthentic):
            key.open(Sealed(row[:size], sealed.mac, row[size:]))


def test_the_same_text_is_sealed_differently_each_time():
    assert len({K128.seal(PERMALL_2_0) for _ in range(20)}) == 20


def test_keys_from_hex():
    for text in (
        "000102030405060708090a0b0c0d0e0f",
        "0x000102030405060708090A0B0C0D0E0F",
        "000102030405060708090a0b0c0d0e0f \n",
    ):
        assert encryption.from_hex(text.encode()) == K128
    assert encryption.from_hex(bytes(range(32)).hex().encode()) == K256


@pytest.mark.parametrize(
    "text", ["", "0x", "00", "0" * 31, "0" * 33, "0" * 48, "g" * 32, "0" * 32 + "zz", "0" * 32 + " 1", "0X" + "0" * 32]
)
def test_what_is_no_hex_key_is_refused(text):
    with pytest.raises(BadKey):
        encryption.from_hex(text.encode())


@pytest.mark.parametrize("size", [0, 15, 17, 24, 31, 33, 64])
def test_keys_of_another_size_are_refused(size):
    with pytest.raises(BadKey):
        StateKey(bytes(size))


@pytest.mark.parametrize("text", [b"", b"\n", b" \t\n"])
@pytest.mark.parametrize("kdf", encryption.KDFS)
def test_an_empty_passphrase_is_refused(text, kdf):
    with pytest.raises(BadKey, match="empty"):
        encryption.from_passphrase(text, kdf, "aes-cbc")


def test_every_byte_of_a_passphrase_counts():
    """The end of the line too (measured): with and without, with a NUL in it, of any length."""
    texts = (b"secret", b"secret\n", b"sec\0ret", b"s" * 200, b"s" * 201)
    derived = [encryption.from_passphrase(text, kdf, "aes-256-cbc")._key for text in texts for kdf in encryption.KDFS]
    assert len(set(derived)) == len(derived)


def test_a_key_does_not_show_itself():
    key = encryption.from_passphrase(b"secret", "pbkdf2", "aes-cbc")
    assert (repr(key), str(key), f"{key}") == ("<aes-cbc key>",) * 3


@pytest.mark.parametrize("key", EVERY_KEY, ids=repr)
@given(payload=st.binary(min_size=1, max_size=200))
def test_an_encrypted_file_decodes(key, payload):
    data = blob.encode_checked(payload, key)
    decoded = blob.decode(data)
    assert decoded.flags == {"aes-cbc": 1, "aes-256-cbc": 9}[key.mode]
    assert blob.payload(decoded, Keys(state=key)) == payload
    assert payload not in data or len(payload) < 4


BOTH = [Keys(state, migration) for state in (None, K128, K256) for migration in (None, K128, K256)]
#: The flags of the blobs of swtpm 0.7.1, by (mode of the key for files, of the key for migration).
FLAGS = {
    (None, None): 4,
    ("aes-cbc", None): 5,
    ("aes-256-cbc", None): 13,
    (None, "aes-cbc"): 6,
    (None, "aes-256-cbc"): 22,
    ("aes-cbc", "aes-cbc"): 7,
    ("aes-256-cbc", "aes-256-cbc"): 31,
}


@pytest.mark.parametrize("keys", BOTH, ids=str)
@pytest.mark.parametrize("decrypted", [True, False])
def test_a_blob_of_the_control_protocol_decodes(keys, decrypted):
    data = blob.encode_migration(PERMALL_2_0, keys, decrypted=decrypted)
    decoded = blob.decode(data)
    assert blob.payload(decoded, keys) == PERMALL_2_0
    assert blob.is_encrypted(decoded) == (keys.state is not None and not decrypted)
    modes = (keys.state.mode if keys.state and not decrypted else None, keys.migration.mode if keys.migration else None)
    assert decoded.flags == FLAGS.get(modes, decoded.flags)
    if any(modes):
        with pytest.raises(EncryptedBlob):
            blob.payload(decoded)
        assert PERMALL_2_0 not in data
    for missing in [keys._replace(**{name: None}) for name, mode in zip(Keys._fields, modes) if mode]:
        with pytest.raises(EncryptedBlob):
            blob.payload(decoded, missing)
    for wrong in [keys._replace(**{name: OTHER[mode]}) for name, mode in zip(Keys._fields, modes) if mode]:
        with pytest.raises(WrongKey, match=r"another (migration )?key"):
            blob.payload(decoded, wrong)


def test_another_cipher_is_called_that():
    with pytest.raises(WrongKey, match="with aes-cbc, but the key is one for aes-256-cbc"):
        blob.payload(blob.decode(blob.encode_checked(PERMALL_2_0, K128)), Keys(state=K256))


def flips(data: bytes) -> "list[bytes]":
    flipped = []
    for bit in range(len(data) * 8):
        one = bytearray(data)
        one[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(one))
    return flipped


@pytest.mark.parametrize("key", EVERY_KEY, ids=repr)
def test_no_flipped_bit_in_an_encrypted_file_changes_the_payload(key):
    """Whose checksum is gone is still guarded by the HMAC; what is harmless is the version, and the checksum's own
    tag."""
    data = blob.encode_checked(PERMALL_2_0, key)
    harmless = 0
    for flipped in flips(data):
        try:
            assert blob.payload(blob.decode(flipped), Keys(state=key)) == PERMALL_2_0
            harmless += 1
        except BlobError:
            pass
    # the tag has 16 bits; the HMAC guards all of what follows it and its own length does not matter then
    assert harmless <= 16


@pytest.mark.parametrize("keys", [Keys(K128, None), Keys(None, K256), Keys(K128, K256)], ids=str)
def test_no_flipped_bit_in_an_encrypted_blob_changes_the_payload(keys):
    data = blob.encode_migration(PERMALL_2_0, keys)
    for flipped in flips(data):
        try:
            assert blob.payload(blob.decode(flipped), keys) == PERMALL_2_0
        except BlobError:
            pass


@pytest.mark.parametrize("keys", [Keys(K128, None), Keys(None, K256), Keys(K128, K256)], ids=str)
def test_truncated_encrypted_state_is_refused(keys):
    for data in (
        blob.encode_migration(PERMALL_2_0, keys),
        blob.encode_checked(PERMALL_2_0, keys.state or keys.migration),
    ):
        for length in range(len(data)):
            with pytest.raises(BlobError):
                blob.payload(blob.decode(data[:length]), keys)


def test_a_damaged_file_with_a_checksum_is_not_taken_for_a_wrong_key():
    data = bytearray(blob.encode_checked(PERMALL_2_0, K128))
    data[30] ^= 1
    with pytest.raises(DamagedBlob):
        blob.decode(data)


@given(st.binary(max_size=120), st.integers(0, 63))
def test_any_bytes_under_any_flags_are_refused_or_decode(body, flags):
    data = blob.HEADER.pack(2, 1, 10, flags, 10 + len(body)) + body
    for keys in BOTH:
        try:
            blob.payload(blob.decode(data), keys)
        except BlobError:
            pass


@pytest.mark.parametrize(
    ("kdf", "key"),
    [
        ("sha512", "56b698defedb5a435b634afe3320bbaf3fdcd920b6c503a446fc7b7a776b298d"),
        ("pbkdf2", "5a2c140e5ccb2afd047abf51803052a37f120bc89c4759e0091816183e072d57"),
    ],
)
def test_a_key_from_a_passphrase(kdf, key):
    """Of sha512sum(1), and of openssl kdf PBKDF2 with swtpm's salt and its 1000 rounds; AES-128 takes the first half."""
    assert encryption.from_passphrase(b"correct horse", kdf, "aes-256-cbc")._key == bytes.fromhex(key)
    half = encryption.from_passphrase(b"correct horse", kdf, "aes-cbc")._key
    assert half == bytes.fromhex(key)[:16]
