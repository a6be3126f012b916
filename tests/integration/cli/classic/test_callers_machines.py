"""What programs that run virtual machines call: their swtpm_setup, their swtpm, QEMU's conversation, and their end.

The words are those of libvirt, systemd-vmspawn, mkosi, incus and xen-api's swtpm-wrapper.
"""

import array
import os
import shlex
import signal
import socket
import subprocess
from typing import NamedTuple

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, GET_RANDOM, STARTUP_CLEAR, ask, connect, is_alive, serves, wait_until

pytestmark = pytest.mark.needs("binding")

MANUFACTURE = "--tpm2 --createek --create-ek-cert --create-platform-cert --lock-nvram --not-overwrite"


class Caller(NamedTuple):
    """The words of a program, and how it makes an end: a signal to swtpm, or QEMU's ("shutdown", "hang-up").

    {state} and {run} are folders, the latter the current one; `socket` is in it, where descriptor 3 listens if it is
    named, as the program makes it or what is in `prefix`.
    """

    words: str
    end: object
    setup: str = ""
    socket: str = "sock"
    prefix: str = ""


CALLERS = {
    "libvirt": Caller(
        "socket --ctrl type=unixio,path={run}/sock,mode=0600 --tpmstate dir={state},mode=0600 "
        "--log file={run}/log --terminate --tpm2 --pid file={run}/pid --daemon",
        "hang-up",
        f"--tpm-state {{state}} --vmid guest:0b7a --logfile {{run}}/log {MANUFACTURE}",
    ),
    "libvirt, a second start": Caller(
        "socket --daemon --ctrl type=unixio,path={run}/sock,mode=0600 --tpmstate dir={state},mode=0600 "
        "--log file={run}/log --tpm2 --pid file={run}/pid --migration release-lock-outgoing",
        "shutdown",
    ),
    "mkosi": Caller(
        "socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,fd=3",
        signal.SIGTERM,
        "--tpm-state {state} --tpm2 --pcr-banks sha256 --config /dev/null",
    ),
    "mkosi, of old": Caller("socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,path={run}/sock", signal.SIGTERM),
    "systemd-vmspawn": Caller(
        "socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,fd=3",
        "shutdown",
        "--tpm-state {state} --tpm2 --pcr-banks sha256",
    ),
    "systemd-vmspawn, by systemd-socket-activate": Caller(
        "socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,fd=3",
        signal.SIGTERM,
        "--tpm-state {state} --tpm2 --pcr-banks sha256 --ecc --createek --not-overwrite --logfile /dev/null",
        prefix="systemd-socket-activate --listen {run}/sock",
    ),
    "incus": Caller("socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,fd=3", "shutdown"),
    "incus, of old": Caller(
        "socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,path=swtpm-tpm.sock",
        "shutdown",
        socket="swtpm-tpm.sock",
    ),
    "incus, of old, stopped": Caller(
        "socket --tpm2 --tpmstate dir={state} --ctrl type=unixio,path=swtpm-tpm.sock",
        signal.SIGTERM,
        socket="swtpm-tpm.sock",
    ),
}


@pytest.fixture
def place(tmp_path):
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    ca = "\n".join(
        f"{key} = {tmp_path}/ca/{name}" for key, name in (("statedir", ""), ("signingkey", "k"), ("issuercert", "c"))
    )
    (tmp_path / "localca.conf").write_text(f"{ca}\n")
    (tmp_path / "localca.options").write_text("--platform-manufacturer X\n--platform-version 1\n--platform-model Y\n")
    words = [
        f"create_certs_tool_{key} = {tmp_path}/localca.{suffix}"
        for key, suffix in (("config", "conf"), ("options", "options"))
    ]
    (tmp_path / "swtpm_setup.conf").write_text("\n".join(["create_certs_tool = swtpm_localca", *words, ""]))
    return tmp_path


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


