"""swtpm_cuse, `swtpm cuse` and cuse_tpm_server, the name of 2014, on a real /dev/cuse."""

import errno
import fcntl
import os
import runpy
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from device_clients import wait_for
from tpm_commands import GET_RANDOM, TPM12_GET_MANUFACTURER

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")

INSTALLER = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools/install_package.py"))
STARTUP_1_2 = bytes.fromhex("00c10000000c000000990001")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classic") / "bin"
    INSTALLER["install_commands"](INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"]), directory)
    return directory


def pids(word):
    """Processes by their command line, as scripts look for them: `word` is its last one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        if words[-1] == word.encode() and any(b"cuse" in one for one in words):
            found.append(int(name))
    return found


def end(name, number=signal.SIGTERM):
    for pid in pids(name):
        os.kill(pid, number)
    wait_for(lambda: not pids(name) and not os.path.exists(f"/dev/{name}"), f"the end of {name}")


def start(command, *words, env=None, cwd=None):
    return subprocess.run(
        [command, *words], env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=60
    )


def exchange(fd, command, size=4096):
    assert os.write(fd, command) == len(command)
    return os.read(fd, size)


@pytest.mark.parametrize("command", ["cuse_tpm_server", "swtpm_cuse"])
def test_a_device_as_in_2014(commands, tmp_path, command):
    """No INIT, no TPM; and the device is there when the command ends, in the background."""
    done = start(commands / command, "-n", "vtpm0", env={"TPM_PATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(pids("vtpm0")) == 1
    try:
        assert stat.S_ISCHR(os.stat("/dev/vtpm0").st_mode)
        assert os.listdir(tmp_path) == []
        fd = os.open("/dev/vtpm0", os.O_RDWR)
        try:
            assert exchange(fd, TPM12_GET_MANUFACTURER).hex() == "00c40000000a00000009"
            init = subprocess.run(["swtpm_ioctl", "-i", "/dev/vtpm0"], capture_output=True, text=True, timeout=60)
            assert (init.returncode, init.stdout + init.stderr) == (0, "")
            assert exchange(fd, STARTUP_1_2).hex() == "00c40000000a00000000"
            assert b"IBM" in exchange(fd, TPM12_GET_MANUFACTURER)
            assert "tpm-00.permall" in os.listdir(tmp_path)
        finally:
            os.close(fd)
        told = subprocess.run(["swtpm_ioctl", "-c", "/dev/vtpm0"], capture_output=True, text=True, timeout=60)
        assert told.stdout == "ptm capability is 0x16fff\n"
        assert subprocess.run(["swtpm_ioctl", "-s", "/dev/vtpm0"], timeout=60).returncode == 0
        wait_for(lambda: not pids("vtpm0") and not os.path.exists("/dev/vtpm0"), "the end of vtpm0")
    finally:
        end("vtpm0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_tpm_2_with_a_number_a_pid_and_its_startup(commands, tmp_path, number):
    words = ["--tpm2", "--tpmstate", "dir=state", "--flags", "startup-clear", "--pid", f"file={tmp_path}/pid"]
    words += ["--log", f"file={tmp_path}/log", "-M", "240", "-m", "7", "-n", "vtpm9"]
    done = start(commands / "swtpm", "cuse", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "swtpm: CUSE TPM successfully initialized.\n"), done.stderr
    try:
        found = os.stat("/dev/vtpm9")
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (240, 7)
        pid = int((tmp_path / "pid").read_text())
        assert pids("vtpm9") == [pid]
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert (tmp_path / "state").is_dir()
        fd = os.open("/dev/vtpm9", os.O_RDWR)
        try:
            assert len(exchange(fd, GET_RANDOM)) == 20
            assert os.write(fd, GET_RANDOM) == len(GET_RANDOM)
            assert exchange(fd, bytes.fromhex("800100")).hex() == "80010000000a0000009a", (
                "it takes the place of a response"
            )
            assert os.write(fd, GET_RANDOM) == len(GET_RANDOM)
            assert len(os.read(fd, 4)) == 4
            assert len(os.read(fd, 4096)) == 16
            assert os.read(fd, 4096) == b""
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                fcntl.ioctl(fd, 0xC0045000 | 99, bytes(4))
            saved = start("swtpm_ioctl", "--save", "permanent", tmp_path / "blob", "/dev/vtpm9")
            assert (saved.returncode, saved.stdout + saved.stderr) == (0, "")
        finally:
            os.close(fd)
    finally:
        end("vtpm9", number)
    assert not (tmp_path / "pid").exists()
    size = (tmp_path / "blob").stat().st_size
    told = (tmp_path / "log").read_text().splitlines()
    assert told == [
        f"Serialized state type 1, length={size}, totlength={size}, res=0",
        "CUSE TPM is shutting down.",
    ]


def test_as_another_user_once_the_device_is_there(commands, tmp_path):
    words = ["--tpm2", "--tpmstate", f"dir={tmp_path}", "--flags", "startup-clear", "-r", "vtpm", "-n", "vtpm3"]
    assert start(commands / "swtpm_cuse", *words).returncode == 0
    try:
        (pid,) = pids("vtpm3")
        assert os.stat(f"/proc/{pid}").st_uid != 0
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            status = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        fd = os.open("/dev/vtpm3", os.O_RDWR)
        for _ in range(40):
            assert len(exchange(fd, GET_RANDOM)) == 20
        os.close(fd)
        assert len(os.listdir(f"/proc/{pid}/task")) == 2, "it has a thread now, which its filter of system calls allows"
    finally:
        end("vtpm3")


def test_what_fails(commands, tmp_path):
    program = commands / "swtpm_cuse"
    state = ["--tpmstate", f"dir={tmp_path}"]
    assert start(program, *state).returncode == 254
    done = start(program, *state, "-n", "null")
    assert (done.returncode, done.stderr) == (255, "swtpm: Error: A device '/dev/null' already exists.\n")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "tpm2-00.permall").write_bytes(b"garbage")
    done = start(program, "--tpm2", "--tpmstate", f"dir={bad}", "--flags", "startup-clear", "-n", "vtpm5")
    assert done.returncode == 255
    assert not os.path.exists("/dev/vtpm5")
    os.rename("/dev/cuse", "/dev/cuse-away")
    try:
        done = start(program, *state, "-n", "vtpm5")
    finally:
        os.rename("/dev/cuse-away", "/dev/cuse")
    assert (done.returncode, done.stderr) == (1, "swtpm: cuse: device not found, try 'modprobe cuse' first\n")
