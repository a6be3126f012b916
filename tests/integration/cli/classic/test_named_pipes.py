"""Each option of each classic command that names a file, given a named pipe of which nobody has the other end: one
line, at once, and nothing is made or removed."""

import os
import subprocess

import pytest
from classic_commands import commands_directory

DEADLINE_S = 30
FACTS = ["--tpm2", "--tpm-spec-family", "2.0", "--tpm-spec-revision", "164", "--tpm-spec-level", "0"]
FACTS += ["--tpm-manufacturer", "id:1", "--tpm-model", "m", "--tpm-version", "id:2"]
MODULUS = "ab" * 128
SOCKET = ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=state", "--flags", "not-need-init"]
CHARDEV = ["swtpm", "chardev", *SOCKET[2:]]
CUSE = ["swtpm_cuse", *SOCKET[2:], "-n", "none"]
SETUP = ["swtpm_setup", "--tpm2", "--tpm-state", "state", "--config", "setup.conf"]
LOCALCA = ["swtpm_localca", "--type", "ek", "--ek", MODULUS, *FACTS, "--configfile", "localca.conf"]
LOCALCA += ["--optsfile", "options"]
CERT = ["swtpm_cert", "--modulus", MODULUS, *FACTS, "--signkey", "ca/key", "--issuercert", "ca/issuer"]
KEYS = ("key file", "key pwdfile", "migration-key file", "migration-key pwdfile")
OF_SWTPM = (*KEYS, "log file", "pcap file", "profile file")
#: Command lines that want a value, and the options: NAME, or NAME WORD of a comma list.
LINES = [
    *((SOCKET, option) for option in (*OF_SWTPM, "pid file")),
    *((CHARDEV, option) for option in (*OF_SWTPM, "chardev")),
    *((CUSE, option) for option in OF_SWTPM),
    *((SETUP, option) for option in ("config", "logfile", "keyfile", "pwdfile", "profile-file", "tpm-state")),
    *((LOCALCA, option) for option in ("configfile", "optsfile", "logfile")),
    *((CERT, option) for option in ("pubkey", "issuercert", "signkey-pwd file")),
    (["swtpm_bios"], "tpm-device"),
    (["swtpm_bios"], "unix"),
    (["swtpm_ioctl", "-c"], "tpm-device"),
    (["swtpm_ioctl", "-c"], "unix"),
]
STATUSES = {"swtpm_cuse": (1, 252, 253), "swtpm_bios": (255,)}


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def run(commands, tmp_path):
    """Run words in a folder with a pipe and all that the commands need; status, standard error, names that are new."""
    for name in ("state", "ca"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("setup.conf", "options"):
        (tmp_path / name).write_text("")
    (tmp_path / "localca.conf").write_text("statedir = ca\nsigningkey = ca/key\nissuercert = ca/issuer\n")

    def run(words):
        before = {*tmp_path.rglob("*")}
        ran = subprocess.run(
            [commands / words[0], *words[1:]],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return ran.returncode, ran.stderr.decode(), {*tmp_path.rglob("*")} ^ before

    return run


def line_with(words, option):
    name, _, word = option.partition(" ")
    value = "file:fifo" if name == "signkey-pwd" else f"{word}=fifo" if word else "fifo"
    return [*words, f"--{name}", value]


@pytest.mark.parametrize(("words", "option"), LINES, ids=lambda part: part if isinstance(part, str) else part[0])
def test_a_named_pipe_is_refused_at_once(run, words, option):
    status, said, changed = run(line_with(words, option))
    assert status in STATUSES.get(words[0], (1,))
    assert len([line for line in said.splitlines() if not line.startswith("  remedy: ")]) == 1
    is_for_root = words[0] == "swtpm_cuse" and os.geteuid() != 0
    assert "fifo" in said or option == "unix" or "needs libtpms 0.10" in said or is_for_root
    assert changed == set()


@pytest.mark.parametrize("key", ["signingkey", "issuercert", "certserial"])
def test_a_local_ca_has_no_named_pipes(run, tmp_path, key):
    words = [*LOCALCA[:-4], "--configfile", "localca.conf", "--optsfile", "options"]
    assert run(words)[0] == 0
    with open(tmp_path / "localca.conf", "a", encoding="ascii") as file:
        file.write("certserial = ca/certserial\n")
    place = tmp_path / {"signingkey": "ca/key", "issuercert": "ca/issuer", "certserial": "ca/certserial"}[key]
    place.unlink()
    os.mkfifo(place)
    status, said, changed = run(words)
    assert (status, changed) == (1, set())
    assert said.splitlines()[0] == "Could not create EK certificate locally"
    assert f"{place.relative_to(tmp_path)}: it is a named pipe" in said.splitlines()[1]


def test_a_certificate_needs_a_signing_key_that_is_a_file(run):
    assert run(LOCALCA)[0] == 0
    words = ["swtpm_cert", "--modulus", MODULUS, *FACTS, "--signkey", "fifo", "--issuercert", "ca/issuer"]
    status, said, changed = run(words)
    assert (status, changed) == (1, set())
    assert said.startswith("swtpm_cert: Could not read signing key from file fifo: it is a named pipe\n")


def test_a_pid_file_does_not_take_a_device_along(run):
    """swtpm 0.7.1 as root, which removes its pid file at the end, removes /dev/null."""
    words = [*SOCKET, "--server", "type=unixio,path=socket", "--pid", "file=/dev/null"]
    status, said, _changed = run(words)
    assert (status, said) == (1, "swtpm: Could not open pidfile /dev/null : it is a character device\n")
    assert os.path.exists("/dev/null")
