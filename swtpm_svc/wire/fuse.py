"""The kernel's FUSE ABI, as far as a CUSE server meets it.

Source: include/uapi/linux/fuse.h, protocol 7.38. The kernel pads every struct to 64 bits itself, so the layouts have
no hidden padding and are the same for 32-bit and 64-bit programs; the byte order is the machine's.

Each struct has the kernel's name in its comment, with the fields in order. `x` stands for bytes that carry nothing for
a character device (node ids, lock owners, padding): they are skipped when read, and zero when written.
"""

from struct import Struct

from swtpm_svc.wire.enumerations import IntEnum, unique

KERNEL_VERSION = 7
#: The minor version that our replies speak: 7.31. A CUSE device uses nothing newer, and a lower number keeps a newer
#: kernel from sending structs that have grown since. Below 7.9 READ and WRITE requests are shorter than here.
MINOR_VERSION = 31
#: A kernel below 7.21 leaves `events` out of POLL requests; one below 7.11 has no CUSE.
OLDEST_MINOR_VERSION = 21


@unique
class Opcode(IntEnum):
    """enum fuse_opcode: what a CUSE device can be asked, and the two that any FUSE server must leave unanswered."""

    FORGET = 2
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INTERRUPT = 36
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    CUSE_INIT = 4096


#: Requests that have no reply: a reply to one of them makes the kernel's write() fail with ENOENT.
#: INTERRUPT is not among them: it *may* be answered, with EAGAIN ("ask again") or ENOSYS ("never ask again").
NO_REPLY = frozenset({int(Opcode.FORGET), int(Opcode.BATCH_FORGET)})

IN_HEADER = Struct("=IIQ8xIIIH2x")  # fuse_in_header: len opcode unique (nodeid) uid gid pid total_extlen (padding)
OUT_HEADER = Struct("=IiQ")  # fuse_out_header: len error unique

INIT_IN = Struct("=II4xI")  # cuse_init_in: major minor (unused) flags
OPEN_IN = Struct("=I4x")  # fuse_open_in: flags (open_flags)
READ_IN = Struct("=Q8xI12xI4x")  # fuse_read_in: fh (offset) size (read_flags lock_owner) flags (padding)
WRITE_IN = Struct("=Q8xI12xI4x")  # fuse_write_in: fh (offset) size (write_flags lock_owner) flags (padding)
IOCTL_IN = Struct("=QIIQII")  # fuse_ioctl_in: fh flags cmd arg in_size out_size
POLL_IN = Struct("=QQII")  # fuse_poll_in: fh kh flags events
RELEASE_IN = Struct("=QI12x")  # fuse_release_in: fh flags (release_flags lock_owner)
FLUSH_IN = Struct("=Q16x")  # fuse_flush_in: fh (unused padding lock_owner)
FSYNC_IN = Struct("=Q8x")  # fuse_fsync_in: fh (fsync_flags padding)
INTERRUPT_IN = Struct("=Q")  # fuse_interrupt_in: unique

INIT_OUT = Struct(
    "=II4xIIIII40x"
)  # cuse_init_out: major minor (unused) flags max_read max_write dev_major dev_minor (spare)
OPEN_OUT = Struct("=QI4x")  # fuse_open_out: fh open_flags (padding)
WRITE_OUT = Struct("=I4x")  # fuse_write_out: size (padding)
IOCTL_OUT = Struct("=i12x")  # fuse_ioctl_out: result (flags in_iovs out_iovs: of unrestricted ioctls only)
POLL_OUT = Struct("=I4x")  # fuse_poll_out: revents (padding)
NOTIFY_POLL_WAKEUP_OUT = Struct("=Q")  # fuse_notify_poll_wakeup_out: kh

CUSE_INIT_INFO_MAX = 4096  # bytes of "KEY=value\0" text after cuse_init_out
MIN_READ_BUFFER = 8192  # bytes: a read() of /dev/cuse with less room is refused

CUSE_UNRESTRICTED_IOCTL = 1 << 0

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_CACHE_DIR = 1 << 3
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6

IOCTL_COMPAT = 1 << 0
IOCTL_UNRESTRICTED = 1 << 1
IOCTL_RETRY = 1 << 2
IOCTL_32BIT = 1 << 3
IOCTL_DIR = 1 << 4
IOCTL_COMPAT_X32 = 1 << 5

POLL_SCHEDULE_NOTIFY = 1 << 0

# A notification is a reply with unique 0 and one of these in the header's error field.
NOTIFY_POLL = 1
NOTIFY_RESEND = 7  # Linux 6.9 and later

INT_REQ_BIT = 1 << 0  # set in the unique of an INTERRUPT request itself (fs/fuse/fuse_i.h)
UNIQUE_RESEND = 1 << 63  # set in the unique of a request that the kernel hands out for the second time
