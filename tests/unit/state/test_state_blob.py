"""The state blob codec, with heads of files and blobs recorded from swtpm 0.7.1, and with any bytes at all."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_blob import encode_plain

from swtpm_svc.state import blob
from swtpm_svc.state.blob import BlobError, DamagedBlob, EncryptedBlob, Flag, NewerBlob, Tag, TruncatedBlob

PERMALL_2_0 = bytes.fromhex("0003ab36472300030003c9ea643100010000007800000001")
VOLATILE_2_0 = bytes.fromhex("0004456378890001000000000000000000010100400000080000")
PERMALL_1_2 = bytes.fromhex("00010022000000000000000000000000000000000000000000")
VOLATILE_1_2 = bytes.fromhex("000100010102000100180800001400 0a0010000400100010".replace(" ", ""))
SAVESTATE_1_2 = bytes.fromhex("0024000000000000000000000000000000000000ffffffff40")
PAYLOADS = [
    pytest.param(PERMALL_2_0, "2.0", id="2.0-permall"),
    pytest.param(VOLATILE_2_0, "2.0", id="2.0-volatilestate"),
    pytest.param(PERMALL_1_2, "1.2", id="1.2-permall"),
    pytest.param(VOLATILE_1_2, "1.2", id="1.2-volatilestate"),
    pytest.param(SAVESTATE_1_2, "1.2", id="1.2-savestate"),
]


def tlv(tag: int, value: bytes) -> bytes:
    return struct.pack(">HI", tag, len(value)) + value


def file(
    body: bytes, *, version: int = 2, minimum: int = 1, header_size: int = 10, flags: int = 0, extra: int = 0
) -> bytes:
    return struct.pack(">BBHHI", version, minimum, header_size, flags, 10 + len(body) + extra) + body


@pytest.mark.parametrize("build", [encode_plain, blob.encode_checked, blob.encode_migration])
@given(payload=st.binary(min_size=1, max_size=500))
def test_what_is_encoded_decodes(build, payload):
    assert blob.payload(blob.decode(build(payload))) == payload


def test_a_plain_file_is_what_swtpm_writes():
    """The first 16 bytes of a fresh tpm2-00.permall of 1315 bytes, and of its --save permanent blob of 1321."""
    assert encode_plain(bytes(1299))[:16] == bytes.fromhex("0201000a000000000523000100000513")
    assert blob.encode_migration(bytes(1299))[:22] == bytes.fromhex(
        "0201000a0004000005290004000005190001 00000513".replace(" ", "")
    )


def test_a_checked_file_is_a_plain_one_with_a_part_more():
    plain, checked = encode_plain(PERMALL_2_0), blob.encode_checked(PERMALL_2_0)
    assert checked[10 : len(plain)] == plain[10:]
    assert set(blob.decode(checked).tlvs) == {Tag.DATA, Tag.CHECKSUM}


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    with suppress(BlobError):
        blob.payload(blob.decode(data))


@given(
    header=st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.sampled_from([8, 10, 12]), st.integers(0, 63), st.integers(-7, 7)
    ),
    parts=st.lists(st.tuples(st.sampled_from([*Tag, 99]), st.binary(max_size=20)), max_size=5),
    tail=st.binary(max_size=7),
)
def test_anything_like_a_blob_decodes_or_is_refused(header, parts, tail):
    version, minimum, size, flags, extra = header
    body = b"".join(tlv(tag, value) for tag, value in parts) + tail
    with suppress(BlobError):
        blob.payload(
            blob.decode(file(body, version=version, minimum=minimum, header_size=size, flags=flags, extra=extra))
        )


@pytest.mark.parametrize("build", [encode_plain, blob.encode_checked, blob.encode_migration])
def test_every_truncation_is_called_one(build):
    data = build(PERMALL_2_0)
    for length in range(len(data)):
        with pytest.raises(TruncatedBlob):
            blob.decode(data[:length])


@pytest.mark.parametrize(("payload", "version"), PAYLOADS)
def test_no_flipped_bit_in_a_checked_file_changes_the_payload(payload, version):
    data = blob.encode_checked(payload)
    harmless = 0
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert blob.payload(blob.decode(flipped)) == payload
            harmless += 1
        except BlobError:
            pass
    # only the 16 bits of the checksum's own tag turn it into a part that means nothing
    assert harmless == 16


@given(st.binary(min_size=1, max_size=300), st.data())
def test_no_flipped_bit_in_the_payload_of_a_checked_file_is_missed(payload, data):
    encoded = bytearray(blob.encode_checked(payload))
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    encoded[16 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedBlob, match="checksum"):
        blob.decode(encoded)


def test_bytes_behind_the_end_are_damage():
    with pytest.raises(DamagedBlob, match="says 40 bytes, but there are 41"):
        blob.decode(encode_plain(PERMALL_2_0) + b"x")


def test_bytes_behind_the_parts_are_damage():
    with pytest.raises(DamagedBlob, match="belong to nothing"):
        blob.decode(file(tlv(Tag.DATA, PERMALL_2_0) + b"abc"))


def test_a_part_beyond_the_end_is_damage():
    with pytest.raises(DamagedBlob, match="goes beyond the end"):
        blob.decode(file(struct.pack(">HI", Tag.DATA, 0xFFFFFFFF) + PERMALL_2_0))


def test_an_unknown_part_is_skipped():
    """swtpm 0.7.1 starts from such a file, whether the part is before or behind the data."""
    for body in (tlv(99, b"ab") + tlv(Tag.DATA, PERMALL_2_0), tlv(Tag.DATA, PERMALL_2_0) + tlv(99, b"ab")):
        assert blob.payload(blob.decode(file(body))) == PERMALL_2_0


def test_a_file_without_state_is_damage():
    for body in (b"", tlv(99, b"ab"), tlv(Tag.DATA, b"")):
        with pytest.raises(DamagedBlob):
            blob.payload(blob.decode(file(body)))


def test_a_newer_file_is_read_when_it_says_that_we_can():
    assert blob.payload(blob.decode(file(tlv(Tag.DATA, PERMALL_2_0), version=3, minimum=2))) == PERMALL_2_0


def test_a_newer_file_is_refused_when_it_says_that_we_cannot():
    with pytest.raises(NewerBlob, match="version 4, for readers of version 3"):
        blob.decode(file(tlv(Tag.DATA, PERMALL_2_0), version=4, minimum=3, header_size=14))


@pytest.mark.parametrize("size", [0, 8, 12, 0xFFFF])
def test_another_header_size_is_damage(size):
    """swtpm 0.7.1: `bad header size: 12 != 10`."""
    with pytest.raises(DamagedBlob, match=f"has {size} bytes"):
        blob.decode(file(tlv(Tag.DATA, PERMALL_2_0), header_size=size))


@pytest.mark.parametrize(("payload", "version"), PAYLOADS)
def test_older_forms_are_read(payload, version):
    """swtpm 0.7.1 starts from both: a header of version 1 with the payload at once behind it, and the bare payload."""
    assert blob.payload(blob.decode(file(payload, version=1))) == payload
    assert blob.payload(blob.decode(payload)) == payload


def test_version_1_with_parts_is_damage():
    """swtpm 0.7.1 refuses it too."""
    with pytest.raises(DamagedBlob, match="is not a TPM state"):
        blob.decode(file(tlv(Tag.DATA, PERMALL_2_0), version=1))


def test_version_1_encrypted_is_refused():
    with pytest.raises(EncryptedBlob):
        blob.decode(file(bytes(64), version=1, flags=Flag.ENCRYPTED))


ENCRYPTED = tlv(Tag.ENCRYPTED_DATA, bytes(32)) + tlv(Tag.HMAC, bytes(32)) + tlv(Tag.IV, bytes(16))
MIGRATION = tlv(Tag.ENCRYPTED_MIGRATION_DATA, bytes(32)) + tlv(Tag.HMAC, bytes(32)) + tlv(Tag.MIGRATION_IV, bytes(16))


FILES = [(1, ENCRYPTED), (9, ENCRYPTED), (5, tlv(4, ENCRYPTED)), (13, tlv(4, ENCRYPTED))]
BLOBS = [(6, MIGRATION), (22, MIGRATION), (7, MIGRATION), (31, MIGRATION)]


@pytest.mark.parametrize(("flags", "body"), [*FILES, *BLOBS])
def test_every_encrypted_form_is_known_and_refused(flags, body):
    """The eight forms that swtpm 0.7.1 writes and gives out with --key and --migration-key, of 128 and 256 bits."""
    decoded = blob.decode(file(body, flags=flags))
    assert decoded.flags == flags
    with pytest.raises(EncryptedBlob, match=r"it is encrypted with aes.*cbc, and no (migration )?key is configured"):
        blob.payload(decoded)


def test_an_encrypted_file_without_its_parts_is_damage():
    with pytest.raises(DamagedBlob, match="HMAC and IV"):
        blob.decode(file(tlv(Tag.ENCRYPTED_DATA, bytes(32)), flags=1))


@pytest.mark.parametrize(("payload", "version"), PAYLOADS)
def test_a_payload_says_whose_it_is(payload, version):
    assert blob.payload_version(payload) == version


def test_other_bytes_say_nothing():
    assert [blob.payload_version(data) for data in (b"", b"\x00\x01", bytes(6), encode_plain(PERMALL_2_0))] == [
        None
    ] * 4


@given(st.integers(0, 255))
def test_a_memoryview_decodes_like_bytes(value):
    data = blob.encode_checked(bytes([value]))
    assert blob.decode(memoryview(data)) == blob.decode(bytearray(data)) == blob.decode(data)
