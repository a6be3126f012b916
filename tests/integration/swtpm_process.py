"""The distribution's swtpm on a state directory, and what a TPM is to remember there."""

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unix_listener import listens

VERSIONS = ["1.2", "2.0"]
DEADLINE_S = 20.0


class Swtpm:
    """The distribution's swtpm on a state directory, started and stopped as an administrator would.

    `program`: another one with swtpm's options. `descriptors` stay open in it.
    """

    def __init__(
        self,
        version: str,
        directory: str,
        sockets: str,
        *options: str,
        program: str = "swtpm",
        flags: str = "not-need-init,startup-clear",
        descriptors: Sequence[int] = (),
    ) -> None:
        self.version = version
        self.control = os.path.join(sockets, "tpm.ctrl")
        self.data = os.path.join(sockets, "tpm")
        place = f"backend-uri={directory}" if directory.startswith("file://") else f"dir={directory}"
        arguments = [program, "socket", "--tpmstate", place, *(["--flags", flags] if flags else [])]
        arguments += [
            "--ctrl",
            f"type=unixio,path={self.control}",
            "--server",
            f"type=unixio,path={self.data}",
            *options,
        ]
        arguments += ["--tpm2"] if version == "2.0" else []
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=descriptors
        )
        end = time.monotonic() + DEADLINE_S
        while not listens(self.data) or self.ioctl("-c").returncode:
            assert self.process.poll() is None, f"swtpm did not start: {self.process.communicate()[0]}"
            assert time.monotonic() < end, "swtpm does not answer"
            time.sleep(0.02)

    def ioctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["swtpm_ioctl", "--unix", self.control, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    def stop(self) -> None:
        self.ioctl("-s")
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.communicate()

    def send(self, tag: int, code: int, body: bytes) -> bytes:
        """The response's body; fails unless the TPM succeeds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(self.data)
            connection.sendall(struct.pack(">HII", tag, 10 + len(body), code) + body)
            response = connection.recv(4096)
        assert int.from_bytes(response[6:10], "big") == 0, response.hex()
        return response[10:]

    def remember(self, text: bytes) -> None:
        """Write an NV index that stays."""
        if self.version == "2.0":
            # NV_DefineSpace for the owner, NV_Write: empty password sessions
            public = struct.pack(">IHIHH", NV_2_0, 0x000B, 0x00020002, 0, len(text))
            self.send(0x8002, 0x12A, struct.pack(">I", OWNER) + PASSWORD + struct.pack(">HH", 0, len(public)) + public)
            written = struct.pack(">H", len(text)) + text + struct.pack(">H", 0)
            self.send(0x8002, 0x137, struct.pack(">II", OWNER, NV_2_0) + PASSWORD + written)
            return
        # TPM_NV_DefineSpace with TPM_NV_PER_OWNERWRITE, which asks nobody before nvLocked is set; TPM_NV_WriteValue
        pcrs = struct.pack(">H3sB20s", 3, bytes(3), 0x1F, bytes(20))
        public = struct.pack(">HI", 0x18, NV_1_2) + pcrs + pcrs + struct.pack(">HI3sI", 0x17, 2, bytes(3), len(text))
        self.send(0xC1, 0xCC, public + bytes(20))
        self.send(0xC1, 0xCD, struct.pack(">III", NV_1_2, 0, len(text)) + text)

    def recall(self, size: int) -> bytes:
        if self.version == "2.0":
            area = struct.pack(">II", OWNER, NV_2_0) + PASSWORD + struct.pack(">HH", size, 0)
            return self.send(0x8002, 0x14E, area)[6 : 6 + size]
        return self.send(0xC1, 0xCF, struct.pack(">III", NV_1_2, 0, size))[4 : 4 + size]


NV_2_0, NV_1_2 = 0x01500016, 0x1234
OWNER = 0x40000001
PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
SECRET = b"remember"


@contextmanager
def swtpm(version: str, directory: object, *options: str, **keywords: Any) -> Iterator[Swtpm]:
    sockets = f"/tmp/swtpm-test-{os.getpid()}-{time.monotonic_ns()}"  # a UNIX socket's path has at most 107 bytes
    os.mkdir(sockets, 0o700)
    try:
        tpm = Swtpm(version, str(directory), sockets, *options, **keywords)
        try:
            yield tpm
        finally:
            tpm.stop()
    finally:
        shutil.rmtree(sockets)


def files(directory: object) -> dict[str, bytes]:
    """All but the lock, with content."""
    names = [name for name in os.listdir(str(directory)) if name != ".lock"]
    return {name: open(os.path.join(str(directory), name), "rb").read() for name in names}
