"""One list of command lines for the distribution's tool and for ours, each over a TPM of its own that was just made.

Both begin in the same state, so each line must give the same as long as all before it did.
"""

import os
import re
import shlex
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import NamedTuple, Optional

from daemon_process import DaemonProcess
from swtpm_process import swtpm


class Line(NamedTuple):
    """`words`: as a shell has them, without the tool; with "!" before them, the distribution's swtpm_ioctl gets them, and with
    "?" they are a command in hexadecimal, for the TPM.
    `stdin`: what the tool reads there. `environment`: of its own, beside PATH.

    `instead`: what ours gives (status, standard output, standard error) where the distribution's release differs from the
    one that ours follows.
    """

    words: str
    stdin: bytes = b""
    instead: "Optional[tuple[int, str, str]]" = None
    environment: "tuple[tuple[str, str], ...]" = ()


def in_places(text, places):
    """`text` with what stands for each word in braces."""
    return re.sub(r"\{(\w+)\}", lambda found: places[found[1]], text)


def both(lines, directory, tools, places):
    """The outcomes of the distribution's tool and of ours, each with places of its own."""
    outcomes = []
    for name, tool, its_places in zip(("theirs", "ours"), tools, places):
        files = directory / f"files-{name}"
        files.mkdir()
        outcomes.append([outcome(tool, line, files, its_places) for line in lines])
    return outcomes


def outcome(tool, line, directory, places):
    """Exit status, standard output and standard error; `places`: what stands for words in braces."""
    if line.words.startswith("?"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(places["data"])
            client.sendall(bytes.fromhex(line.words[1:]))
            return client.recv(4096).hex()
    words = shlex.split(in_places(line.words.lstrip("!"), places))
    if line.words.startswith("!"):
        tool = "/usr/bin/swtpm_ioctl"
    variables = {"PATH": os.environ["PATH"], **{key: in_places(value, places) for key, value in line.environment}}
    name = os.path.basename(tool)
    for _attempt in range(50):
        done = subprocess.run(
            [name, *words],
            executable=tool,
            input=line.stdin,
            env=variables,
            cwd=directory,
            capture_output=True,
            timeout=60,
        )
        # the distribution's does not wait for room in the backlog, where the client before it stands yet
        if not places or done.stderr != b"Could not connect using UnixIO socket.\n":
            break
        time.sleep(0.02)
    said = done.stderr.decode().replace(f"{tool}: ", f"{name}: ")
    # the help has words of its own
    help_begins = r"^TPM emulator [^\n]*\n\n(?:Usage: |swtpm_bios \[options\])"
    printed = re.sub(rf"{help_begins}.*\Z", "HELP", done.stdout.decode(), flags=re.DOTALL)
    return done.returncode, printed, said


def differences(lines, theirs, ours):
    """What to look at, a text for each line that did not give what it should."""
    found = []
    for line, one, two in zip(lines, theirs, ours):
        if two != (line.instead or one):
            found.append(f"{line.words}\n  swtpm's: {one}\n  ours:    {two}")
        if line.instead is not None and one == line.instead:
            found.append(f"{line.words}\n  the distribution's gives the same: it is no exception any more")
    return "\n".join(found)


@contextmanager
def emulator(kind, directory, version="2.0", **more):
    """A TPM without power, just made, as its control and its data socket: the distribution's or our own daemon's."""
    directory.mkdir()
    if kind == "swtpm":
        state = directory / "state"
        state.mkdir()
        with swtpm(version, state, *more.get("options", ())) as tpm:
            yield tpm.control, tpm.data
        return
    daemon = DaemonProcess(directory, tpm=f'version = "{version}"', startup="none", more='[control]\ngroup = "root"\n')
    daemon.start()
    try:
        yield daemon.control, daemon.data
    finally:
        daemon.stop()
