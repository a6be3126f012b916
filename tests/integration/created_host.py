"""Hosts on which `vtpmctl create` makes TPMs, and the distribution's programs that look at them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unix_listener import listens

PROGRAM = (
    "import sys; from swtpm_svc.cli.vtpmctl import create, entry; from swtpm_svc.cli.vtpmctl.host import Places; "
    "create.STATE, create.USER = sys.argv[2:4]; sys.exit(entry.main(sys.argv[4:], Places(config=sys.argv[1])))"
)


class Host:
    """The folders of a machine of its own: configurations, states, the CA."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.state, self.ca = folder, folder / "etc", folder / "lib", folder / "ca"
        self.config.mkdir()
        self.state.mkdir()

    def command(self, *words: object, user: str = "root") -> "list[str]":
        fixed = [sys.executable, "-c", PROGRAM, str(self.config), str(self.state), user]
        more = ["--ca", str(self.ca)] if words[0] == "create" else []
        return [*fixed, *(str(word) for word in words), *more]

    def create(self, *words: object, **named: str) -> "tuple[int, dict[str, Any]]":
        done = subprocess.run(
            self.command("create", *words, "--json", **named), capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    def made(self, *words: object, **named: str) -> "dict[str, Any]":
        status, values = self.create(*words, **named)
        assert status == 0, values
        return values

    def refused(self, *words: object) -> "dict[str, Any]":
        status, values = self.create(*words)
        assert status == values["error"]["exit_status"] != 0
        assert values["error"]["remedy"]
        found: dict[str, Any] = values["error"]
        return found

    def tree(self) -> "dict[str, bytes]":
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def served(state: Path, *options: str) -> Iterator["Tools"]:
    """By the distribution's swtpm, started with TPM2_Startup(CLEAR)."""
    with tempfile.TemporaryDirectory(prefix="vtpm-create-", dir="/tmp") as folder:
        path = f"{folder}/tpm"
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={path}"]
        words += ["--ctrl", f"type=unixio,path={path}.ctrl", "--flags", "startup-clear", *options]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not listens(path):
                assert process.poll() is None, "swtpm ended at once"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield Tools(path, Path(folder))
        finally:
            process.terminate()
            process.wait(20)


class Tools:
    """tpm2-tools on one TPM."""

    def __init__(self, path: str, folder: Path) -> None:
        self.tcti, self.folder = f"swtpm:path={path}", folder

    def run(self, *words: str, fails: bool = False) -> str:
        environment = {**os.environ, "TPM2TOOLS_TCTI": self.tcti}
        done = subprocess.run(
            words, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode != 0) == fails, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def public(self, handle: str, name: str) -> bytes:
        """DER."""
        self.run("tpm2_readpublic", "-c", handle, "-f", "der", "-o", name)
        return (self.folder / name).read_bytes()

    def certificate(self, index: str, name: str) -> bytes:
        self.run("tpm2_nvread", index, "-C", "o", "-o", name)
        return (self.folder / name).read_bytes()


CHANGES = ("rename", "link", "unlink", "fsync", "mkdir", "rmdir", "fchown", "chown")
KILLER = f"""import atexit, os, sys
left = [int(sys.argv.pop(1))]
atexit.register(lambda: print(left[0], file=sys.stderr))
def dying(call):
    def run(*a, **k):
        if left[0] == 0: os.kill(os.getpid(), 9)
        left[0] -= 1
        return call(*a, **k)
    return run
for name in {CHANGES!r}: setattr(os, name, dying(getattr(os, name)))
"""


def killed_at(host: Host, step: int, *words: str, user: str = "root") -> "list[str]":
    """The command that kills itself before one of its CHANGES of the disk, and says how many were left if it did
    not."""
    command = host.command("create", *words, user=user)
    return [*command[:2], KILLER + command[2], str(step), *command[3:]]
