"""Clients that take more than their share, or leave things behind, and a real daemon that goes on serving the
others."""

import os
import pickle
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest
from daemon_process import DaemonProcess
from tpm_commands import CREATE_CHILD, CREATE_PARENT, GET_RANDOM, PCR_READ_16, result_of

from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding", "root")

HERE = os.path.dirname(os.path.abspath(__file__))
MEMBER, OTHER = 65531, 65532
GROUP = 65521
INIT = ptm_socket.pack(ptm.Init(0))
TPM_FAIL = bytes.fromhex("00000009")


@pytest.fixture
def make():
    """Makes daemons whose sockets all users can reach."""
    made = []
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)

        def make(**kw):
            sockets = f'control = "{directory}/lab.sock.ctrl"\ndata = "{directory}/lab.sock"\nmode = "0666"'
            made.append(DaemonProcess(directory, socket_keys=sockets, more=f'[control]\ngroup = "{GROUP}"\n', **kw))
            return made[-1]

        yield make
        for one in made:
            one.stop(signal.SIGKILL)


class User:
    """A process of another user, which does what it is told: `call(function)` there."""

    def __init__(self, uid, groups=()):
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._ours.close()
            try:
                os.setgroups(groups)
                os.setgid(uid)
                os.setuid(uid)
                self._serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._ours.settimeout(60)

    @staticmethod
    def _serve(sock):
        held = {"sockets": []}
        while data := sock.recv(65536):
            path, commands, count, wait = pickle.loads(data)
            answers = []
            for _ in range(count):
                client = socket.socket(socket.AF_UNIX)
                client.connect(path)
                try:
                    for command in commands:
                        client.send(command)
                        if wait:
                            answers.append(client.recv(4096))
                except OSError as error:
                    answers.append(error.errno)
                if wait:
                    client.close()
                else:
                    held["sockets"].append(client)
            sock.send(pickle.dumps(answers))

    def begin(self, path, *commands, count=1, wait=True):
        """Connect `count` times and send the commands; without `wait`, leave the answers unread."""
        self._ours.send(pickle.dumps((path, commands, count, wait)))

    def answers(self):
        return pickle.loads(self._ours.recv(1 << 20))

    def __call__(self, *arguments, **kw):
        self.begin(*arguments, **kw)
        return self.answers()

    def close(self):
        self._ours.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def user():
    users = []

    def make(uid, groups=()):
        users.append(User(uid, groups))
        return users[-1]

    yield make
    for one in users:
        one.close()


def processor_time_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_one_users_keys_do_not_keep_another_waiting_nor_the_stop(make, user):
    daemon = make().start()
    member, other = user(MEMBER), user(OTHER)
    with daemon.connect() as client:
        client.sendall(CREATE_PARENT)
        assert result_of(client.recv(4096)) == 0
    member(daemon.data, CREATE_CHILD, count=60, wait=False)
    begin = time.monotonic()
    assert result_of(other(daemon.data, GET_RANDOM)[0]) == 0
    waited_s = time.monotonic() - begin
    with daemon.connect(daemon.control) as control:  # root's, and what needs no TPM
        control.sendall(ptm_socket.pack(ptm.GetConfig()))
        assert control.recv(100) == bytes(8)
    begin = time.monotonic()
    assert daemon.stop() == 0
    stopped_s = time.monotonic() - begin
    # sixty keys take half a minute; one or two, some seconds at the very worst
    assert waited_s < 8, waited_s
    assert stopped_s < 8, stopped_s


def test_connections_above_a_users_share_are_refused_and_logged_once(make, user):
    daemon = make().start()
    member, other = user(MEMBER), user(OTHER)
    member(daemon.data, GET_RANDOM, count=64, wait=False)
    for _ in range(20):
        member(daemon.data, GET_RANDOM, count=100)
    assert result_of(other(daemon.data, GET_RANDOM)[0]) == 0
    with daemon.connect() as client:
        client.sendall(GET_RANDOM)
        assert result_of(client.recv(4096)) == 0
    lines = [line for line in daemon.log().splitlines() if "64 connections of user 65531" in line]
    assert len(lines) == 1, lines
    assert daemon.stop() == 0
    assert "1999 more times within a minute: user 65531: 64 connections" in daemon.log()


