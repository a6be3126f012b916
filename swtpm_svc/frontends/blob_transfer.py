"""State blobs in pieces: how one opener of the device carries a blob over several ioctls, or reads and writes.

A download begins with GET_STATEBLOB at offset 0, which fixes the blob; later offsets, and read(), continue in it. An
upload ends with a SET_STATEBLOB that is not full, or is begun by an empty one and goes on by write()
(swtpm/tpm_ioctl.h, at struct ptm_getstate and ptm_setstate).
"""

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire import ptm
from swtpm_svc.wire.hints import Optional

#: Far above what either TPM version has; a client may not fill our memory.
MAX_BLOB_BYTES = 1 << 20


class Download:
    """The blob that a client is fetching, and how far it is."""

    def __init__(self, blob_type: int, blob: bytes, state_flags: int) -> None:
        self.blob_type = blob_type
        self.state_flags = state_flags
        self._blob = blob
        self._position = 0

    def __len__(self) -> int:
        return len(self._blob)

    def chunk(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on."""
        data = self._blob[offset : offset + size]
        self._position = offset + len(data)
        return data

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        return self.chunk(self._position, size)

    @property
    def finished(self) -> bool:
        return self._position >= len(self._blob)


class Upload:
    """The blob that a client is bringing."""

    def __init__(self, blob_type: int) -> None:
        self.blob_type = blob_type
        self._pieces = bytearray()
        self._by_write = False

    def add(self, request: ptm.SetStateBlob) -> Optional[ptm.SetStateBlob]:
        """Take an ioctl's piece; the whole blob once this was the last.

        Raises:
            VtpmError TOO_LARGE: it is larger than any state blob.
        """
        if not request.data and not self._pieces and not self._by_write:
            self._by_write = True
            return None
        self.write(request.data)
        if len(request.data) == ptm.STATE_BLOB_CHUNK:
            return None
        return ptm.SetStateBlob(request.state_flags, request.type, bytes(self._pieces))

    def write(self, data: "bytes | memoryview") -> None:
        """Take a piece that came by write(2)."""
        if len(self._pieces) + len(data) > MAX_BLOB_BYTES:
            cause = f"a state blob of more than {MAX_BLOB_BYTES} bytes"
            raise VtpmError(Code.TOO_LARGE, cause, remedy="send one that a TPM gave, as vtpmctl save does")
        self._pieces += data
