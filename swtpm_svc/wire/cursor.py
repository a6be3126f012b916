"""Reading big-endian fields one after another, as both versions of the TPM lay out what they answer."""

from struct import Struct

from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import Bytes

_UINT16 = Struct(">H")
_UINT32 = Struct(">I")


class Cursor:
    """A place in `data`, which moves as fields are taken.

    Every method raises ProtocolError when the data ends too early.
    """

    def __init__(self, data: Bytes) -> None:
        self._data = bytes(data)
        self.position = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.position + size
        if end > len(self._data):
            raise ProtocolError(
                f"the field at offset {self.position} has {size} bytes, the data ends after {len(self._data)}"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def uint8(self) -> int:
        return self.take(1)[0]

    def uint16(self) -> int:
        (value,) = _UINT16.unpack(self.take(2))
        return int(value)

    def uint32(self) -> int:
        (value,) = _UINT32.unpack(self.take(4))
        return int(value)

    def sized16(self) -> bytes:
        """A TPM2B_: a size of two bytes, and that many bytes."""
        return self.take(self.uint16())

    def sized32(self) -> bytes:
        """The same with a size of four bytes, as TPM 1.2 has it."""
        return self.take(self.uint32())

    def rest(self) -> bytes:
        return self.take(self.left)

    @property
    def left(self) -> int:
        """How many bytes are not taken yet."""
        return len(self._data) - self.position

    @property
    def at_end(self) -> bool:
        return self.position == len(self._data)

    def since(self, start: int) -> bytes:
        """What was taken from offset `start` on."""
        return self._data[start : self.position]

    def finish(self) -> None:
        """There must be no more."""
        if self.left:
            raise ProtocolError(f"{self.left} bytes are left after the last field")
