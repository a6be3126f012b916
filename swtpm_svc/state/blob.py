"""The state blob, swtpm's container for what a TPM keeps: bytes <-> values.

Every state file on disk and every blob of the control protocol's GET_STATEBLOB and SET_STATEBLOB is one. The layout was
measured on the files and blobs of swtpm 0.7.1, TPM 1.2 and 2.0, with and without keys; everything is big-endian:

    version u8 (2), min_version u8 (1), header_size u16 (10), flags u16, total_length u32, then TLVs: tag u16, length
    u32, value

    what it is                            flags             TLVs
    file, plain                           0                 DATA
    file, encrypted                       1 (9: 256 bit)    ENCRYPTED_DATA, HMAC, IV
    blob, plain                           4                 MIGRATION_DATA = (DATA)
    blob, file key only, still encrypted  5 (13: 256 bit)   MIGRATION_DATA = (ENCRYPTED_DATA, HMAC, IV)
    blob, migration key                   6 (22: 256 bit)   ENCRYPTED_MIGRATION_DATA, HMAC, MIGRATION_IV
    blob, both keys                       7 (31: 256 bit)   the same, around the encrypted form

A file's encrypted text is the payload; that of a blob is the TLVs that it would have without migration key. Asked for
in clear (PTM_STATE_FLAG_DECRYPTED), a blob is without the file key's encryption, but never without the migration key's.
How it is encrypted: encryption.py.

A reader must know at least `min_version`; TLVs that it does not know it skips. Two older forms are read too: version 1,
where the payload follows the header at once, and the bare payload without a header.

The payload is libtpms' business, and it says whose it is in its first bytes (`payload_version`). libtpms guards all
payloads with a SHA-1 of its own except the permanent state of a TPM 2.0: of 400 single flipped bits in one, 203 were
loaded without a word. So the files that we write carry one more TLV, CHECKSUM; swtpm skips it, and drops it when it
rewrites the file.
"""

import struct
from zlib import crc32

from swtpm_svc.state.encryption import MAC_SIZE, MODES, NO_KEYS, Keys, NotAuthentic, Sealed, StateKey
from swtpm_svc.wire.enumerations import IntEnum, IntFlag, unique
from swtpm_svc.wire.hints import Optional, Union
from swtpm_svc.wire.values import NamedTuple

HEADER = struct.Struct(">BBHHI")  # version min_version header_size flags total_length
TLV = struct.Struct(">HI")  # tag length
CHECKSUM = struct.Struct(">I")  # CRC-32 (zlib's) of every byte before the CHECKSUM TLV, the header included

VERSION = 2
MIN_VERSION = 1
#: Version 1 has no TLVs: the payload follows the header.
VERSION_WITHOUT_TLVS = 1

#: How a file begins in which swtpm's other back end (backend-uri=file://) keeps all of a TPM: eight letters as a
#: number, in the byte order of the machine that made it (seen with 0.7.1).
LINEAR_BEGINNINGS = (b"nilmptws", b"swtpmlin")

Buffer = Union[bytes, bytearray, memoryview]


class BlobError(ValueError):
    """These bytes are not a state blob that can be used.

    The text says why in a few words, to go after a file's name.
    """


class TruncatedBlob(BlobError):
    """There are fewer bytes than the blob says it has."""


class DamagedBlob(BlobError):
    """The blob contradicts itself, or its checksum does."""


class LinearFile(BlobError):
    """It is all of a TPM in one file, of swtpm's file back end."""


class NewerBlob(BlobError):
    """A newer program wrote it and says that programs like this one cannot read it."""


class EncryptedBlob(BlobError):
    """It is encrypted, and no key is configured."""


class WrongKey(BlobError):
    """It is encrypted with another key or cipher than what is configured."""


@unique
class Tag(IntEnum):
    DATA = 1
    ENCRYPTED_DATA = 2
    HMAC = 3
    MIGRATION_DATA = 4
    ENCRYPTED_MIGRATION_DATA = 5
    IV = 6
    MIGRATION_IV = 7
    #: Ours ("vt"), unknown to swtpm.
    CHECKSUM = 0x7674


class Flag(IntFlag):
    ENCRYPTED = 1
    MIGRATION_ENCRYPTED = 2
    #: A blob of the control protocol, not a file.
    MIGRATION = 4
    KEY_256_BIT = 8
    MIGRATION_KEY_256_BIT = 16


class Blob(NamedTuple):
    """One blob, its TLVs by tag; of a tag that occurs twice the first counts.

    `flags` may hold bits that have no name here.
    """

    version: int
    min_version: int
    flags: int
    tlvs: dict[int, bytes]


