"""systemd's side of a restart, for a daemon without a device: the notify socket, and the descriptors that it keeps.

Only what sd_notify(3) and sd_listen_fds(3) say and a daemon uses. With a device, and as another user: tests/lab/uml.
"""

import array
import os
import signal
import socket
import threading


class KeptDescriptors:
    """Keeps what a DaemonProcess hands over, and hands it to the next one. A context manager."""

    def __init__(self, daemon):
        self.daemon = daemon
        #: By name, in the order in which they came.
        self.store = {}
        #: Every message, as a dictionary of its fields.
        self.messages = []

    def __enter__(self):
        self._path = f"{self.daemon.directory}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        os.chmod(self._path, 0o666)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as quitter:
            quitter.sendto(b"", self._path)
        self._thread.join()
        self._socket.close()
        for kept in self.store.values():
            kept.close()

    def _listen(self):
        while True:
            data, ancillary, _flags, _address = self._socket.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            for _level, _kind, payload in ancillary:
                fds = array.array("i")
                fds.frombytes(payload)
                self._keep(fields["FDNAME"], fds.pop())
            if "FDSTOREREMOVE" in fields and fields["FDNAME"] in self.store:
                self.store.pop(fields["FDNAME"]).close()
            self.messages.append(fields)

    def _keep(self, name, fd):
        if name in self.store:
            self.store.pop(name).close()
        self.store[name] = os.fdopen(fd, "r+b", buffering=0)

    @property
    def memory(self):
        """The descriptor of the parked memory."""
        fds = [kept.fileno() for kept in self.store.values()]
        (memory,) = (fd for fd in fds if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"))
        return memory

    def start(self):
        """Start the daemon with what is kept."""
        environment = {"NOTIFY_SOCKET": self._path}
        return self.daemon.start(sockets=list(self.store.items()), environment=environment.items())

    def restart(self):
        """systemctl restart."""
        assert self.daemon.stop() == 0, self.daemon.log()
        return self.start()

    def kill(self):
        """It dies in the middle of its work, and is started again."""
        self.daemon.stop(signal.SIGKILL)
        return self.start()
