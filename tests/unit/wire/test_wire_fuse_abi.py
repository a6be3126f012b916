"""The structs and constants of `fuse`, against a C program built with the kernel's own header."""

from pathlib import Path
from struct import Struct

import pytest

from swtpm_svc.wire import fuse

HEADER = Path("/usr/include/linux/fuse.h")

# The fields that each Struct carries, in order. Requests are filled with 0xEE before, so a field that is skipped must
# not be read; replies are zero before, so a field that is skipped must be written as zero.
REQUESTS = {
    "fuse_in_header": (fuse.IN_HEADER, "len opcode unique uid gid pid total_extlen"),
    "cuse_init_in": (fuse.INIT_IN, "major minor flags"),
    "fuse_open_in": (fuse.OPEN_IN, "flags"),
    "fuse_read_in": (fuse.READ_IN, "fh size flags"),
    "fuse_write_in": (fuse.WRITE_IN, "fh size flags"),
    "fuse_ioctl_in": (fuse.IOCTL_IN, "fh flags cmd arg in_size out_size"),
    "fuse_poll_in": (fuse.POLL_IN, "fh kh flags events"),
    "fuse_release_in": (fuse.RELEASE_IN, "fh flags"),
    "fuse_flush_in": (fuse.FLUSH_IN, "fh"),
    "fuse_fsync_in": (fuse.FSYNC_IN, "fh"),
    "fuse_interrupt_in": (fuse.INTERRUPT_IN, "unique"),
}
REPLIES = {
    "fuse_out_header": (fuse.OUT_HEADER, "len error unique"),
    "cuse_init_out": (fuse.INIT_OUT, "major minor flags max_read max_write dev_major dev_minor"),
    "fuse_open_out": (fuse.OPEN_OUT, "fh open_flags"),
    "fuse_write_out": (fuse.WRITE_OUT, "size"),
    "fuse_ioctl_out": (fuse.IOCTL_OUT, "result"),
    "fuse_poll_out": (fuse.POLL_OUT, "revents"),
    "fuse_notify_poll_wakeup_out": (fuse.NOTIFY_POLL_WAKEUP_OUT, "kh"),
}
MACROS = {
    "FUSE_KERNEL_VERSION": fuse.KERNEL_VERSION,
    "FUSE_MIN_READ_BUFFER": fuse.MIN_READ_BUFFER,
    "CUSE_INIT_INFO_MAX": fuse.CUSE_INIT_INFO_MAX,
    "CUSE_UNRESTRICTED_IOCTL": fuse.CUSE_UNRESTRICTED_IOCTL,
    "FOPEN_DIRECT_IO": fuse.FOPEN_DIRECT_IO,
    "FOPEN_KEEP_CACHE": fuse.FOPEN_KEEP_CACHE,
    "FOPEN_NONSEEKABLE": fuse.FOPEN_NONSEEKABLE,
    "FOPEN_CACHE_DIR": fuse.FOPEN_CACHE_DIR,
    "FOPEN_STREAM": fuse.FOPEN_STREAM,
    "FOPEN_NOFLUSH": fuse.FOPEN_NOFLUSH,
    "FOPEN_PARALLEL_DIRECT_WRITES": fuse.FOPEN_PARALLEL_DIRECT_WRITES,
    "FUSE_IOCTL_COMPAT": fuse.IOCTL_COMPAT,
    "FUSE_IOCTL_UNRESTRICTED": fuse.IOCTL_UNRESTRICTED,
    "FUSE_IOCTL_RETRY": fuse.IOCTL_RETRY,
    "FUSE_IOCTL_32BIT": fuse.IOCTL_32BIT,
    "FUSE_IOCTL_DIR": fuse.IOCTL_DIR,
    "FUSE_IOCTL_COMPAT_X32": fuse.IOCTL_COMPAT_X32,
    "FUSE_POLL_SCHEDULE_NOTIFY": fuse.POLL_SCHEDULE_NOTIFY,
    "FUSE_UNIQUE_RESEND": fuse.UNIQUE_RESEND,  # Linux 6.9 and later
}
ENUMERATORS = {
    **{("CUSE_INIT" if o is fuse.Opcode.CUSE_INIT else f"FUSE_{o.name}"): int(o) for o in fuse.Opcode},
    "FUSE_NOTIFY_POLL": fuse.NOTIFY_POLL,
}


def field_values(fields):
    """A different value for each field, of which no byte is zero or 0xEE."""
    return [0x0201 + 0x0303 * number for number in range(len(fields.split()))]


def c_source():
    lines = ["#include <stdio.h>", "#include <string.h>", "#include <linux/fuse.h>"]
    lines.append(
        "static void dump(const char *name, void *data, unsigned size)\n"
        '{ unsigned char *p = data; printf("%s ", name); while (size--) printf("%02x", *p++); printf("\\n"); }\n'
        "int main(void) {"
    )
    lines.append("#if FUSE_KERNEL_MINOR_VERSION < 38\n#define total_extlen padding\n#endif")
    for fill, structs in ((0xEE, REQUESTS), (0, REPLIES)):
        for name, (_struct, fields) in structs.items():
            sets = " ".join(f"s.{f} = {v};" for f, v in zip(fields.split(), field_values(fields)))
            lines.append(f'{{ struct {name} s; memset(&s, {fill}, sizeof s); {sets} dump("{name}", &s, sizeof s); }}')
    for name in MACROS:
        lines.append(f'#ifdef {name}\nprintf("{name} %llu\\n", (unsigned long long){name});\n#endif')
    lines += [f'printf("{name} %d\\n", (int){name});' for name in ENUMERATORS]
    return "\n".join([*lines, "return 0; }"])


@pytest.fixture(scope="module")
def kernel(run_c):
    if not HEADER.exists():
        pytest.skip(f"there is no {HEADER} (package linux-libc-dev)")
    return dict(run_c(c_source()))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_struct_that_the_kernel_fills_is_read_as_it_means_it(kernel, name):
    layout, fields = REQUESTS[name]
    assert list(layout.unpack(bytes.fromhex(kernel[name]))) == field_values(fields)


@pytest.mark.parametrize("name", REPLIES)
def test_a_struct_that_we_fill_has_the_kernels_bytes(kernel, name):
    layout, fields = REPLIES[name]
    assert layout.pack(*field_values(fields)).hex() == kernel[name]


def test_constants_have_the_kernels_values(kernel):
    expected = {**MACROS, **ENUMERATORS}
    found = {name: int(kernel[name]) for name in expected if name in kernel}
    assert found == {name: expected[name] for name in found}
    assert len(found) >= len(expected) - 8, "the header lacks too many of them to prove anything"


def test_no_struct_depends_on_the_machines_alignment():
    for layout, _fields in (*REQUESTS.values(), *REPLIES.values()):
        assert layout.size == Struct(layout.format.replace("=", "@")).size