def decode(data: Buffer) -> Blob:
    """Take a blob apart and check what can be checked without a key.

    The two older forms come out as a Blob of version 1 (header) or 0 (bare payload) with the one TLV DATA.

    Raises:
        TruncatedBlob, DamagedBlob, NewerBlob, LinearFile
    """
    view = memoryview(data)
    if bytes(view[:8]) in LINEAR_BEGINNINGS:
        raise LinearFile("it is a file in which swtpm's file back end keeps all of a TPM (backend-uri=file://)")
    if len(view) < HEADER.size:
        raise TruncatedBlob(f"it is cut off after {len(view)} bytes" if view else "it is empty")
    version, min_version, header_size, flags, total_length = HEADER.unpack_from(view)
    if payload_version(view):
        return Blob(0, 0, 0, {Tag.DATA: bytes(view)})
    if min_version > VERSION and header_size >= HEADER.size:
        raise NewerBlob(
            f"it is of format version {version}, for readers of version {min_version}; this one is of version {VERSION}"
        )
    if header_size != HEADER.size:
        raise DamagedBlob(f"its header says that it has {header_size} bytes, not {HEADER.size}")
    if len(view) < total_length:
        raise TruncatedBlob(f"it is cut off after {len(view)} of {total_length} bytes")
    if len(view) > total_length:
        raise DamagedBlob(f"its header says {total_length} bytes, but there are {len(view)}")
    if version <= VERSION_WITHOUT_TLVS:
        return _decode_without_tlvs(view, version, min_version, flags)
    tlvs = _decode_tlvs(view, HEADER.size)
    _check_form(flags, tlvs)
    return Blob(version, min_version, flags, tlvs)


def is_encrypted(blob: Blob) -> bool:
    """Is what it holds encrypted with a key for files, whether or not there is a migration key's encryption around
    it?"""
    return bool(blob.flags & Flag.ENCRYPTED)


def payload(blob: Blob, keys: Keys = NO_KEYS) -> bytes:
    """What libtpms is to get, from a file or from a blob of the control protocol. A key that is not needed is not used.

    Raises:
        EncryptedBlob: it needs a key that is not among these
        WrongKey: it needs another one
        DamagedBlob: there is no payload in it
    """
    tlvs = blob.tlvs
    is_checked = Tag.CHECKSUM in tlvs
    if blob.flags & Flag.MIGRATION_ENCRYPTED:
        parts, is_256_bit = (
            (Tag.ENCRYPTED_MIGRATION_DATA, Tag.MIGRATION_IV),
            bool(blob.flags & Flag.MIGRATION_KEY_256_BIT),
        )
        inner = _open(tlvs, parts, keys.migration, "migration key", is_256_bit=is_256_bit, is_checked=is_checked)
        tlvs = _decode_tlvs(memoryview(inner), 0)
    elif Tag.MIGRATION_DATA in tlvs:
        tlvs = _decode_tlvs(memoryview(tlvs[Tag.MIGRATION_DATA]), 0)
    if blob.flags & Flag.ENCRYPTED:
        is_256_bit = bool(blob.flags & Flag.KEY_256_BIT)
        found: Optional[bytes] = _open(
            tlvs, (Tag.ENCRYPTED_DATA, Tag.IV), keys.state, "key", is_256_bit=is_256_bit, is_checked=is_checked
        )
    else:
        found = tlvs.get(Tag.DATA)
    if not found:
        raise DamagedBlob("there is no TPM state in it")
    return found


def encode_checked(payload: Buffer, key: Optional[StateKey] = None) -> bytes:
    """A file, plain or encrypted, with our checksum behind all else."""
    flags, body = _state_part(payload, key)
    size = HEADER.size + len(body) + TLV.size + CHECKSUM.size
    front = HEADER.pack(VERSION, MIN_VERSION, HEADER.size, flags, size) + body
    return front + _tlv(Tag.CHECKSUM, CHECKSUM.pack(crc32(front)))


def encode_migration(payload: Buffer, keys: Keys = NO_KEYS, *, decrypted: bool = False) -> bytes:
    """A blob as GET_STATEBLOB gives it out; without keys byte for byte as swtpm's.

    `decrypted`: not with the key for files.
    """
    flags, body = _state_part(payload, None if decrypted else keys.state)
    flags |= Flag.MIGRATION
    if keys.migration is None:
        return _encode(flags, _tlv(Tag.MIGRATION_DATA, body))
    flags |= Flag.MIGRATION_ENCRYPTED | (Flag.MIGRATION_KEY_256_BIT if _is_256_bit(keys.migration) else 0)
    return _encode(flags, _sealed_part(body, keys.migration, Tag.ENCRYPTED_MIGRATION_DATA, Tag.MIGRATION_IV))


def _state_part(payload: Buffer, key: Optional[StateKey]) -> tuple[int, bytes]:
    """The flags and TLVs of a payload."""
    if key is None:
        return 0, _tlv(Tag.DATA, payload)
    flags = Flag.ENCRYPTED | (Flag.KEY_256_BIT if _is_256_bit(key) else 0)
    return flags, _sealed_part(bytes(payload), key, Tag.ENCRYPTED_DATA, Tag.IV)


def _sealed_part(text: bytes, key: StateKey, data_tag: Tag, iv_tag: Tag) -> bytes:
    sealed = key.seal(text)
    return _tlv(data_tag, sealed.ciphertext) + _tlv(Tag.HMAC, sealed.mac) + _tlv(iv_tag, sealed.iv)


