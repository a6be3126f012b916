"""Disks that are full, and what a TPM answers that could not store."""

import contextlib
import os
import subprocess

h = bytes.fromhex

IN_FAILURE = {"2.0": h("80010000000a00000101"), "1.2": h("00c40000000a0000001c")}


@contextlib.contextmanager
def small_disk(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def full(folder):
    filler = f"{folder}/filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    os.unlink(filler)
