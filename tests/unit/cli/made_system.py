"""A system of a test's own for vtpmctl: configurations, a run directory, a status socket, a systemctl."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import swtpm_svc
from swtpm_svc.cli.vtpmctl.host import Places

ANSWER: "dict[str, Any]" = {
    "instance": "vtpm0",
    "version": swtpm_svc.__version__,
    "pid": 812,
    "tpm": {
        "version": "2.0",
        "power": "running",
        "locality": 0,
        "buffer_size": 4096,
        "pcr_banks": ["sha1", "sha256"],
        "says": {"started": True, "lockout": {"failures": 0, "limit": 32, "locked": False, "interval_s": 600}},
    },
    "device": {"path": "/dev/null", "major": 1, "minor": 3},
    "state": {"directory": "/var/lib/vtpm/vtpm0", "generation": "1700000000.000000001", "bytes": {"permall": 5821}},
    "openers": [
        {"handle": 2, "pid": 900, "uid": 0, "pending": True},
        {"handle": 4, "pid": 901, "uid": 4242, "pending": False},
    ],
    "opener_count": 3,
    "commands": 17,
    "restarts": 2,
    "started": 1700000000.5,
    "last_error": {"time": 1700000001.0, "code": "state-full", "message": "no room"},
}

ACTIVE = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "NRestarts": "0",
    "MainPID": "812",
}


class System:
    """A system of a test's own: configurations, run directory, systemctl."""

    def __init__(self, root: Path) -> None:
        self.places = Places(str(root / "config"), str(root / "run"), str(root / "sys"))
        for directory in self.places:
            os.mkdir(directory)
        self.bin = root / "bin"
        self.bin.mkdir()
        self.systemctl("echo 'System has not been booted with systemd' >&2; exit 1")

    def configure(self, name: str, text: str = '[device]\ngroup = "root"\n') -> None:
        Path(self.places.config, f"{name}.toml").write_text(text)

    def systemctl(self, script: str) -> None:
        file = self.bin / "systemctl"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def unit(self, **properties: str) -> None:
        lines = "".join(f"echo '{key}={value}'\n" for key, value in {**ACTIVE, **properties}.items())
        self.systemctl(f'while [ "$1" != -- ]; do shift; done; shift; for unit; do echo "Id=$unit"; {lines} echo; done')

    @contextmanager
    def daemon(self, answer: object, instance: str = "vtpm0") -> Iterator[None]:
        """`answer`: JSON for whoever connects, or raw bytes."""
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        Path(self.places.run, instance).mkdir()
        path = f"{self.places.run}/{instance}/status"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                while True:
                    try:
                        client = listener.accept()[0]
                    except OSError:
                        return
                    with client:
                        client.sendall(content)

            thread = threading.Thread(target=serve)
            thread.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                os.unlink(path)
                os.rmdir(os.path.dirname(path))