def _is_256_bit(key: StateKey) -> bool:
    return MODES[key.mode] == 32


def _open(
    tlvs: dict[int, bytes],
    parts: tuple[Tag, Tag],
    key: Optional[StateKey],
    name: str,
    *,
    is_256_bit: bool,
    is_checked: bool,
) -> bytes:
    """Decrypt what has the tags of data and IV in `parts`, and an HMAC."""
    mode = "aes-256-cbc" if is_256_bit else "aes-cbc"
    if key is None:
        raise EncryptedBlob(f"it is encrypted with {mode}, and no {name} is configured")
    missing = [tag.name for tag in (parts[0], Tag.HMAC, parts[1]) if tag not in tlvs]
    if missing or len(tlvs[Tag.HMAC]) != MAC_SIZE:
        raise DamagedBlob(f"it says that it is encrypted, but has no good {' and '.join(map(str, missing)) or 'HMAC'}")
    if key.mode != mode:
        raise WrongKey(f"it is encrypted with {mode}, but the {name} is one for {key.mode}")
    try:
        return key.open(Sealed(tlvs[parts[0]], tlvs[Tag.HMAC], tlvs[parts[1]]))
    except NotAuthentic:
        either = f"it is encrypted with another {name}"
        raise WrongKey(either if is_checked else f"{either}, or damaged") from None


#: The magic numbers at offset 2 of a TPM 2.0's permanent and volatile state.
_MAGIC_2_0 = (b"\xab\x36\x47\x23", b"\x45\x63\x78\x89")
#: How a TPM 1.2's state begins: a format tag of 1 before TPM_TAG_PERMANENT_DATA (0x22, TPM Main Part 2, section 3.1),
#: the volatile state's version and tag, and the saved state's TPM_TAG_STCLEAR_FLAGS.. (0x24).
_BEGINNINGS_1_2 = (b"\x00\x01\x00\x22\x00", b"\x00\x01\x00\x01\x01\x02", b"\x00\x24\x00\x00")


def payload_version(payload: Buffer) -> Optional[str]:
    """Whose state this is, "1.2" or "2.0", by its first bytes; None when they say neither."""
    start = bytes(payload[:6])
    if start[2:6] in _MAGIC_2_0:
        return "2.0"
    return "1.2" if start.startswith(_BEGINNINGS_1_2) else None


def _tlv(tag: int, value: Buffer) -> bytes:
    return b"".join((TLV.pack(tag, len(value)), value))


def _encode(flags: int, body: bytes) -> bytes:
    return HEADER.pack(VERSION, MIN_VERSION, HEADER.size, flags, HEADER.size + len(body)) + body


def _decode_tlvs(view: memoryview, position: int) -> dict[int, bytes]:
    tlvs: dict[int, bytes] = {}
    while position < len(view):
        start = position
        # swtpm reads a file with a few odd bytes behind its TLVs; nothing writes such a file, so it is damage
        if len(view) - position < TLV.size:
            raise DamagedBlob(f"{len(view) - position} bytes at offset {position} belong to nothing")
        tag, length = TLV.unpack_from(view, position)
        position += TLV.size + length
        if position > len(view):
            raise DamagedBlob(f"its part {tag} at offset {start} says {length} bytes and goes beyond the end")
        if tag == Tag.CHECKSUM:
            _check_checksum(view, start, position)
        tlvs.setdefault(tag, bytes(view[start + TLV.size : position]))
    return tlvs


def _check_checksum(view: memoryview, start: int, end: int) -> None:
    if end - start != TLV.size + CHECKSUM.size:
        raise DamagedBlob("its checksum has the wrong length")
    (expected,) = CHECKSUM.unpack_from(view, start + TLV.size)
    found = crc32(view[:start])
    if found != expected:
        raise DamagedBlob(f"its checksum is {found:08x}, but should be {expected:08x}")


def _decode_without_tlvs(view: memoryview, version: int, min_version: int, flags: int) -> Blob:
    if flags:
        raise EncryptedBlob("it is in an old encrypted format")
    if not payload_version(view[HEADER.size :]):
        raise DamagedBlob(f"its header says format version {version}, but what follows is not a TPM state")
    return Blob(version, min_version, flags, {Tag.DATA: bytes(view[HEADER.size :])})


def _expected_parts(flags: int) -> tuple[Tag, ...]:
    if flags & Flag.MIGRATION_ENCRYPTED:
        return Tag.ENCRYPTED_MIGRATION_DATA, Tag.HMAC, Tag.MIGRATION_IV
    if flags & Flag.MIGRATION:
        return (Tag.MIGRATION_DATA,)
    if flags & Flag.ENCRYPTED:
        return Tag.ENCRYPTED_DATA, Tag.HMAC, Tag.IV
    return (Tag.DATA,)


def _check_form(flags: int, tlvs: dict[int, bytes]) -> None:
    missing = [tag.name for tag in _expected_parts(flags) if tag not in tlvs]
    if missing:
        raise DamagedBlob(f"it says that it has {' and '.join(missing)}, but has not")
