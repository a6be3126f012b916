"""`swtpm socket` serves as swtpm does (swtpm(8), and measured with its releases)."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

import pytest
from classic_commands import commands_directory
from classic_swtpm import (
    DEADLINE_S,
    GET_RANDOM,
    NO_POWER,
    NOT_STARTED,
    STARTUP_CLEAR,
    ask,
    connect,
    ioctl,
    is_alive,
    random_bytes,
    running,
    serves,
    wait_until,
)
from socket_service import free_ports

pytestmark = pytest.mark.needs("swtpm_ioctl")
NOBODY = 65534


@pytest.fixture(scope="session")
def swtpm(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands")) / "swtpm"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def open_place():
    """A folder that every user can come to, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def unix(place, *, flags="startup-clear"):
    words = ["socket", "--tpm2", "--tpmstate", f"dir={place}/state"]
    words += ["--ctrl", f"type=unixio,path={place}/ctrl", "--server", f"type=unixio,path={place}/data"]
    return words + (["--flags", flags] if flags else [])


def files(place):
    return sorted(os.listdir(place / "state"))


def test_data_and_control_over_unix_sockets(swtpm, place):
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        assert random_bytes(place / "data")[:10] == bytes.fromhex("80010000001400000000")
        assert ioctl(place / "ctrl", "-c") == (0, "ptm capability is 0x1ffff")
        assert os.stat(place / "data").st_mode & 0o777 == 0o770
        assert ioctl(place / "ctrl", "-s") == (0, "")
        assert process.wait(DEADLINE_S) == 0
    assert not (place / "data").exists()
    assert not (place / "ctrl").exists()
    assert ".lock" in files(place)


def test_there_is_no_tpm_before_an_init(swtpm, place):
    with running(swtpm, *unix(place, flags="")) as process:
        serves(place / "data", process)
        assert random_bytes(place / "data") == NO_POWER
        assert files(place) == []
        assert ioctl(place / "ctrl", "-e") == (1, "TPM result from PTM_GET_TPMESTABLISHED: 0xa")
        assert ioctl(place / "ctrl", "-i") == (0, "")
        assert random_bytes(place / "data") == NOT_STARTED
        assert {".lock", "tpm2-00.permall"} <= set(files(place))


def test_an_init_that_fails_ends_nothing(swtpm, place):
    (place / "state").rmdir()
    with running(swtpm, *unix(place, flags="")) as process:
        serves(place / "ctrl", process)
        assert ioctl(place / "ctrl", "-i") == (1, "TPM result from PTM_INIT: 0x9")
        (place / "state").mkdir()
        assert ioctl(place / "ctrl", "-i") == (0, "")


def test_an_init_brings_no_startup(swtpm, place):
    """Measured with swtpm 0.7.1: the flag counts once."""
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        assert ioctl(place / "ctrl", "-i") == (0, "")
        assert random_bytes(place / "data") == NOT_STARTED


def test_a_stored_volatile_state_is_resumed_and_stays(swtpm, place):
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        assert ioctl(place / "ctrl", "-v") == (0, "")
        process.kill()
        process.wait()
    with running(swtpm, *unix(place, flags="not-need-init")) as process:
        serves(place / "data", process)
        assert random_bytes(place / "data")[:10] == bytes.fromhex("80010000001400000000")
        assert "tpm2-00.volatilestate" in files(place)
        assert ioctl(place / "ctrl", "-i") == (0, "")
        assert "tpm2-00.volatilestate" not in files(place)


@pytest.mark.parametrize(("flags", "works"), [("", True), (",disable-auto-shutdown", False)])
def test_the_end_shuts_a_tpm_down_so_that_its_state_is_resumed(swtpm, place, flags, works):
    """TPM2_Startup(STATE) succeeds after TPM2_Shutdown(STATE) only."""
    with running(swtpm, *unix(place, flags=f"startup-clear{flags}")) as process:
        serves(place / "data", process)
        random_bytes(place / "data")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    with running(swtpm, *unix(place, flags="startup-state")) as process:
        serves(place / "data", process)
        assert (random_bytes(place / "data") != NOT_STARTED) is works


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_end_it_in_order(swtpm, place, number):
    with running(swtpm, *unix(place), "--pid", f"file={place}/pid") as process:
        serves(place / "data", process)
        random_bytes(place / "data")
        assert (place / "pid").read_text() == str(process.pid)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
    assert [name for name in os.listdir(place) if name != "state"] == []


