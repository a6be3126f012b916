"""What serves a guest's TPM: our vtpmd, or the distribution's swtpm in its place, with a control socket for QEMU."""

import os
import subprocess
import time

from daemon_process import DaemonProcess
from machine import end, read_text

END_S = 30


class Service(DaemonProcess):
    """A vtpmd. `group` may use the control socket besides root."""

    def __init__(self, directory, name, version="2.0", *, group=None):
        own = os.path.join(directory, name)
        os.mkdir(own)
        more = f'[control]\ngroup = "{os.getegid() if group is None else group}"\n'
        control = f'control = "{own}/{name}.sock.ctrl"'
        super().__init__(own, name, tpm=f'version = "{version}"', socket_keys=control, more=more)
        self.version = version

    def wait(self):
        """Wait for the end of the process; its exit status."""
        return self.process.wait(END_S)

    def story(self):
        return f"--- {self.name}, vtpmd\n{self.log()}"

    def close(self):
        end(self.process)


class Swtpm:
    """The distribution's swtpm."""

    def __init__(self, directory, name, version="2.0"):
        own = os.path.join(directory, name)
        os.mkdir(own)
        self.name, self.version, self.control, self._log = name, version, f"{own}/ctrl", f"{own}/log"
        self._command = ["swtpm", "socket", "--ctrl", f"type=unixio,path={self.control}", "--tpmstate", f"dir={own}"]
        self._command += ["--log", f"file={self._log}", *(["--tpm2"] if version == "2.0" else [])]
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
