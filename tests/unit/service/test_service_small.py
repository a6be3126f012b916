"""The daemon's small parts: command line, sd_notify, log, rights, status socket."""

import array
import grp
import json
import os
import pwd
import queue
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import pytest

from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm
from swtpm_svc.service import attach, options, vtpmd
from swtpm_svc.service.authorization import Authorization
from swtpm_svc.service.kernel_tpm import kernel_tpm, kernel_tpm_record
from swtpm_svc.service.privileges import find_account
from swtpm_svc.service.status_socket import StatusServer
from swtpm_svc.service.systemd import journal as journal_module
from swtpm_svc.service.systemd import notify
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.wire.caller import Caller


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["vtpm0"], options.Options("vtpm0", None, False, "vtpm")),
        (["--config", "/x/lab.toml", "--foreground"], options.Options("lab", "/x/lab.toml", True, "vtpm")),
        (["--config=a.toml", "--user=root"], options.Options("a", "a.toml", False, "root")),
        (["--user", "nobody", "vtpm0"], options.Options("vtpm0", None, False, "nobody")),
    ],
)
def test_command_lines(words, expected):
    assert options.parse(words) == expected


@pytest.mark.parametrize(
    "words", [[], ["a", "b"], ["a", "--config", "b"], ["--config"], ["--config="], ["--nonsense"], ["--user"]]
)
def test_wrong_command_lines(words):
    with pytest.raises(VtpmError) as caught:
        options.parse(words)
    assert caught.value.code is Code.USAGE
    assert caught.value.remedy


@pytest.fixture
def manager(tmp_path, monkeypatch):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(5)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield listener
    listener.close()


def test_notifications(manager):
    notifier = notify.Notifier()
    notifier.ready("TPM 2.0 at /dev/vtpm0, running")
    assert manager.recv(500).decode().splitlines() == [
        "READY=1",
        "STATUS=TPM 2.0 at /dev/vtpm0, running",
        f"MAINPID={os.getpid()}",
    ]
    notifier.watchdog()
    assert manager.recv(500) == b"WATCHDOG=1"
    notifier.extend_timeout(120)
    assert manager.recv(500) == b"EXTEND_TIMEOUT_USEC=120000000"
    notifier.stopping("Stopping")
    assert manager.recv(500) == b"STOPPING=1\nSTATUS=Stopping"


def test_a_descriptor_is_parked_with_its_name(manager):
    fd = os.memfd_create("parked")
    notify.Notifier().park("journal", fd)
    data, ancillary, _flags, _address = manager.recvmsg(500, 500)
    assert data == b"FDSTORE=1\nFDNAME=journal\nFDPOLL=0"
    received = array.array("i", ancillary[0][2])
    assert os.fstat(received[0]).st_ino == os.fstat(fd).st_ino


def test_a_manager_that_is_gone_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.Notifier().ready("x")


def test_passed_descriptors(monkeypatch):
    monkeypatch.setattr(notify, "FIRST_FD", 50)
    for fd in (50, 51, 52):
        os.dup2(0, fd)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", "cuse:journal:cuse")
    assert notify.passed_descriptors() == {"cuse": [50, 52], "journal": [51]}
    assert not os.get_inheritable(50)
    monkeypatch.setenv("LISTEN_PID", "1")
    assert notify.passed_descriptors() == {}
    for fd in (50, 51, 52):
        os.close(fd)


