"""systemd's TPM of the host (systemd-tpm2-swtpm.service) and that of an incus container: the kernel's vtpm_proxy.

What systemd calls is in its src/shared/swtpm-util.c and in the unit.
"""

import json
import os
import socket
import subprocess
import sys

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, GET_RANDOM, running

pytestmark = pytest.mark.needs("binding")

#: The kernel's driver is in few kernels: in its place stands one end of a pair of sockets, whose number is the first
#: word.
WITHOUT_DRIVER = """
import sys
from swtpm_svc.frontends.kernel import vtpmx
from swtpm_svc.start import swtpm
fd = int(sys.argv.pop(1))
vtpmx.create = lambda version: vtpmx.KernelTpm(fd, 5, 253, 5)
sys.exit(swtpm())
"""
KEY = "ab" * 16


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def run(commands):
    """Runs a command of ours; what it printed."""

    def run_it(name, *words, status=(0,)):
        environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
        options = {"stdout": subprocess.PIPE, "text": True, "timeout": DEADLINE_S, "env": environment}
        done = subprocess.run([commands / name, *map(str, words)], **options)
        assert done.returncode in status, (name, words, done.stdout)
        return done.stdout

    return run_it


@pytest.fixture
def kernel():
    """The kernel's end of the device, and the driver's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(DEADLINE_S)
        yield ours, theirs


def manufacture(run, commands, state, secret):
    """As systemd does: with files of its own for swtpm_setup and swtpm_localca, in the state's folder."""
    profiles = json.loads(run("swtpm_setup", "--tpm2", "--print-profiles", status=(0, 1)))
    best = max(
        (one["Name"] for one in profiles.get("builtin", []) if one["Name"].startswith("default-v")), default=None
    )
    keys = (("statedir", "."), ("signingkey", "signing-private-key.pem"), ("issuercert", "issuer-certificate.pem"))
    text = "".join(f"{key} = {state / name}\n" for key, name in (*keys, ("certserial", "certserial")))
    (state / "swtpm-localca.conf").write_text(text)
    words = "--platform-manufacturer systemd\n--platform-version 2.1\n--platform-model swtpm\n"
    (state / "swtpm-localca.options").write_text(words)
    (state / "swtpm_setup.conf").write_text(
        f"create_certs_tool = {commands}/swtpm_localca\n"
        f"create_certs_tool_config = {state}/swtpm-localca.conf\n"
        f"create_certs_tool_options = {state}/swtpm-localca.options\n"
    )
    words = ["--tpm-state", state, "--tpm2", "--pcr-banks", "sha256", "--ecc", "--createek", "--create-ek-cert"]
    words += ["--create-platform-cert", "--not-overwrite", "--config", state / "swtpm_setup.conf"]
    words += [f"--keyfile={secret}", *([f"--profile-name={best}"] if best else []), "--logfile", "/dev/null"]
    assert run("swtpm_setup", *words) in ("", "TPM is listening on Unix socket.\n")


def test_the_hosts_tpm_is_made_and_served_twice(run, commands, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "secret").write_text(KEY)
    manufacture(run, commands, state, tmp_path / "secret")
    assert {"signing-private-key.pem", "issuer-certificate.pem", "certserial"} <= set(os.listdir(state))
    made = (state / "tpm2-00.permall").read_bytes()
    assert made[4:6] == b"\x00\x01", "it is encrypted"
    manufacture(run, commands, state, tmp_path / "secret")
    assert (state / "tpm2-00.permall").read_bytes() == made

    for flags in ("startup-clear", "startup-clear,disable-auto-shutdown"):
        (tmp_path / "secret").write_text(KEY)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notify = tmp_path / f"notify-{len(flags)}"
            notified.bind(str(notify))
            notified.settimeout(DEADLINE_S)
            words = ["chardev", "--vtpm-proxy", "--tpm2", f"--flags={flags}"]
            words += ["--ctrl", f"type=unixio,path={tmp_path}/ctrl"]
            words += [f"--key=file={tmp_path}/secret,format=hex,mode=aes-cbc,remove=true"]
            words += [f"--tpmstate=dir={state},mode=0600"]
            fd = theirs.fileno()
            environment = {**os.environ, "NOTIFY_SOCKET": str(notify)}
            started = [sys.executable, "-c", WITHOUT_DRIVER, fd, *words]
            with running(*started, pass_fds=[fd], env=environment) as process:
                theirs.close()
                assert notified.recv(100) == b"READY=1"
                assert process.stdout.readline() == "New TPM device: /dev/tpm5 (major/minor = 253/5)\n"
                assert not (tmp_path / "secret").exists()
                ours.settimeout(DEADLINE_S)
                ours.send(GET_RANDOM)
                assert ours.recv(4096)[6:10] == bytes(4)
                # the unit's end
                assert run("swtpm_ioctl", "--unix", tmp_path / "ctrl", "-v") == ""
                assert run("swtpm_ioctl", "--unix", tmp_path / "ctrl", "-s") == ""
                assert process.wait(DEADLINE_S) == 0
        assert (state / "tpm2-00.permall").stat().st_mode & 0o777 == 0o600
    assert '"volatilestate"' in run("swtpm", "socket", "--tpm2", "--print-states", "--tpmstate", f"dir={state}")


def test_a_containers_tpm_is_read_from_a_file_and_stopped(kernel, tmp_path):
    """incus waits until something is in the file, and takes the seventh word."""
    ours, theirs = kernel
    (tmp_path / "tpm.tpm0").mkdir(mode=0o700)
    fd = theirs.fileno()
    words = ["chardev", "--tpm2", "--tpmstate", f"dir={tmp_path}/tpm.tpm0", "--vtpm-proxy"]
    with open(tmp_path / "tpm.tpm0.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_DRIVER, str(fd), *words], stdout=log, stderr=log, pass_fds=[fd]
        )
    try:
        theirs.close()
        ours.send(GET_RANDOM)
        assert ours.recv(4096)[6:10] == bytes(4)
        said = (tmp_path / "tpm.tpm0.log").read_text()
        assert said.split(" ")[6] == "253/5)\n"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
