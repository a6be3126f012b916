"""Callers that close the standard streams, give absurd words, or name a file where a device belongs: one line, the
classic exit status, and nothing of anybody's is written into."""

import os
import pwd
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from classic_commands import commands_directory

DEADLINE_S = 60
DIGITS = "9" * 5000
KEY = "ab" * 128
FACTS = (
    "--tpm2 --tpm-spec-family 2.0 --tpm-spec-revision 164 --tpm-spec-level 0 --tpm-manufacturer id:1 --tpm-model m "
    "--tpm-version id:2"
)
LOCALCA = ["swtpm_localca", "--type", "ek", "--ek", KEY, *FACTS.split()]


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def run(commands, tmp_path):
    """Run a command in tmp_path by a shell, for what a shell does to the streams; its status and standard error."""

    def run(words, streams="", **variables):
        env = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), **variables}
        line = f'exec "$0" "$@" {streams}'
        ran = subprocess.run(
            ["sh", "-c", line, commands / words[0], *words[1:]],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return ran.returncode, ran.stderr.decode(errors="surrogateescape")

    return run


@pytest.fixture
def ca(tmp_path):
    """The configuration of a local CA in tmp_path."""
    (tmp_path / "swtpm-localca.conf").write_text(
        "".join(f"{key} = {tmp_path}/ca/{key}\n" for key in ("signingkey", "issuercert"))
        + f"statedir = {tmp_path}/ca\n"
    )
    (tmp_path / "swtpm-localca.options").write_text("")
    (tmp_path / "swtpm_setup.conf").write_text("")
    return tmp_path / "ca"


def cert_words(ca):
    return [
        "swtpm_cert",
        "--modulus",
        KEY,
        *FACTS.split(),
        "--signkey",
        f"{ca}/signingkey",
        "--issuercert",
        f"{ca}/issuercert",
    ]


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_tpm_is_made_for_a_caller_who_hears_nothing(run, ca, tmp_path, streams):
    (tmp_path / "state").mkdir()
    assert run(["swtpm_setup", "--tpm2", "--tpm-state", "state"], streams) == (0, "")
    assert (tmp_path / "state/tpm2-00.permall").exists()


@pytest.mark.parametrize("streams", [">&-", ">/dev/full"])
def test_a_certificate_is_made_for_a_caller_who_hears_nothing(run, ca, tmp_path, streams):
    assert run(LOCALCA, streams) == (0, "")
    assert (tmp_path / "ek.cert").exists()
    assert (ca / ".lock.swtpm-localca").read_bytes() == b""  # it may not have got the number of what was closed


def test_a_log_on_a_full_disk_does_not_take_the_certificate(run, ca, tmp_path):
    assert run([*LOCALCA, "--logfile", "/dev/full"]) == (0, "")
    assert (tmp_path / "ek.cert").exists()


def test_a_certificate_that_cannot_be_printed_is_an_error_in_one_line(run, ca):
    run(LOCALCA)
    assert run(cert_words(ca), ">/dev/full") == (1, "swtpm_cert: No space left on device\n")


@pytest.mark.parametrize("program", ["swtpm_setup", "swtpm_cert"])
def test_what_is_asked_for_and_cannot_be_printed_is_an_error_in_one_line(run, program):
    assert run([program, "--print-capabilities"], ">/dev/full") == (1, f"{program}: No space left on device\n")
    assert run([program, "--print-capabilities"], ">&-")[0] == 0


@pytest.mark.parametrize("program", ["swtpm_setup", "swtpm_localca", "swtpm_cert"])
def test_a_complaint_that_cannot_be_written_leaves_the_status(run, program):
    assert run([program, "--foo"], "2>/dev/full >/dev/null")[0] == 1


# --- words -------------------------------------------------------------------------------------------------------

SOCKET = ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=state", "--flags", "not-need-init"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--ctrl", f"type=unixio,path=s,uid={DIGITS}"],
            f"Error parsing ctrl options: User '{DIGITS}' does not exist.",
        ),
        (
            ["--ctrl", f"type=unixio,path=s,gid={DIGITS}"],
            f"Error parsing ctrl options: Group '{DIGITS}' does not exist.",
        ),
        (
            ["--ctrl", "type=unixio,path=s,uid=4294967295"],
            "Error parsing ctrl options: User '4294967295' does not exist.",
        ),
        (["--runas", DIGITS], f"Error: User '{DIGITS}' does not exist."),
        (["--runas", "4294967295"], "Error: User '4294967295' does not exist."),  # (uid_t) -1: it would stay root
        (["--runas", ""], "Error: User '' does not exist."),
        (["--server", "type=tcp,port=0,bindaddr=\udcff"], "Could not parse the bind address '\udcff'"),
        (["--profile", "fd=-1"], "Failed to open file \u201cfd -1\u201d: Bad file descriptor"),
    ],
)
def test_swtpm_refuses_absurd_words_in_one_line(run, tmp_path, words, message):
    (tmp_path / "state").mkdir()
    assert run([*SOCKET, *words]) == (1, f"swtpm: {message}\n")
    assert os.listdir(tmp_path) == ["state"]
    assert os.listdir(tmp_path / "state") == []


