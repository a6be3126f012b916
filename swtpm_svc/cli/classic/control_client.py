"""The control protocol from the side of a program that is over in a moment: requests as numbers, no values, no words.

It stands on the table of shapes alone (wire/ptm_shapes.py); `cli/tpm_control.py` is what vtpmctl has, with the values
of wire/ptm.py and errors that say what to do.
"""

import _socket
import errno
import fcntl
import os
from struct import Struct

from swtpm_svc.cli.classic.plain_output import write_all
from swtpm_svc.wire.ptm_shapes import SHAPES, STATE_BLOB_CHUNK, number_of, struct_size

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    #: The numbers, of which the first is the TPM's result, and the data.
    Reply = tuple[tuple[int, ...], bytes]

#: More than any TPM says in one reply: a peer may not fill our memory.
_DATA_MAX = 1 << 24


class ControlClient:
    """A TPM that takes control requests.

    `blob_chunk`: bytes of a state blob in one request; 0: all of them.
    """

    blob_chunk = 0

    def exchange(
        self, name: str, numbers: "tuple[int, ...]" = (), data: bytes = b""
    ) -> "tuple[tuple[int, ...], bytes]":
        """Send a request and wait for its reply; a refusal's may be no more than the result.

        Raises:
            OSError
        """
        raise NotImplementedError

    def read(self, size: int) -> bytes:
        """The next piece of the state blob whose beginning came in a reply; a device has it.

        Raises:
            OSError
        """
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """The next piece of the state blob that an empty one began; a device takes it.

        Raises:
            OSError
        """
        raise NotImplementedError


class DeviceClient(ControlClient):
    """Requests are ioctls of a device; `descriptor` stays the caller's."""

    blob_chunk = STATE_BLOB_CHUNK

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def exchange(
        self, name: str, numbers: "tuple[int, ...]" = (), data: bytes = b""
    ) -> "tuple[tuple[int, ...], bytes]":
        shape = SHAPES[name]
        request, reply = Struct(shape.ioctl_request), Struct(shape.ioctl_reply)
        if shape.request_data:
            numbers = (*numbers, len(data))
        buffer = bytearray((request.pack(*numbers) + data).ljust(struct_size(shape), b"\0"))
        fcntl.ioctl(self._descriptor, number_of(shape), buffer, True)  # True: the reply goes into buffer
        found = reply.unpack_from(buffer)
        if not shape.reply_data or found[0]:
            return found, b""
        if found[-1] > shape.reply_data:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        return found, bytes(buffer[reply.size : reply.size + found[-1]])

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def write(self, data: bytes) -> None:
        write_all(self._descriptor, data)


class SocketClient(ControlClient):
    """Requests are messages on a stream; `sock` stays the caller's."""

    def __init__(self, sock: "_socket.socket") -> None:
        self._socket = sock

    def exchange(
        self, name: str, numbers: "tuple[int, ...]" = (), data: bytes = b""
    ) -> "tuple[tuple[int, ...], bytes]":
        shape = SHAPES[name]
        reply = Struct(shape.socket_reply)
        if shape.request_data:
            numbers = (*numbers, len(data))
        message = Struct(">I").pack(shape.ordinal + 1) + Struct(shape.socket_request).pack(*numbers) + data
        self._socket.sendall(message)
        received = self._receive(4)
        (result,) = Struct(">I").unpack(received)
        if result and name != "GET_CAPABILITY":
            return (result,), b""
        received += self._receive(reply.size - 4)
        found = reply.unpack(received)
        if not shape.reply_data:
            return found, b""
        if found[-1] > _DATA_MAX:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        return found, self._receive(found[-1])

    def _receive(self, size: int) -> bytes:
        pieces, missing = [], size
        while missing:
            piece = self._socket.recv(min(missing, 1 << 16))
            if not piece:
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)