def set_up(commands, place, words):
    """Run swtpm_setup; its configuration is the user's own, as the machine's belongs to the machine."""
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(place)}
    words = words.format(state=place / "state", run=place / "run")
    done = subprocess.run(
        [commands / "swtpm_setup", *shlex.split(words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(command, place, words, prefix=""):
    """Start the command line behind `prefix` in {run}, with a listening socket as descriptor 3 if it wants one."""
    line = f"exec {prefix} {shlex.quote(str(command))} {words}".format(state=place / "state", run=place / "run")
    if "fd=3" not in words or "--listen" in prefix:
        return subprocess.Popen(["bash", "-c", line], cwd=place / "run")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "run/sock"))
        listener.listen()
        fd = listener.fileno()
        return subprocess.Popen(["bash", "-c", f"{line} 3<&{fd} {fd}<&-"], cwd=place / "run", pass_fds=[fd])


class Qemu:
    """What QEMU says: over the control socket, and over a data socket that it brings (its backends/tpm)."""

    def __init__(self, control):
        self._control, (self._data, self._theirs) = connect(control), socket.socketpair()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self._control.close()
        self._data.close()
        self._theirs.close()

    def boot(self):
        assert self._ask("00000001", 8) == bytes.fromhex("00000000 0001ffff")
        fds = array.array("i", [self._theirs.fileno()])
        self._control.sendmsg([bytes.fromhex("00000010")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        assert self._control.recv(4) == bytes(4)
        self._theirs.close()
        assert self._ask("00000011 00000000", 16)[:4] == bytes(4)  # SET_BUFFERSIZE: 0 asks for it
        assert self._ask("00000002 00000000", 4) == bytes(4)  # INIT
        assert self._ask("00000005 00000000", 4) == bytes(4)  # SET_LOCALITY
        assert ask(self._data, STARTUP_CLEAR)[6:10] == bytes(4)
        assert len(ask(self._data, GET_RANDOM)) == 20

    def shut_down(self):
        assert self._ask("00000003", 4) == bytes(4)

    def _ask(self, message, size):
        self._control.sendall(bytes.fromhex(message))
        response = b""
        while len(response) < size:
            piece = self._control.recv(size - len(response))
            assert piece, (message, response)
            response += piece
        return response


def states(commands, place):
    words = ["socket", "--tpm2", "--print-states", "--tpmstate", f"dir={place}/state"]
    return subprocess.run([commands / "swtpm", *words], capture_output=True, text=True, timeout=DEADLINE_S).stdout


@pytest.mark.parametrize("name", CALLERS)
def test_a_machine_runs_with_its_tpm(commands, place, name):
    caller = CALLERS[name]
    if caller.setup:
        set_up(commands, place, caller.setup)
        made = (place / "state/tpm2-00.permall").read_bytes()
        if "--not-overwrite" in caller.setup:
            set_up(commands, place, caller.setup)
            assert (place / "state/tpm2-00.permall").read_bytes() == made
    process = start(commands / "swtpm", place, caller.words, caller.prefix)
    pid = process.pid
    try:
        if "--daemon" in caller.words:
            assert process.wait(DEADLINE_S) == 0
            pid = int((place / "run/pid").read_text())
        # a relative path is the kernel's name for it, too
        serves(place / "run/sock" if caller.socket == "sock" else caller.socket)
        if "mode=0600" in caller.words:
            assert (place / "run/sock").stat().st_mode & 0o777 == 0o600
        with Qemu(place / "run" / caller.socket) as qemu:
            qemu.boot()
            if caller.end == "shutdown":
                qemu.shut_down()
        if caller.end == signal.SIGTERM:
            os.kill(pid, signal.SIGTERM)
        if pid == process.pid:
            assert process.wait(DEADLINE_S) == 0
        else:
            wait_until(lambda: not is_alive(pid), "ended")
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(DEADLINE_S)
    # of the socket that the caller bound only the caller knows the path
    assert sorted(os.listdir(place / "run")) == sorted(
        [*(["log"] if "{run}/log" in caller.words else []), *(["sock"] if "fd=3" in caller.words else [])]
    )
    assert '"permall"' in states(commands, place)
    if "dir={state},mode=0600" in caller.words:
        assert (place / "state/tpm2-00.permall").stat().st_mode & 0o777 == 0o600


@pytest.mark.needs("root")
def test_xen_apis_wrapper_confines_it(commands, place):
    """In a root, namespaces and limits of its own; its pid file is there already, and empty."""
    uid, state = 65534, place / "state"
    set_up(commands, place, f"--tpm-state {state} {MANUFACTURE}")
    pid_file = state / "swtpm-7.pid"
    pid_file.touch()
    (state / "dev").mkdir()
    os.mknod(state / "dev/urandom", 0o666 | 0o020000, os.makedev(1, 9))
    for path in (state, pid_file, state / "tpm2-00.permall", state / ".lock"):
        if path.exists():
            os.chown(path, uid, uid)
    words = "socket --tpm2 --tpmstate dir=/ --ctrl type=unixio,fd=3 --log level=1 --pid file=/swtpm-7.pid -t "
    words += f"--chroot {state} --runas {uid}"
    confined = "unshare --mount --ipc --net prlimit --fsize=262144 --"
    process = start(commands / "swtpm", place, words, confined)
    try:
        wait_until(lambda: pid_file.read_text() == str(process.pid), "written its pid")
        with Qemu(place / "run/sock") as qemu:
            qemu.boot()
            assert os.stat(f"/proc/{process.pid}").st_uid == uid
            assert os.readlink(f"/proc/{process.pid}/root") == str(state)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert not pid_file.exists()