def test_swtpm_in_a_folder_that_is_gone_says_so(commands):
    line = 'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$0" socket --tpmstate dir=state --print-states'
    words = ["sh", "-c", line, commands / "swtpm", commands.parent / "gone"]
    ran = subprocess.run(words, capture_output=True, timeout=DEADLINE_S, check=False, text=True)
    reason = "The current folder is gone, and --tpmstate state is in it: No such file or directory"
    assert (ran.returncode, ran.stderr) == (1, f"swtpm: {reason}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-l", DIGITS], "Locality outside valid range of [0..4]."),
        (["--info", DIGITS], "Cannot parse info flags."),
        (["--tcp", f":{DIGITS}"], f"Port '{DIGITS}' outside valid range."),
    ],
)
def test_swtpm_ioctl_refuses_thousands_of_digits_in_one_line(run, words, message):
    assert run(["swtpm_ioctl", *words, "-c"][: 4 if words[0] == "--tcp" else 3]) == (1, f"{message}\n")


def test_swtpm_setup_refuses_a_user_of_thousands_of_digits_in_one_line(run, ca):
    words = ["swtpm_setup", "--tpm-state", ".", "--runas", DIGITS]
    assert run(words) == (1, f"Error: User '{DIGITS}' does not exist.\n")


# --- files -------------------------------------------------------------------------------------------------------


def test_swtpm_bios_does_not_write_into_a_file(run, tmp_path):
    file = tmp_path / "file"
    file.write_text("somebody's only copy")
    message = "Unable to open device 'file': it is not a character device.\n"
    assert run(["swtpm_bios", "--tpm2", "--tpm-device", "file"]) == (255, message)
    assert file.read_text() == "somebody's only copy"


def test_swtpm_chardev_refuses_a_file_before_there_is_a_tpm(run, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "state").mkdir()
    words = ["swtpm", "chardev", "--chardev", "file", *SOCKET[2:]]
    assert run(words) == (1, "swtpm: Given file descriptor type is not supported.\n")
    assert os.listdir(tmp_path / "state") == []


@pytest.mark.parametrize("name", ["swtpm-localca.conf", "swtpm-localca.options"])
def test_a_configuration_that_is_not_text_is_refused_in_one_line(run, ca, tmp_path, name):
    with open(tmp_path / name, "a", encoding="ascii") as file:
        file.write("certserial = a\0b\n")
    what = name.rpartition(".")[2].replace("conf", "config")
    user = pwd.getpwuid(os.geteuid()).pw_name
    status, said = run(LOCALCA)
    assert (status, said.splitlines()[-1]) == (1, f"Need read rights on {what} file {tmp_path}/{name} for user {user}.")