@pytest.mark.parametrize(
    ("environment", "period"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_period(monkeypatch, environment, period):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.Notifier().watchdog_period_s() == period


def test_the_log_on_standard_error(capsys):
    journal = Journal("vtpm0", "2.0", "info", to_stderr=True)
    journal.log("info", "ready", MESSAGE_EXTRA=None, CLIENT_PID=7)
    journal.log("debug", "not shown")
    journal.error(VtpmError(Code.STATE_FULL, "no room", remedy="make some"))
    assert capsys.readouterr().err.splitlines() == [
        "vtpmd[vtpm0] info: ready CLIENT_PID=7",
        "vtpmd[vtpm0] error: no room; remedy: make some VTPM_ERROR=state-full",
    ]


@pytest.fixture
def journald(tmp_path, monkeypatch):
    """The journal's socket, which nobody reads but the test."""
    path = str(tmp_path / "journal")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(path)
        receiver.settimeout(10)
        monkeypatch.setattr(journal_module, "JOURNAL_SOCKET", path)
        monkeypatch.setattr("systemd._journal.sendv", lambda *fields: sender.sendto("\n".join(fields).encode(), path))
        yield receiver


def test_who_ends_waits_until_the_journal_has_taken_all_entries(journald):
    """Another process's entry that is read between ours and the end does not count as ours."""
    journal = Journal("vtpm0", "2.0", "info", to_stderr=False)
    for message in ("first", "last"):
        journal.log("error", message)
    waiting = threading.Thread(target=journal.wait_until_taken, args=(30,))
    waiting.start()
    for message in (b"first", b"last"):
        assert journald.recv(4096).startswith(b"MESSAGE=" + message)
        time.sleep(0.1)
        assert waiting.is_alive()
    assert journald.recv(4096) == b""  # which journald passes over
    waiting.join(10)
    assert not waiting.is_alive()
    begin = time.monotonic()
    journal.wait_until_taken(30)  # for nothing
    assert time.monotonic() - begin < 10
    journald.setblocking(False)
    with pytest.raises(BlockingIOError):
        journald.recv(4096)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_journal_that_reads_nothing_is_not_waited_for_without_an_end(journald, is_full):
    journal = Journal("vtpm0", "2.0", "info", to_stderr=False)
    journal.log("error", "unread")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        with suppress(BlockingIOError):
            while is_full:
                flood.sendto(b"more", journal_module.JOURNAL_SOCKET)
    begin = time.monotonic()
    journal.wait_until_taken(0.3)
    assert 0.3 <= time.monotonic() - begin < 10


def test_without_a_journal_nothing_is_waited_for(journald, capsys):
    journal = Journal("vtpm0", "2.0", "info", to_stderr=True)
    journal.log("error", "shown")
    journal.wait_until_taken(30)
    assert "shown" in capsys.readouterr().err
    journald.setblocking(False)
    with pytest.raises(BlockingIOError):
        journald.recv(4096)


def test_an_internal_fault_names_its_place():
    try:
        json.loads("{")
    except ValueError as caught:
        error = internal("while testing", caught)
    assert error.code is Code.INTERNAL
    assert "while testing: JSONDecodeError" in error.message
    assert ":" in error.message.rsplit(" at ", 1)[1]


def known(authorization, caller, posted):
    """What is found out about a caller, at once or after a look-up."""
    rights = authorization.rights(caller)
    if rights is None:
        found = []
        authorization.look_up(caller, found.append)
        while not found:
            posted.get(timeout=10)()
        (rights,) = found
    return rights


def test_rights():
    posted = queue.Queue()
    someone = next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid()))
    authorization = Authorization("no-such-group", posted.put)
    assert authorization.rights(Caller(0, 0, 1)) == (True, True)
    assert authorization.rights(Caller(os.geteuid(), 12345, 1)) == (True, True)
    assert known(authorization, Caller(someone.pw_uid, someone.pw_gid, 1), posted) == (False, False)
    authorization.change_group(str(someone.pw_gid))
    assert authorization.rights(Caller(4000000, someone.pw_gid, 1)) == (True, False)  # by the process's own group
    assert authorization.rights(Caller(4000000, 99999, 1, (5, someone.pw_gid))) == (True, False)  # by another one
    assert authorization.rights(Caller(someone.pw_uid, 99999, 1)) is None
    assert known(authorization, Caller(someone.pw_uid, 99999, 1), posted) == (True, False)  # by the group database
    assert authorization.rights(Caller(someone.pw_uid, 99999, 1)) == (True, False)  # remembered for a moment
    assert known(authorization, Caller(4000000, 99999, 1), posted) == (False, False)  # nobody we know
    name = grp.getgrgid(someone.pw_gid).gr_name
    authorization.change_group(name)
    assert authorization.rights(Caller(4000000, someone.pw_gid, 1)) is None  # what number the name has is not known
    assert known(authorization, Caller(4000000, someone.pw_gid, 1), posted) == (True, False)
    assert authorization.rights(Caller(4000001, someone.pw_gid, 1)) == (True, False)


def test_while_databases_are_silent_nobody_waits_but_who_is_asked_about(monkeypatch):
    posted, silence, found = queue.Queue(), threading.Event(), []
    authorization = Authorization("0", posted.put)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: silence.wait(10) and (_ for _ in ()).throw(KeyError(uid)))
    begin = time.monotonic()
    for uid in range(5000000, 5000100):
        for _ in range(3):
            authorization.look_up(Caller(uid, 1, 1), lambda rights, uid=uid: found.append((uid, rights)))
    assert time.monotonic() - begin < 1
    assert sum(thread.name == "look-up" for thread in threading.enumerate()) <= 4
    assert authorization.rights(Caller(0, 0, 1)).control
    silence.set()
    while len(found) < 300:
        posted.get(timeout=10)()
    assert {rights.control for _uid, rights in found} == {False}


