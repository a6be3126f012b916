"""A real vtpmd without a device, started by hand as an administrator would, for tests of what a daemon's clients
see."""

import json
import os
import signal
import socket
import subprocess
import sys
import time


class DaemonProcess:
    """One instance in a folder of its own: its configuration, state, and sockets (`control`, `data`)."""

    def __init__(self, directory, name="lab", *, tpm="", startup="clear", device_keys="", socket_keys="", more=""):
        self.directory, self.name = str(directory), name
        self.control, self.data = f"{directory}/{name}.sock.ctrl", f"{directory}/{name}.sock"
        self.state = f"{directory}/{name}.state"
        self.config = f"{directory}/{name}.toml"
        self.log_path = f"{directory}/{name}.log"
        self.words = [
            sys.executable,
            "-m",
            "swtpm_svc.service.vtpmd",
            "--config",
            self.config,
            "--foreground",
            "--user",
            "root",
        ]
        os.makedirs(self.state, exist_ok=True)
        sockets = socket_keys or f'control = "{self.control}"\ndata = "{self.data}"'
        text = f'[tpm]\nstartup = "{startup}"\n{tpm}\n[device]\nenabled = false\n{device_keys}\n'
        text += f'[state]\ndirectory = "{self.state}"\n'
        text += f"[socket]\n{sockets}\n{more}"
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)
        self.process, self._keeps_threads = None, "[fuse]" in text

    def spawn(self, *, sockets=(), environment=()):
        """Start it without waiting. `sockets`: (name, listening socket) that systemd would pass."""
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        variables = {**os.environ, "RUNTIME_DIRECTORY": self.directory, **dict(environment)}
        command = self.words
        if sockets:
            # LISTEN_PID must be the daemon's own: exec, from a shell that knows its number
            names, fds = ":".join(name for name, _socket in sockets), [passed.fileno() for _name, passed in sockets]
            moves = " ".join(f"{3 + index}<&{fd}" for index, fd in enumerate(fds))
            variables.update(LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
            command = ["bash", "-c", f'export LISTEN_PID=$$; exec "$@" {moves}', "-", *command]
            self.process = subprocess.Popen(command, env=variables, stderr=log, pass_fds=fds)
        else:
            self.process = subprocess.Popen(command, env=variables, stderr=log)
        os.close(log)

    def start(self, **kw):
        self.spawn(**kw)
        deadline = time.monotonic() + 60
        while "info: ready" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"not ready: {self.log()}"
            time.sleep(0.02)
        self.settle()
        return self

    def settle(self):
        """Wait for what it does beside serving: its loop answers `status` after what was posted, and work has a thread.

        A FUSE file system keeps threads of its own. What tells then is the status, which names PCR banks only while
        nothing works; a TPM that was not started has none to name, and is waited for until the number stays.
        """
        deadline, counts = time.monotonic() + 60, [0]
        status = self.status()
        patience = time.monotonic() + 5
        while counts[-1] != 1 and not (self._keeps_threads and status["tpm"]["pcr_banks"]):
            if time.monotonic() > patience and len(set(counts[-4:])) == 1:
                break
            assert time.monotonic() < deadline, "the worker does not end"
            time.sleep(0.01)
            counts.append(len(os.listdir(f"/proc/{self.process.pid}/task")))
            status = self.status()
        self.status()  # which is answered after what the worker posted at its end

    def log(self):
        """What the last process has said."""
        try:
            with open(self.log_path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def status(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(f"{self.directory}/status")
            data = b""
            while piece := client.recv(65536):
                data += piece
        return json.loads(data)

    def connect(self, path=None):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(path or self.data)
        return client

    def stop(self, number=signal.SIGTERM):
        """End it; its exit status."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.process = None
        return status