def test_configuration_files_may_be_in_a_folder_of_any_name(run, tmp_path):
    folder = tmp_path / "\udcff"
    assert run(["swtpm_setup", "--create-config-files=root"], XDG_CONFIG_HOME=str(folder)) == (0, "")
    assert os.fsencode(folder) in (folder / "swtpm_setup.conf").read_bytes()


SMALL = 200


@pytest.fixture
def run_on_a_full_disk(commands, tmp_path):
    """Files take some bytes and no more; status and standard error."""

    def run(words):
        ran = subprocess.run(
            [commands / words[0], *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL)),
        )
        return ran.returncode, ran.stderr.decode()

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_certificates_as_they_were(run, run_on_a_full_disk, ca, tmp_path):
    assert run(LOCALCA)[0] == 0
    before = contents(tmp_path)
    words = [*cert_words(ca), "--out-cert", "ek.cert"]
    assert run_on_a_full_disk(words) == (1, "Could not open ek.cert for writing the certificate: File too large\n")
    assert contents(tmp_path) == before
    (tmp_path / "ek.cert").unlink()
    assert run_on_a_full_disk(words)[0] == 1
    status, said = run_on_a_full_disk(LOCALCA)
    assert (status, said.splitlines()[0]) == (1, "Could not create EK certificate locally")
    assert set(contents(tmp_path)) == set(before) - {tmp_path / "ek.cert"} | {ca / "certserial"}


def test_a_full_disk_leaves_configuration_files_as_they_were(run, run_on_a_full_disk, tmp_path):
    assert run(["swtpm_setup", "--create-config-files=root"]) == (0, "")
    (tmp_path / "swtpm_setup.conf").write_text("# mine\n")
    before = contents(tmp_path)
    status, said = run_on_a_full_disk(["swtpm_setup", "--create-config-files=root,overwrite"])
    assert (status, said) == (1, f"Could not write {tmp_path}/swtpm_setup.conf: File too large\n")
    assert contents(tmp_path) == before


def test_a_named_pipe_in_the_place_of_a_certificate_stays_there(run, ca, tmp_path):
    os.mkfifo(tmp_path / "ek.cert")
    status, said = run(LOCALCA)
    assert (status, said.splitlines()[1]) == (
        1,
        "Could not open ./ek.cert for writing the certificate: it is a named pipe",
    )
    assert (tmp_path / "ek.cert").is_fifo()


def test_a_certificate_may_go_nowhere(run, ca):
    run(LOCALCA)
    assert run([*cert_words(ca), "--out-cert", "/dev/null"]) == (0, "")
    assert not os.path.isfile("/dev/null")


def test_a_configuration_file_that_is_a_link_stays_one(run, tmp_path):
    (tmp_path / "swtpm_setup.conf").symlink_to("elsewhere")
    assert run(["swtpm_setup", "--create-config-files=root,overwrite"]) == (0, "")
    assert (tmp_path / "swtpm_setup.conf").is_symlink()
    assert b"create_certs_tool" in (tmp_path / "elsewhere").read_bytes()


# --- crashes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, resource.RLIM_INFINITY])
def test_a_crash_leaves_no_file_with_the_keys_that_are_in_memory(commands, tmp_path, limit):
    """Neither in the folder nor at the program that core_pattern names, which is not asked for a limit of 1."""

    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)

    def allow():
        resource.setrlimit(resource.RLIMIT_CORE, (min(limit, hard) if hard >= 0 else limit, hard))

    (tmp_path / "state").mkdir()
    words = [*SOCKET[1:], "--ctrl", "type=unixio,path=ctrl", "--pid", "file=pid"]
    process = subprocess.Popen([commands / "swtpm", *words], cwd=tmp_path, preexec_fn=allow)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.01)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert re.search(f"^Max core file size +{1 if hard else 0} +", limits, re.MULTILINE)
    process.send_signal(signal.SIGSEGV)
    _pid, status = os.waitpid(process.pid, 0)
    process.returncode = status
    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGSEGV, False)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("core")]
