"""What systemd is to one instance, for a lab without systemd: notify socket, descriptor store, start, stop, kill.

Only the parts of sd_notify(3) and sd_listen_fds(3) that the daemon uses. The real systemd is tested in tests/lab/vm.
"""

import array
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading

from device_clients import wait_for

CONFIG_DIRECTORY = "/etc/vtpm.d"


class Instance:
    """One vtpmd NAME, with its configuration, state directory and runtime directory."""

    def __init__(self, name, version="2.0", extra="", startup="clear", level="info"):
        self.name = name
        self.device = f"/dev/{name}"
        self.state = f"/var/lib/vtpm/{name}"
        self.runtime = f"/run/vtpm/{name}"
        self.config = f"{CONFIG_DIRECTORY}/{name}.toml"
        account = pwd.getpwnam("vtpm")
        os.makedirs(CONFIG_DIRECTORY, exist_ok=True)
        for directory in (self.state, self.runtime):
            os.makedirs(directory, exist_ok=True)
            os.chown(directory, account.pw_uid, account.pw_gid)
        self.configure(f'[tpm]\nversion = "{version}"\nstartup = "{startup}"\n[log]\nlevel = "{level}"\n{extra}')
        self.store = {}
        self.messages = []
        self.pid = None
        self.log_path = f"/tmp/{name}.log"
        self.program = ["-m", "swtpm_svc.service.vtpmd"]
        self._notify_path = f"/run/notify-{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._notify_path)
        os.chmod(self._notify_path, 0o666)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def configure(self, text):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def _listen(self):
        while True:
            data, ancillary, _flags, _address = self._socket.recvmsg(4096, 1024)
            if data == b"QUIT":
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds = array.array("i")
                    fds.frombytes(payload)
                    for fd in fds:
                        self.store[fields["FDNAME"]] = fd
            if "FDSTOREREMOVE" in fields and fields["FDNAME"] in self.store:
                os.close(self.store.pop(fields["FDNAME"]))
            self.messages.append(fields)

    def spawn(self, *extra):
        """Start the process without waiting for READY."""
        self.messages.clear()
        names, fds = list(self.store), list(self.store.values())
        command = [sys.executable, *self.program, self.name, "--foreground", *extra]
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
                # moved out of the way first: a stored descriptor may have a number that is wanted
                moved = [os.dup2(fd, 200 + index) for index, fd in enumerate(fds)]
                for index, fd in enumerate(moved):
                    os.dup2(fd, 3 + index)
                os.closerange(3 + len(fds), 400)
                environment = dict(
                    os.environ,
                    NOTIFY_SOCKET=self._notify_path,
                    WATCHDOG_USEC="30000000",
                    RUNTIME_DIRECTORY=self.runtime,
                )
                if fds:
                    environment.update(
                        LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=":".join(names), LISTEN_PID=str(os.getpid())
                    )
                os.execve(command[0], command, environment)
            finally:
                os._exit(127)
        self.pid = pid

    def start(self, *extra):
        self.spawn(*extra)
        wait_for(lambda: self.is_ready() or not self.is_alive(), "READY")
        assert self.is_ready(), self.log()
        return self

    def is_ready(self):
        return any("READY" in message for message in self.messages)

    def is_alive(self):
        if self.pid is None:
            return False
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.exit_status, self.pid = os.waitstatus_to_exitcode(status), None
        return pid == 0

    def wait(self, timeout_s=30.0):
        """Wait for the end of the process; its exit status, negative for a signal."""
        wait_for(lambda: not self.is_alive(), f"the end of {self.name}", timeout_s)
        return self.exit_status

    def fails(self, *extra):
        """Start what cannot start: (exit status, log)."""
        open(self.log_path, "w").close()
        self.spawn(*extra)
        return self.wait(), self.log()

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        return self.wait()

    def restart(self):
        """systemctl restart: the store stays."""
        status = self.kill(signal.SIGTERM)
        self.start()
        return status

    def stop(self):
        """systemctl stop: the store is emptied."""
        status = self.kill(signal.SIGTERM) if self.pid is not None else 0
        self.empty_store()
        return status

    def empty_store(self):
        for fd in self.store.values():
            os.close(fd)
        self.store.clear()

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def status(self):
        import json

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.runtime}/status")
            data = b""
            while piece := client.recv(65536):
                data += piece
        return json.loads(data)

    def close(self):
        if self.pid is not None:
            self.kill()
        self.empty_store()
        # the thread ends first: it would read from whatever gets the descriptor's number next
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as quitter:
            quitter.sendto(b"QUIT", self._notify_path)
        self._thread.join(10)
        self._socket.close()
        os.unlink(self._notify_path)
        os.unlink(self.config)
        for directory in (self.state, self.runtime):
            shutil.rmtree(directory, ignore_errors=True)
        if os.path.exists(self.log_path):
            os.unlink(self.log_path)


def run(*words, user=None, **kw):
    """Run a command, as `user` if given, with its output as text."""
    prefix = ["runuser", "-u", user, "--"] if user else []
    return subprocess.run([*prefix, *words], capture_output=True, text=True, timeout=30, **kw)
