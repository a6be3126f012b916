"""A guest of the QEMU lab: a QEMU process (in software, no KVM) whose process 1 hands TPM commands on (init.sh)."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress

#: A boot takes about 7 s on an idle processor, 18 s with OVMF; several start at once, next to whatever else runs.
BOOT_S = 240
ANSWER_S = 60
END_S = 30

KERNEL_COMMAND_LINE = "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable"


def make_initramfs(directory, init):
    """An initramfs of busybox and `init`; its path."""
    root = os.path.join(directory, "initramfs")
    for folder in ("bin", "dev", "sys"):
        os.makedirs(os.path.join(root, folder))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin/busybox"))
    shutil.copy(init, os.path.join(root, "init"))
    path = f"{root}.cpio"
    with open(path, "wb") as archive:
        subprocess.run(
            ["sh", "-c", "find . | busybox cpio -o -H newc"],
            cwd=root,
            stdout=archive,
            stderr=subprocess.PIPE,
            check=True,
        )
    return path


class Line:
    """A stream of lines from a program that connects to the UNIX socket `path`."""

    def __init__(self, path):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._connection = None
        self._received = b""

    def write(self, text):
        self._accept(END_S)
        self._connection.sendall(f"{text}\n".encode())

    def read(self, timeout_s):
        """The next line, without its end.

        Raises:
            TimeoutError, EOFError
        """
        deadline = time.monotonic() + timeout_s
        self._accept(timeout_s)
        while b"\n" not in self._received:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self._connection.recv(65536)
            if not data:
                raise EOFError("the line was closed")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode().strip()

    def _accept(self, timeout_s):
        if self._connection is None:
            self._listener.settimeout(timeout_s)
            self._connection, _address = self._listener.accept()

    def take_next(self):
        """Forget the program; the one that has connected since goes on."""
        self._disconnect()

    def hang_up(self):
        """Forget the program, and those that have connected since; the next one may connect."""
        self._listener.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()
        self._disconnect()

    def _disconnect(self):
        if self._connection is not None:
            self._connection.close()
        self._connection, self._received = None, b""

    def close(self):
        self._listener.close()
        self._disconnect()


class Guest:
    """What runs in a machine: it executes TPM commands, reboots and ends, as it is told on its serial line."""

    def __init__(self, line, version):
        self._line, self.version = line, version

    def wait_until_booted(self):
        deadline = time.monotonic() + BOOT_S
        # before it come lines of OVMF, which takes every serial line for a terminal
        while not (line := self._line.read(deadline - time.monotonic())).endswith(f"ready tpm {self.version[0]}"):
            assert "/dev/tpm0" not in line, line

    def execute(self, command):
        """The response to a TPM command that the guest writes to its /dev/tpm0."""
        self._line.write("".join(f"\\x{byte:02x}" for byte in command))
        return bytes.fromhex(self._line.read(ANSWER_S))

    def reboot(self):
        self._line.write("reboot")
        self.wait_until_booted()

    def power_off(self):
        self._line.write("poweroff")


class Machine:
    """One QEMU process, whose TPM is that of `service`; `tpm` are the words of the command line that connect it.

    With `incoming`, a UNIX socket's path, it waits for a migration instead of booting. `disk` is a qcow2 image, which
    snapshots need; `firmware` a file instead of SeaBIOS.
    """

    def __init__(self, name, boot, service, tpm, directory, *, incoming=None, disk=None, firmware=None):
        self.name, self.service = name, service
        self._path = os.path.join(directory, name)
        self._orders, self._qmp = Line(f"{self._path}.orders"), Line(f"{self._path}.qmp")
        self.guest = Guest(self._orders, service.version)
        self._process = None
        kernel, initramfs = boot
        words = [
            "qemu-system-x86_64",
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-m",
            "160",
            "-nodefaults",
            "-display",
            "none",
        ]
        words += ["-kernel", kernel, "-initrd", initramfs, "-append", KERNEL_COMMAND_LINE]
        words += ["-serial", f"file:{self._path}.console", "-chardev", f"socket,id=orders,path={self._path}.orders"]
        words += [
            "-serial",
            "chardev:orders",
            "-chardev",
            f"socket,id=qmp,path={self._path}.qmp",
            "-mon",
            "qmp,mode=control",
        ]
        words += tpm
        if incoming:
            words += ["-incoming", f"unix:{incoming}"]
        if disk:
            words += ["-drive", f"file={disk},if=none,id=disk,format=qcow2", "-device", "virtio-blk-pci,drive=disk"]
        if firmware:
            words += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}"]
        self._words = words

    def start(self):
        with open(f"{self._path}.log", "wb") as log:
            self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._qmp.read(END_S)  # its greeting
        self.manage("qmp_capabilities")
        return self

    def manage(self, command, **arguments):
        """Execute a QMP command; what it returns."""
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}))
        while True:
            message = json.loads(self._qmp.read(ANSWER_S))
            assert "error" not in message, message
            if "return" in message:  # the others are events
                return message["return"]

    def monitor(self, command):
        """Execute a command of the human monitor, which is to say nothing."""
        assert self.manage("human-monitor-command", **{"command-line": command}) == ""

    def migrate(self, path):
        """Migrate to the machine that waits at the UNIX socket `path`."""
        self.manage("migrate", uri=f"unix:{path}")
        deadline = time.monotonic() + ANSWER_S
        while (state := self.manage("query-migrate"))["status"] != "completed":
            assert state["status"] != "failed", state
            assert time.monotonic() < deadline, state
            time.sleep(0.05)

    def wait(self):
        """Wait for the end of the process; its exit status."""
        return self._process.wait(END_S)

    def quit(self):
        self._qmp.write('{"execute": "quit"}')
        assert self.wait() == 0

    def story(self):
        """What QEMU and the guest's kernel said."""
        return "".join(f"--- {self.name}, {kind}\n{read_text(f'{self._path}.{kind}')}" for kind in ("log", "console"))

    def close(self):
        end(self._process)
        self._orders.close()
        self._qmp.close()


def end(process):
    if process is not None:
        process.kill()
        process.wait()


def read_text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
