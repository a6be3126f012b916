"""What the QEMU lab started in one test module, and how it all ends: by process, also after a failure."""

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from libvirt_daemon import Libvirt
from machine import Machine, make_initramfs
from service import Service, Swtpm

HERE = os.path.dirname(os.path.abspath(__file__))


class Lab:
    """A folder with the processes whose files are in it."""

    def __init__(self):
        # not pytest's: a UNIX socket's path has 107 bytes
        self.directory = tempfile.mkdtemp(prefix="vtpm-qemu-")
        kernel = subprocess.run(
            [os.path.join(HERE, "kernel.sh")], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        self.boot = kernel, make_initramfs(self.directory, os.path.join(HERE, "init.sh"))
        self._started = []
        self._ending = ExitStack()
        self._ending.callback(shutil.rmtree, self.directory)

    def _start(self, process):
        self._started.append(process)
        self._ending.callback(process.close)  # first: what fails in its start has to be ended too
        return process.start()

    def path(self, name):
        return os.path.join(self.directory, name)

    def service(self, name, version="2.0", **kw):
        return self._start(Service(self.directory, name, version, **kw))

    def swtpm(self, name, version="2.0", program="swtpm", options=()):
        return self._start(Swtpm(self.directory, name, version, program, options))

    def machine(self, name, service, device, *, passthrough=None, **kw):
        """A machine whose TPM is `service`, seen by the guest as `device` (tpm-tis, tpm-crb).

        QEMU reaches it by the control socket, or by `passthrough`, a file like /dev/tpm0.
        """
        if passthrough:
            tpm = ["-tpmdev", f"passthrough,id=tpm0,path={passthrough},cancel-path=/dev/null"]
        else:
            tpm = ["-chardev", f"socket,id=tpm,path={service.control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        tpm += ["-device", f"{device},tpmdev=tpm0"]
        return self._start(Machine(name, self.boot, service, tpm, self.directory, **kw))

    def libvirt(self, commands=None, name="libvirt"):
        """A libvirtd, whose user may look at the lab's files, and which looks for programs in `commands` first."""
        os.chmod(self.directory, 0o755)
        kernel, initramfs = self.boot
        shutil.copy(kernel, self.path("vmlinuz"))  # the cache is below somebody's home
        return self._start(Libvirt(self.path(name), (self.path("vmlinuz"), initramfs), commands))

    def story(self):
        return "".join(process.story() for process in self._started)

    def close(self):
        self._ending.close()


def at_once(*functions):
    """Call all at the same time; the first exception is raised when all have ended."""
    with ThreadPoolExecutor(len(functions)) as pool:
        for future in [pool.submit(function) for function in functions]:
            future.result()
