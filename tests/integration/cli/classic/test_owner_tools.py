"""createek, takeown and getpubek as in 2014: their transcript, and what they refuse."""

import re
import subprocess

import pytest
from classic_commands import commands_directory
from daemon_process import DaemonProcess

#: The first two say nothing.
LINE = r"(?:[0-9A-F]{2} ){15}[0-9A-F]{2}\n"
TRANSCRIPT = re.compile(rf"pubek\.pem successfully written\nPubek keylength 256\nModulus:\n((?:{LINE}){{16}})")


class Session:
    """A TPM that has power, and a shell in a folder of its own whose PATH begins with the classic commands."""

    def __init__(self, directory, version="1.2"):
        self.folder = directory / "shell"
        self.folder.mkdir()
        served = directory / "served"
        served.mkdir()
        keys = f'version = "{version}"\npower-on = "manual"'
        self.daemon = DaemonProcess(served, tpm=keys, startup="none", more='[control]\ngroup = "root"\n').start()
        self.path = f"{commands_directory(directory)}:/usr/bin:/bin"

    def run(self, line, **variables):
        """The exit status, standard output and standard error of a line for the shell."""
        environment = {"PATH": self.path, "TPM_DEVICE": self.daemon.data, **variables}
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def refused(self, line, **variables):
        status, out, error = self.run(line, **variables)
        assert (status, out) == (1, "")
        return error


@pytest.fixture
def session(tmp_path):
    one = Session(tmp_path)
    yield one
    one.daemon.stop()


def test_the_transcript_of_2014(session):
    control = session.daemon.control
    line = f"cuse_tpm_ioctl -i --unix {control} && createek && takeown -pwdo ownerpass && getpubek -pwdo ownerpass"
    status, out, error = session.run(line)
    assert (status, error) == (0, "")
    found = TRANSCRIPT.fullmatch(out)
    assert found
    modulus = found[1].replace("\n", " ").split()
    assert [path.name for path in session.folder.iterdir()] == ["pubek.pem"]
    words = ["openssl", "rsa", "-pubin", "-in", session.folder / "pubek.pem", "-noout", "-modulus"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told == f"Modulus={''.join(modulus)}\n"

    # once more: nothing of it is possible twice, but to read the key
    assert "there is an endorsement key already" in session.refused("createek")
    assert "the TPM has an owner already" in session.refused("takeown -pwdo another")
    assert session.run("getpubek -pwdo ownerpass") == (0, out, "")
    assert "the owner's password" in session.refused("getpubek")
    assert session.refused("getpubek -pwdo wrong").startswith("getpubek: ")


def test_before_there_is_an_owner_everybody_reads_the_key(session):
    session.run(f"swtpm_ioctl -i --unix {session.daemon.control}")
    assert session.run("createek") == (0, "", "")
    status, out, _error = session.run("getpubek")
    assert status == 0
    assert TRANSCRIPT.fullmatch(out)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("takeown", "takeown: option '-pwdo' is missing\n"),
        ("takeown -pwdo", "takeown: option '-pwdo' requires an argument\n"),
        ("takeown ownerpass", "takeown: 'ownerpass' is not an option\n"),
        ("createek -pwdo x", "createek: unrecognized option '-pwdo'\n"),
        ("getpubek --foo", "getpubek: unrecognized option '--foo'\n"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_the_usage(session, line, said):
    error = session.refused(line)
    assert error.startswith(said)
    assert error[len(said) :].startswith(f"usage: {line.split()[0]}")
    assert list(session.folder.iterdir()) == []


def test_what_is_no_tpm_is_named(session):
    assert "/dev/none does not exist" in session.refused("createek", TPM_DEVICE="/dev/none")
    assert "/dev/null" in session.refused("createek", TPM_DEVICE="/dev/null")
    port = {"TCSD_USE_TCP_DEVICE": "1", "TCSD_TCP_DEVICE_PORT": "x"}
    assert "TCSD_TCP_DEVICE_PORT: 'x' is no port" in session.refused("createek", **port)
    by_tcp = {"TCSD_USE_TCP_DEVICE": "1", "TCSD_TCP_DEVICE_HOSTNAME": "::1", "TCSD_TCP_DEVICE_PORT": "1"}
    assert "tcp:[::1]:1" in session.refused("createek", **by_tcp)


def test_a_tpm_2_is_another_command_s(tmp_path):
    session = Session(tmp_path, "2.0")
    try:
        session.run(f"swtpm_ioctl -i --unix {session.daemon.control}")
        assert "is a TPM 2.0" in session.refused("getpubek")
    finally:
        session.daemon.stop()