class Watcher:
    """The loop, run by the test."""

    def __init__(self):
        self.readable, self.later = {}, []

    def add(self, fd, callback):
        self.readable[fd] = callback

    def remove(self, fd):
        del self.readable[fd]

    def after(self, _delay_s, callback):
        self.later.append(callback)

    def serve(self):
        for callback in list(self.readable.values()):
            callback()


def test_the_status_socket_gives_one_object_to_each_who_connects(tmp_path):
    path, watcher = str(tmp_path / "status"), Watcher()
    (tmp_path / "status").write_text("left by a killed process")
    server = StatusServer(path, lambda: {"instance": "vtpm0"}, watcher, pytest.fail)
    server.open()
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            watcher.serve()
            assert json.loads(client.makefile().read()) == {"instance": "vtpm0"}
    server.close()
    assert not os.path.exists(path)
    assert not watcher.readable


def test_a_client_that_leaves_early_does_no_harm(tmp_path):
    watcher = Watcher()
    server = StatusServer(str(tmp_path / "status"), lambda: {"text": "x" * 5_000_000}, watcher, pytest.fail)
    server.open()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.path)
    watcher.serve()
    watcher.serve()  # nobody there
    server.close()


def test_without_descriptors_connections_wait_and_that_is_said_once(tmp_path):
    watcher, failures = Watcher(), []
    server = StatusServer(str(tmp_path / "status"), lambda: {"instance": "vtpm0"}, watcher, failures.append)
    server.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.path)
        client.settimeout(10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for _ in range(3):
                watcher.serve()
                assert not watcher.readable  # or the loop would turn without an end
                watcher.later.pop()()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        watcher.serve()
        assert json.loads(client.makefile().read()) == {"instance": "vtpm0"}
    assert [failure.code for failure in failures] == [Code.TOO_MANY]
    assert "LimitNOFILE" in failures[0].remedy
    server.close()


def test_an_unknown_account():
    with pytest.raises(VtpmError) as caught:
        find_account("no-such-user")
    assert caught.value.code is Code.USER_MISSING


def test_a_missing_part_of_the_installation_is_named_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setitem(
        sys.modules, "swtpm_svc.service.daemon", None
    )  # what an import of it then raises is ImportError
    monkeypatch.setattr(sys, "argv", ["vtpmd", "vtpm0"])
    before = signal.getsignal(signal.SIGINT)
    assert vtpmd.main() == 69
    signal.signal(signal.SIGINT, before)
    told = capsys.readouterr().err
    assert "a part of the program cannot be loaded" in told
    assert "remedy: " in told


# --- root's helper ---------------------------------------------------------------------------------------------------


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """vtpm-attach for an instance with [vtpm-proxy], where the kernel gives number 7: /run/vtpm, its entries, the
    descriptor."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vm1.toml").write_text("[vtpm-proxy]\nenabled = true\n")
    (tmp_path / "run/vm1").mkdir(parents=True)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run/vm1"))
    monkeypatch.setattr(attach.configuration, "default_path", lambda name: str(tmp_path / f"etc/{name}.toml"))
    fd = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(kernel_tpm, "create", lambda version: KernelTpm(fd, 7))
    told = []
    monkeypatch.setattr(Journal, "error", lambda self, error, level="error": told.append(error))
    return tmp_path / "run", told, fd


def test_the_number_of_a_kernel_s_tpm_is_noted(helper):
    run, told, _fd = helper
    assert attach.main(["start", "vm1"]) == 0
    assert told == []
    assert kernel_tpm_record.find(7, str(run)) == "vm1"
    assert kernel_tpm_record.read("vm1", str(run)).version == "2.0"


@pytest.mark.parametrize("planted", [".kernel-tpm", ".kernel-tpm/vm1/inside"])
def test_what_is_in_the_way_of_root_s_note_is_an_entry_and_no_traceback(helper, planted):
    run, told, fd = helper
    path = run / planted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("planted")
    assert attach.main(["start", "vm1"]) == 0
    assert [error.code for error in told] == [Code.KERNEL_TPM_UNAVAILABLE]
    assert told[0].remedy
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)  # the TPM that nobody could find is given back


def test_a_fault_of_the_helper_is_an_entry_too(helper, monkeypatch):
    _run, told, _fd = helper

    def fail(version):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(kernel_tpm, "create", fail)
    assert attach.main(["start", "vm1"]) == 0
    assert [error.code for error in told] == [Code.INTERNAL]
    assert "at vtpm-attach start: RuntimeError('unforeseen')" in told[0].message