def test_a_hangup_kills(swtpm, place):
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE_S) == -signal.SIGHUP
    assert (place / "data").exists()


# --- the ways in ----------------------------------------------------------------------------------------------------


def test_a_port_closes_after_each_response(swtpm, place):
    port = free_ports()
    with running(swtpm, "socket", "-p", port, "--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "startup-clear"):
        for _ in range(2):
            connection = _connect_tcp(port)
            with connection:
                assert len(ask(connection)) == 20
                assert connection.recv(10) == b""


def _connect_tcp(port):
    found = []

    def holds():
        try:
            found.append(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(holds, f"served at {port}")
    return found[0]


def test_tcp_keeps_a_connection_and_gives_the_state_in_clear(swtpm, place):
    port = free_ports()
    words = ["--server", f"port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    with running(swtpm, "socket", "--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "startup-clear", *words):
        with _connect_tcp(port) as connection:
            assert len(ask(connection)) == len(ask(connection)) == 20
        done = subprocess.run(["swtpm_ioctl", "--tcp", f":{port + 1}", "--save", "permanent", place / "blob"])
        assert done.returncode == 0
        assert (place / "blob").stat().st_size > 1000


@pytest.mark.parametrize("words", [("--fd", "{}"), ("--server", "type=tcp,fd={}"), ("-f", "{}")])
def test_a_connected_descriptor_is_served_and_its_end_is_the_end(swtpm, place, words):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [word.format(theirs.fileno()) for word in words]
        options = ["--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "startup-clear"]
        with running(swtpm, "socket", *options, *words, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            assert len(ask(ours)) == len(ask(ours)) == 20
            assert process.poll() is None
            ours.close()
            assert process.wait(DEADLINE_S) == 0


def test_a_lost_connection_ends_it_where_that_is_asked_for(swtpm, place):
    with running(swtpm, *unix(place), "-t") as process:
        serves(place / "data", process)
        random_bytes(place / "data")
        assert process.wait(DEADLINE_S) == 0
    assert not (place / "data").exists()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_control_over_a_connected_descriptor(swtpm, place, kind):
    """swtpm_setup does so, and goes on after the connection."""
    ours, theirs = socket.socketpair(type=kind)
    with ours, theirs:
        words = ["--ctrl", f"type=unixio,clientfd={theirs.fileno()}", "--server", f"type=unixio,path={place}/data"]
        options = ["--tpm2", "--tpmstate", f"dir={place}/state"]
        with running(swtpm, "socket", *options, *words, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            assert ask(ours, bytes.fromhex("00000001")) == bytes.fromhex("000000000001ffff")
            ours.close()
            assert random_bytes(place / "data") == NO_POWER
            assert process.poll() is None


def test_control_on_a_socket_that_listens_already_and_its_end_with_a_client(swtpm, place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "ctrl"))
        listener.listen(1)
        words = ["--ctrl", f"type=unixio,fd={listener.fileno()},terminate", "--tpmstate", f"dir={place}/state"]
        with running(swtpm, "socket", *words, pass_fds=[listener.fileno()]) as process:
            assert ioctl(place / "ctrl", "-c") == (0, "ptm capability is 0x17fff")
            assert process.wait(DEADLINE_S) == 0
    assert (place / "ctrl").exists()  # the caller's


def test_qemu_brings_a_data_socket_over_control(swtpm, place):
    """SET_DATAFD with SCM_RIGHTS, then INIT, as QEMU's tpm-emulator begins."""
    words = ["--ctrl", f"type=unixio,path={place}/ctrl", "--tpm2", "--tpmstate", f"dir={place}/state"]
    with running(swtpm, "socket", *words) as process:
        serves(place / "ctrl", process)
        ours, theirs = socket.socketpair()
        with ours, theirs, connect(place / "ctrl") as control:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [theirs.fileno()]).tobytes())
            control.sendmsg([bytes.fromhex("00000010")], [rights])
            assert control.recv(4) == bytes(4)
            assert ask(control, bytes.fromhex("0000000200000000")) == bytes(4)
            assert ask(ours, STARTUP_CLEAR) == bytes.fromhex("80010000000a00000000")
            assert len(ask(ours)) == 20


def test_locality_4_can_be_refused(swtpm, place):
    with running(swtpm, *unix(place), "--locality", "reject-locality-4") as process:
        serves(place / "ctrl", process)
        assert ioctl(place / "ctrl", "-l", "4") == (1, "TPM result from PTM_SET_LOCALITY: 0x3d")
        assert ioctl(place / "ctrl", "-l", "3") == (0, "")


@pytest.mark.parametrize(
    ("words", "response"),
    [(["--locality", "allow-set-locality"], "80010000000a00000000"), ([], "80010000000a00000143")],
)
def test_the_command_that_sets_the_locality(swtpm, place, words, response):  # fmt: skip
    with running(swtpm, *unix(place), *words) as process:
        serves(place / "data", process)
        with connect(place / "data") as connection:
            assert ask(connection, bytes.fromhex("80010000000b2000100003")) == bytes.fromhex(response)
            assert len(ask(connection)) == 20


def test_the_locality_before_a_command_is_that_of_later_ones(swtpm, place):
    reset_pcr_20 = bytes.fromhex("80020000001b0000013d0000001400000009400000090000000000")  # not at locality 0
    done = "80020000001300000000000000000000010000"
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        with connect(place / "data") as connection:
            assert ask(connection, reset_pcr_20).hex() == "80010000000a00000907"
            prefix = bytes.fromhex("0000000802") + len(reset_pcr_20).to_bytes(4, "big")
            assert ask(connection, prefix + reset_pcr_20).hex() == f"00000013{done}00000000"
            assert ask(connection, reset_pcr_20).hex() == done


def test_without_any_channel_it_waits_for_a_signal(swtpm, place):
    with running(
        swtpm, "socket", "--tpm2", "--tpmstate", f"dir={place}/state", "--pid", f"file={place}/pid"
    ) as process:
        wait_until(lambda: (place / "pid").exists(), "running")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) in (0, -signal.SIGTERM)


# --- the log --------------------------------------------------------------------------------------------------------


def test_the_traffic_is_shown_at_level_2(swtpm, place):
    with running(swtpm, *unix(place), "--log", f"file={place}/log,level=2,prefix=tpm:") as process:
        serves(place / "data", process)
        random_bytes(place / "data")
        ioctl(place / "ctrl", "-c")
        assert ioctl(place / "ctrl", "-s") == (0, "")
        assert process.wait(DEADLINE_S) == 0
        assert process.communicate()[0] == ""
    lines = (place / "log").read_text().splitlines()
    assert all(line.startswith("tpm:") for line in lines)
    told = [line[len("tpm:") :] for line in lines]
    assert told[:2] == [" SWTPM_IO_Read: length 12", " 80 01 00 00 00 0C 00 00 01 44 00 00 "]  # its own Startup
    assert " SWTPM_IO_Write: length 20" in told
    begin = told.index(" Ctrl Cmd: length 4")
    assert told[begin : begin + 4] == [" Ctrl Cmd: length 4", " 00 00 00 01 ", " Ctrl Rsp: length 8", " 00 00 00 00 00 01 FF FF "]  # fmt: skip


def test_libtpms_writes_its_own_log_from_level_5_on(swtpm, place):
    """Of a TPM 1.2: of a TPM 2.0 libtpms 0.9 says nothing."""
    words = [word for word in unix(place) if word != "--tpm2"]
    for level in (4, 5):
        log = place / f"log-{level}"
        with running(swtpm, *words, "--log", f"file={log},level={level},prefix=tpm:") as process:
            serves(place / "data", process)
            random_bytes(place / "data")
        lines = [line for line in log.read_text().splitlines() if line.startswith("tpm:    TPM_MainInit:")]
        assert bool(lines) is (level == 5)


def test_a_log_that_is_a_dash_says_nothing(swtpm, place):
    words = ["socket", "--log", "file=-", "--tpmstate", f"dir={place}/nowhere", "--flags", "not-need-init"]
    done = subprocess.run([swtpm, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


# --- background -----------------------------------------------------------------------------------------------------


def daemon_pid(place):
    return int((place / "pid").read_text())


def test_in_the_background_it_is_ready_when_the_command_ends(swtpm, place):
    words = ["socket", "--tpm2", "--tpmstate", "dir=state", "--flags", "startup-clear", "--daemon"]
    words += ["--ctrl", "type=unixio,path=ctrl", "--server", "type=unixio,path=data", "--pid", "file=pid"]
    done = subprocess.run([swtpm, *words], cwd=place, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = daemon_pid(place)
    try:
        assert os.getsid(pid) != os.getsid(0)
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            assert file.read().rstrip("\0").split("\0")[-len(words) :] == words
        held = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert f"{place}/state/.lock" in held
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            status = dict(line.split(":\t") for line in file.read().splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
        assert len(random_bytes(place / "data")) == 20
        assert (place / "pid").stat().st_mode & 0o777 == 0o644
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_alive(pid), "ended")
    assert sorted(os.listdir(place)) == ["state"]


def test_in_the_background_a_failure_is_the_commands(swtpm, place):
    words = ["socket", "--tpm2", "--tpmstate", f"dir={place}/nowhere", "--flags", "startup-clear", "--daemon"]
    words += ["--pid", f"file={place}/pid", "--ctrl", f"type=unixio,path={place}/ctrl"]
    done = subprocess.run([swtpm, *words], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert done.stderr.endswith("swtpm: Error: Could not initialize libtpms.\n")
    assert sorted(os.listdir(place)) == ["state"]


def test_a_second_one_does_not_get_the_state(swtpm, place):
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        done = subprocess.run(
            [swtpm, "socket", "--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "startup-clear"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 1
        assert f"{place}/state/.lock is held by process {process.pid}" in done.stderr
        assert len(random_bytes(place / "data")) == 20


def test_the_same_command_once_more_leaves_the_first_one_its_sockets_and_pid(swtpm, place):
    words = [*unix(place), "--pid", f"file={place}/pid"]
    with running(swtpm, *words) as process:
        serves(place / "data", process)
        wait_until(lambda: (place / "pid").exists(), "a pid")
        done = subprocess.run([swtpm, *map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 1
        assert f"{place}/state/.lock is held by process {process.pid}" in done.stderr
        assert (place / "pid").read_text() == str(process.pid)
        assert len(random_bytes(place / "data")) == 20
        assert ioctl(place / "ctrl", "-c")[0] == 0


def test_ready_is_told(swtpm, place):
    """sd_notify(3): one datagram."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(place / "notify"))
        notified.settimeout(DEADLINE_S)
        with running(swtpm, *unix(place), env={**os.environ, "NOTIFY_SOCKET": str(place / "notify")}):
            assert notified.recv(100) == b"READY=1"
            assert len(random_bytes(place / "data")) == 20


@pytest.mark.parametrize(("action", "status"), [("kill", -signal.SIGSYS), ("none", 0), ("log", 0)])
def test_a_denied_system_call_ends_the_process_if_that_is_asked_for(action, status):
    """uname(2) is not denied, sethostname(2) is; as it fails anyway, what a test sees is who ends it."""
    script = f"""
import os, ctypes
from swtpm_svc.tpm import libtpms
if {action!r} != "none":
    assert libtpms.deny_system_calls({action!r}) == 0
os.uname()
ctypes.CDLL(None).sethostname(None, -1)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=DEADLINE_S).returncode == status


@pytest.mark.needs("root")
def test_as_another_user_everything_is_his(swtpm, open_place):
    place = open_place
    for name in ("state", "run"):
        os.mkdir(place / name)
        os.chown(place / name, NOBODY, -1)
    words = ["socket", "--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "startup-clear", "--runas", "nobody"]
    words += ["--log", f"file={place}/run/log", "--pid", f"file={place}/run/pid"]
    with running(swtpm, *words, "--server", f"type=unixio,path={place}/run/data") as process:
        serves(place / "run/data", process)
        assert len(random_bytes(place / "run/data")) == 20
        for name in ("run/log", "run/pid", "run/data", "state/tpm2-00.permall"):
            assert (place / name).stat().st_uid == NOBODY


@pytest.mark.needs("root")
def test_in_another_root(swtpm, place):
    words = ["socket", "--tpm2", "--chroot", place, "--tpmstate", "dir=/state", "--flags", "startup-clear"]
    key = place / "key"
    key.write_text("00" * 16)
    with running(swtpm, *words, "--key", "file=/key", "--server", "type=unixio,path=/data", "-d", "--pid", "file=/pid") as process:  # fmt: skip
        assert process.wait(DEADLINE_S) == 0, process.communicate()
        pid = daemon_pid(place)
        try:
            assert os.readlink(f"/proc/{pid}/root") == str(place)
            assert len(random_bytes(place / "data")) == 20
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not is_alive(pid), "ended")
    assert sorted(os.listdir(place)) == ["key", "state"]


def test_state_that_is_encrypted(swtpm, place):
    """GET_CONFIG says which keys there are; another key does not open the state."""
    (place / "key").write_text("00" * 16)
    (place / "other").write_text("11" * 16)
    with running(
        swtpm, *unix(place), "--key", f"file={place}/key", "--migration-key", f"file={place}/other"
    ) as process:
        serves(place / "ctrl", process)
        assert ioctl(place / "ctrl", "-g") == (0, "ptm configuration flags: 0x3")
    words = ["socket", "--tpm2", "--tpmstate", f"dir={place}/state", "--flags", "not-need-init"]
    done = subprocess.run(
        [swtpm, *words, "--key", f"file={place}/other"], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert done.stderr.endswith("Error: Could not initialize libtpms.\n")
    with running(swtpm, *unix(place, flags=""), "--key", f"file={place}/other") as process:
        serves(place / "ctrl", process)
        assert ioctl(place / "ctrl", "-i") == (1, "TPM result from PTM_INIT: 0x101")
        assert ioctl(place / "ctrl", "-s") == (0, "")
        told = process.communicate(timeout=DEADLINE_S)[0].splitlines()
    reason, *rest = told
    assert "key" in reason
    assert rest == ["swtpm: Error: Could not initialize libtpms.", "swtpm: Error: Could not initialize the TPM"]


@pytest.mark.parametrize("back_end", ["dir=", "backend-uri=file://"])
def test_the_mode_of_state_files(swtpm, place, back_end):
    """Made with 0640 less the umask; one that is there changes if a mode is given, and that one whatever the umask."""
    path = place / "state" if back_end == "dir=" else place / "file"
    file = path / "tpm2-00.permall" if back_end == "dir=" else path

    def serve(options="", umask=0o022):
        words = ["socket", "--tpm2", "--tpmstate", f"{back_end}{path}{options}", "--flags", "startup-clear"]
        with running(swtpm, *words, "--ctrl", f"type=unixio,path={place}/ctrl", umask=umask) as process:
            serves(place / "ctrl", process)
            assert ioctl(place / "ctrl", "-c")[0] == 0  # who answers has its state
            mode = file.stat().st_mode & 0o777
            assert ioctl(place / "ctrl", "-s") == (0, "")
            assert process.wait(DEADLINE_S) == 0
        return mode

    assert serve() == 0o640
    assert serve(",mode=0600", 0o077) == 0o600
    assert serve(",mode=0664", 0o077) == 0o664
    for one in file.parent.glob(f"{file.name}*"):  # the generation before as well
        one.unlink()
    assert serve(umask=0o077) == 0o600
    file.chmod(0o604)
    words = ["socket", "--tpm2", "--tpmstate", f"{back_end}{path}", "--print-states"]
    assert subprocess.run([swtpm, *words], capture_output=True, timeout=DEADLINE_S).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o604


def test_a_short_passphrase_is_worth_a_warning(swtpm, place):
    for option, passphrase, warnings in (
        ("--key", "secret", ["swtpm: Warning: Passphrase is only 6 bytes long"]),
        ("--migration-key", "pass", ["swtpm: Warning: Passphrase is only 4 bytes long"]),
        ("--migration-key", "secret\n", []),
    ):
        (place / "pwd").write_text(passphrase)
        words = [*unix(place, flags=""), option, f"pwdfile={place}/pwd"]
        with running(swtpm, *words) as process:
            serves(place / "ctrl", process)
            assert ioctl(place / "ctrl", "-s") == (0, "")
            assert process.communicate(timeout=DEADLINE_S)[0].splitlines() == warnings


def test_a_command_in_pieces_and_one_too_long(swtpm, place):
    with running(swtpm, *unix(place)) as process:
        serves(place / "data", process)
        with connect(place / "data") as connection:
            connection.sendall(GET_RANDOM[:5])
            assert len(ask(connection, GET_RANDOM[5:])) == 20


def test_commands_are_captured(swtpm, place):
    """The sizes are those of swtpm 0.11: a run without a command leaves 772 octets, one with a Startup appends 968."""
    capture = place / "capture"
    for flags, more, size in (("not-need-init", [], 772), ("startup-clear", ["checksums"], 1740)):
        words = [*unix(place, flags=flags), "--pcap", ",".join([f"file={capture}", *more])]
        with running(swtpm, *words) as process:
            serves(place / "data", process)
            assert ioctl(place / "ctrl", "-s") == (0, "")
            assert process.wait(DEADLINE_S) == 0
        assert capture.stat().st_size == size
    assert capture.stat().st_mode & 0o777 == 0o640
    with running(swtpm, *unix(place), "--pcap", f"file={capture},truncate,mode=0600") as process:
        serves(place / "data", process)
        random_bytes(place / "data")
        assert ioctl(place / "ctrl", "-s") == (0, "")
        assert process.wait(DEADLINE_S) == 0
    assert GET_RANDOM in capture.read_bytes()
    assert capture.stat().st_size == 772 + 196 + 100 + 108
    assert capture.stat().st_mode & 0o777 == 0o600


def test_two_versions_of_a_tpm_may_share_a_folder_one_after_the_other(swtpm, place):
    for words in (unix(place), [word for word in unix(place) if word != "--tpm2"], unix(place)):
        with running(swtpm, *words) as process:
            serves(place / "data", process)
            random_bytes(place / "data")
    assert {"tpm-00.permall", "tpm2-00.permall"} <= set(files(place))


def at(place, uri, *more):
    """The words of `unix`, with the state elsewhere."""
    words = unix(place, *more)
    words[words.index("--tpmstate") + 1] = f"backend-uri={uri}"
    return words


def test_a_tpm_in_one_file(swtpm, place):
    """Both programs go on with it; a lock is one if it is asked for."""
    uri = f"file://{place}/tpm.bin,lock"
    with running(swtpm, *at(place, uri)) as process:
        serves(place / "data", process)
        assert len(random_bytes(place / "data")) == 20
        second = ["socket", "--tpm2", "--tpmstate", f"backend-uri={uri}", "--flags", "not-need-init"]
        done = subprocess.run([swtpm, *second], capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 1, done.stderr
        assert ioctl(place / "ctrl", "-s") == (0, "")
        assert process.wait(DEADLINE_S) == 0
    assert (place / "tpm.bin").read_bytes()[:8] == (0x737774706D6C696E).to_bytes(8, "little")
    said = [
        subprocess.run(
            [program, "socket", "--print-states", "--tpm2", "--tpmstate", f"backend-uri=file://{place}/tpm.bin"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        ).stdout
        for program in (swtpm, "/usr/bin/swtpm")
    ]
    assert said[0] == said[1]
    assert '"name": "permall"' in said[0]


def test_the_mode_of_the_state_files_and_swtpms_name_of_the_generation_before(swtpm, place):
    words = unix(place)
    words[words.index("--tpmstate") + 1] = f"dir={place}/state,mode=0640,backup,fsync"
    for _ in range(2):
        with running(swtpm, *words) as process:
            serves(place / "data", process)
            random_bytes(place / "data")
            assert ioctl(place / "ctrl", "-s") == (0, "")
            assert process.wait(DEADLINE_S) == 0
    assert (place / "state/tpm2-00.permall").stat().st_mode & 0o777 == 0o640
    assert (place / "state/tpm2-00.permall.bak").exists()


def test_two_hosts_share_a_state_while_a_tpm_moves(swtpm, place):
    """libvirt's way: the blobs go over, the lock with them; what the first one has locked the second one waits for."""
    other = place / "other"
    other.mkdir()
    (other / "state").symlink_to(place / "state")
    leaving = [*unix(place), "--migration", "release-lock-outgoing"]
    coming = [*unix(other, flags=""), "--migration", "incoming"]
    with running(swtpm, *leaving) as first, running(swtpm, *coming) as second:
        for here, process in ((place, first), (other, second)):
            serves(here / "data", process)
        random_bytes(place / "data")
        for kind in ("permanent", "volatile", "savestate"):
            assert ioctl(place / "ctrl", "--save", kind, str(place / kind)) == (0, "")
        for kind in ("permanent", "volatile"):
            assert ioctl(other / "ctrl", "--load", kind, str(place / kind)) == (0, "")
        assert ioctl(other / "ctrl", "-i") == (0, "")
        assert random_bytes(other / "data")[:10] == bytes.fromhex("80010000001400000000")
        assert random_bytes(place / "data") == NO_POWER, "the lock is the other's"


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_savestate_that_there_is_not_is_an_empty_file(swtpm, place, version):
    """On the socket it is TPM_RETRY, which libtpms says of it; so says swtpm 0.7.1 of both versions (measured)."""
    words = [word for word in unix(place) if version == "2.0" or word != "--tpm2"]
    with running(swtpm, *words) as process:
        serves(place / "ctrl", process)
        assert ioctl(place / "ctrl", "--save", "savestate", str(place / "blob")) == (0, "")
        assert (place / "blob").read_bytes() == b""
        with connect(place / "ctrl") as control:
            control.sendall(struct.pack(">IIII", 0xC, 0, 3, 0))  # GET_STATEBLOB
            assert control.recv(64) == struct.pack(">IIII", 0x800, 0, 0, 0)


@pytest.mark.parametrize("left", ["socket", "link", "empty file"])
def test_what_an_earlier_run_or_mktemp_has_left_gives_way_to_a_socket(swtpm, place, left):
    (place / "precious").write_text("somebody's")
    if left == "link":
        (place / "ctrl").symlink_to("precious")
    elif left == "empty file":
        (place / "ctrl").write_text("")
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / "ctrl"))
    with running(swtpm, *unix(place)) as process:
        serves(place / "ctrl", process)
        assert (place / "ctrl").is_socket()
    assert (place / "precious").read_text() == "somebody's"


@pytest.mark.parametrize("kind", ["content", "fifo"])
def test_what_is_somebodys_stays_where_a_socket_is_to_be(swtpm, place, kind):
    if kind == "fifo":
        os.mkfifo(place / "ctrl")
    else:
        (place / "ctrl").write_text("somebody's")
    before = (place / "ctrl").lstat()
    ran = subprocess.run([swtpm, *unix(place)], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    message = f"swtpm: A socket cannot be made where something else is: {place}/ctrl\n"
    assert (ran.returncode, ran.stderr) == (1, message)
    assert (place / "ctrl").lstat() == before
    assert sorted(os.listdir(place)) == ["ctrl", "state"]
    assert files(place) == []
