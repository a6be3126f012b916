"""The control protocol as one table: each command's number, and its fields as an ioctl and on a socket.

`ptm_ioctl` and `ptm_socket` make values of it. A program that is over in a moment takes the table itself: an import of
enumerations and values would be longer than all that it does.

Source: the public header swtpm/tpm_ioctl.h. Formats are those of `struct`: "@" as the C compiler lays out the ioctl's
structs, ">" on a socket. Where data ends a message, its length is the last field before it.
"""

import os
from struct import Struct

from swtpm_svc.wire.values import NamedTuple

#: Bytes of data in one ioctl. Less than that in SET_STATEBLOB: the last piece.
HASH_DATA_MAX, STATE_BLOB_CHUNK, INFO_CHUNK = 4096, 3072, 3072


class Shape(NamedTuple):
    """One command. `request_data`, `reply_data`: how many bytes of data its ioctl's struct has room for; 0: the command
    has none."""

    ordinal: int
    ioctl_request: str = "@"
    ioctl_reply: str = "@I"
    socket_request: str = ">"
    socket_reply: str = ">I"
    request_data: int = 0
    reply_data: int = 0


#: ioctl_reply begins with the TPM's result, but for GET_CAPABILITY; on a socket all do.
SHAPES = {
    "GET_CAPABILITY": Shape(0, ioctl_reply="@Q", socket_reply=">Q"),  # ptm_cap; there a result of 0, and 32 bits
    "INIT": Shape(1, "@I", "@I", ">I"),  # ptm_init
    "SHUTDOWN": Shape(2),
    "GET_TPMESTABLISHED": Shape(3, ioctl_reply="@IB3x", socket_reply=">IB3x"),  # ptm_est
    "SET_LOCALITY": Shape(4, "@B", "@I", ">B"),  # ptm_loc
    "HASH_START": Shape(5),
    "HASH_DATA": Shape(6, "@I", "@I", ">I", request_data=HASH_DATA_MAX),  # ptm_hdata
    "HASH_END": Shape(7),
    "CANCEL_TPM_CMD": Shape(8),
    "STORE_VOLATILE": Shape(9),
    "RESET_TPMESTABLISHED": Shape(10, "@B", "@I", ">B"),  # ptm_reset_est
    "GET_STATEBLOB": Shape(11, "@III", "@IIII", ">III", ">IIII", reply_data=STATE_BLOB_CHUNK),  # ptm_getstate
    "SET_STATEBLOB": Shape(12, "@III", "@I", ">III", request_data=STATE_BLOB_CHUNK),  # ptm_setstate
    "STOP": Shape(13),
    "GET_CONFIG": Shape(14, ioctl_reply="@II", socket_reply=">II"),  # ptm_getconfig
    "SET_DATAFD": Shape(15),
    "SET_BUFFERSIZE": Shape(16, "@I", "@IIII", ">I", ">IIII"),  # ptm_setbuffersize
    "GET_INFO": Shape(17, "@QI4x", "@III", ">QI4x", ">III", reply_data=INFO_CHUNK),  # ptm_getinfo
    "LOCK_STORAGE": Shape(18, "@I", "@I", ">I"),  # ptm_lockstorage
}


def struct_size(shape: Shape) -> int:
    """Bytes of the ioctl's struct: a union of request and reply, so the larger one, rounded up to the alignment of the
    most demanding field."""
    request = Struct(shape.ioctl_request).size + shape.request_data
    reply = Struct(shape.ioctl_reply).size + shape.reply_data
    # 8 bytes need an alignment of 8, or of 4 on i386
    widest = "Q" if "Q" in shape.ioctl_request + shape.ioctl_reply else "I"
    return Struct(f"@{max(request, reply)}s0{widest}").size


def ioctl_number(machine: str, *, writes: bool, size: int, ordinal: int) -> int:
    """_IOR or (with `writes`) _IOWR of ('P', `ordinal`, a struct of `size` bytes), as `machine` (uname -m) counts.

    Source: include/uapi/asm-generic/ioctl.h, and the powerpc, mips, sparc and alpha headers that differ: there the size
    has 13 bits instead of 14 and the direction 3 instead of 2.
    """
    if machine.startswith(("ppc", "mips", "sparc", "alpha")):
        direction = (0b110 if writes else 0b010) << 29
    else:
        direction = (0b11 if writes else 0b10) << 30
    return direction | size << 16 | ord("P") << 8 | ordinal


def number_of(shape: Shape) -> int:
    """The second argument of ioctl(2), on this machine."""
    return ioctl_number(
        os.uname().machine, writes=shape.ioctl_request != "@", size=struct_size(shape), ordinal=shape.ordinal
    )
