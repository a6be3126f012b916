"""What serves a guest's TPM: our vtpmd, or the distribution's swtpm in its place, with a control socket for QEMU."""

import os
import subprocess
import time

from daemon_process import DaemonProcess
from machine import end, read_text

END_S = 30


class Service(DaemonProcess):
    """A vtpmd.

    `group` may use the control socket besides root. `fuse`: it serves the file `tpm` too, and sends no Startup.
    """

    def __init__(self, directory, name, version="2.0", *, group=None, fuse=False):
        own = os.path.join(directory, name)
        os.mkdir(own)
        self.version, self._mount = version, f"{own}/fs" if fuse else None
        self.tpm = f"{self._mount}/tpm"
        more = f'[control]\ngroup = "{os.getegid() if group is None else group}"\n'
        more += f'[fuse]\nenabled = true\ndirectory = "{self._mount}"\n' if fuse else ""
        super().__init__(
            own,
            name,
            tpm=f'version = "{version}"',
            startup="none" if fuse else "clear",
            device_keys=f'owner = "{os.geteuid()}"\ngroup = "{os.getegid()}"',
            socket_keys=f'control = "{own}/{name}.sock.ctrl"',
            more=more,
        )

    def wait(self):
        """Wait for the end of the process; its exit status."""
        return self.process.wait(END_S)

    def story(self):
        return f"--- {self.name}, vtpmd\n{self.log()}"

    def close(self):
        end(self.process)
        if self._mount:  # the mount of a process that was killed stays
            subprocess.run(["umount", "-l", "-q", self._mount])


class Swtpm:
    """The distribution's swtpm, or another program that takes its `options`."""

    def __init__(self, directory, name, version="2.0", program="swtpm", options=()):
        own = os.path.join(directory, name)
        os.mkdir(own)
        self.name, self.version, self.control, self._log = name, version, f"{own}/ctrl", f"{own}/log"
        self._command = [program, "socket", "--ctrl", f"type=unixio,path={self.control}", "--tpmstate", f"dir={own}"]
        self._command += ["--log", f"file={self._log}", *(["--tpm2"] if version == "2.0" else []), *options]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + END_S
        while not os.path.exists(self.control):
            assert self.process.poll() is None, self.story()
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.02)
        return self

    def wait(self):
        """Wait for the end of the process; its exit status."""
        return self.process.wait(END_S)

    def story(self):
        return f"--- {self.name}, swtpm\n{read_text(self._log)}"

    def close(self):
        end(self.process)