def test_refused_control_operations_are_logged_once_and_counted(make, user):
    daemon = make().start()
    other = user(OTHER)
    answers = other(daemon.control, *[INIT] * 1500)
    assert set(answers) == {TPM_FAIL}
    assert daemon.log().count("INIT needs the rights of the control group") == 1
    assert daemon.stop() == 0
    assert "1499 more times within a minute: user 65532: INIT needs the rights of the control group" in daemon.log()
    assert len(daemon.log().splitlines()) < 20


def test_a_process_has_the_rights_of_its_own_groups(make, user):
    """By the kernel's word on the peer of a socket: no database knows this user."""
    daemon = make().start()
    assert user(MEMBER, [GROUP])(daemon.control, INIT) == [bytes(4)]
    assert user(OTHER)(daemon.control, INIT) == [TPM_FAIL]


@pytest.fixture(scope="module")
def slow_accounts(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the package's build needs a compiler, so there is one"
    library = str(tmp_path_factory.mktemp("lib") / "slow_accounts.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, f"{HERE}/slow_accounts.c", "-ldl"], check=True)
    return library


def test_a_silent_directory_service_keeps_nobody_waiting_but_who_is_looked_up(make, user, slow_accounts):
    daemon = make()
    silence = f"{daemon.directory}/silence"
    daemon.start(environment={"LD_PRELOAD": slow_accounts, "SLOW_ACCOUNTS": silence}.items())
    member, other = user(MEMBER, [GROUP]), user(OTHER)
    with open(silence, "w", encoding="ascii"):
        pass
    other.begin(daemon.control, INIT)
    time.sleep(0.2)
    longest = 0.0
    with daemon.connect() as client:
        for _ in range(100):
            begin = time.monotonic()
            client.sendall(PCR_READ_16)
            assert result_of(client.recv(4096)) == 0
            longest = max(longest, time.monotonic() - begin)
    assert longest < 0.5
    daemon.process.send_signal(signal.SIGHUP)  # a reload asks nobody either
    assert member(daemon.control, ptm_socket.pack(ptm.SetLocality(0)), INIT) == [bytes(4), bytes(4)]
    assert daemon.status()["tpm"]["power"] == "running"
    os.unlink(silence)
    assert other.answers() == [TPM_FAIL]
    with open(silence, "w", encoding="ascii"):
        pass
    time.sleep(2.1)  # what was found out is remembered for a moment
    other.begin(daemon.control, INIT)
    time.sleep(0.2)
    begin = time.monotonic()
    assert daemon.stop() == 0  # nor does it wait for an answer
    assert time.monotonic() - begin < 5


def test_without_descriptors_connections_wait_and_no_processor_is_burnt(make):
    daemon = make().start()
    pid = daemon.process.pid
    client = daemon.connect()
    client.sendall(GET_RANDOM)
    assert result_of(client.recv(4096)) == 0
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), hard))
    waiting = [daemon.connect(path) for path in (daemon.data, daemon.control, f"{daemon.directory}/status")]
    for each in waiting[:2]:
        each.sendall(GET_RANDOM if each is waiting[0] else ptm_socket.pack(ptm.GetConfig()))
    before = processor_time_s(pid)
    time.sleep(2)
    assert processor_time_s(pid) - before < 0.3
    client.sendall(GET_RANDOM)
    assert result_of(client.recv(4096)) == 0  # who is there is served
    assert not select.select(waiting, [], [], 0)[0]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert result_of(waiting[0].recv(4096)) == 0
    assert waiting[1].recv(100) == bytes(8)
    assert b'"instance"' in waiting[2].recv(65536)
    assert sum("have to wait: Too many open files" in line for line in daemon.log().splitlines()) == 3  # one a socket
    for each in (client, *waiting):
        each.close()
