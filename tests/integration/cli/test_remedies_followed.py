"""Remedies followed as they are written, by root: they lead out of the trouble, and what is beside it stays as it
was."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from daemon_process import DaemonProcess

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca
from swtpm_svc.state import keys, newborn
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.keys import Source
from swtpm_svc.state.lock import StateLock
from swtpm_svc.state.newborn import Owner, Place
from swtpm_svc.state.store import Store

pytestmark = pytest.mark.needs("root")

#: A service's own account, and somebody's.
SERVICE, PERSON = 61234, 1234
#: Commands that change something; the first word of each that a remedy may have.
CHANGING = "chown|chgrp|chmod|mv|cp|rm|install|touch|mkdir|umount|usermod|ln"
LOOKING = "ls|namei|findmnt|lsattr|ps|getent|lsof|fuser"


def commands(remedy: "str | None", words: str = CHANGING) -> "list[str]":
    """The commands in a remedy: from a command's name to the end of its part of the sentence."""
    parts = re.split(r"; |: |, (?!then)|\bthen | or | && ", remedy or "")
    return [part for part in parts if re.match(rf"(?:{words}) \S", part)]


def outcome(attempt: Callable[[], object]) -> "VtpmError | None":
    try:
        attempt()
    except VtpmError as error:
        return error
    return None


class Host:
    """A place with one TPM's state among those of others. The names are such that a shell takes notice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.states = root / "of me & you"
        self.state = self.states / "vtpm0"
        self.neighbour = self.states / "vtpm1"
        for directory in (self.states, self.state, self.neighbour):
            directory.mkdir(mode=0o755)
        (self.neighbour / "tpm2-00.permall").write_bytes(b"the neighbour's")
        self.neighbour.chmod(0o700)
        self.before = self.outside()

    def make(self, *payloads: bytes) -> None:
        """The state of a TPM as root has restored it."""
        with Store.open(str(self.state), "2.0") as store:
            for payload in payloads:
                store.store(PERMALL, payload)

    def outside(self) -> "dict[str, tuple[int, ...]]":
        """All that no remedy for this TPM may change."""
        return {
            str(path): (found.st_mode, found.st_uid, found.st_gid, found.st_size)
            for path in (Path("/tmp"), self.root, self.states, self.neighbour, *self.neighbour.iterdir())
            if (found := path.lstat())
        }

    def follow(self, attempt: Callable[[], object], rounds: int = 4) -> "list[VtpmError]":
        """Try, do what the error says, try again, until it works. All errors."""
        errors: list[VtpmError] = []
        for _ in range(rounds):
            error = outcome(attempt)
            if error is None:
                assert self.outside() == self.before
                return errors
            errors.append(error)
            assert commands(error.remedy), f"{error}: {error.remedy}"
            for command in commands(error.remedy, f"{CHANGING}|{LOOKING}"):
                done = subprocess.run(
                    ["sh", "-c", command], cwd="/", capture_output=True, text=True, timeout=30, check=False
                )
                assert done.returncode == 0 or not commands(command), f"{command}: {done.stderr}"
        raise AssertionError([(str(error), error.remedy) for error in errors])


@pytest.fixture
def host() -> Iterator[Host]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="vtpm-remedies-"))  # others cannot come to pytest's own
    root.chmod(0o755)
    yield Host(root)
    shutil.rmtree(root)


def as_user(uid: int, action: Callable[[], object]) -> object:
    """Call it in a process of that user's; what it raises is raised here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([]), os.setgid(uid), os.setuid(uid)
            try:
                action()
                said = ""
            except VtpmError as error:
                said = f"{error.code.name}\n{error.message}\n{error.remedy or ''}"
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    if said:
        code, message, remedy = said.split("\n")
        raise VtpmError(Code[code], message, remedy=remedy)
    return None


def open_as(uid: int, host: Host) -> Callable[[], object]:
    return lambda: as_user(uid, lambda: Store.open(str(host.state), "2.0").close())


# --- the state's owner -----------------------------------------------------------------------------------------------


def restored_by_root(host: Host) -> None:
    host.make(b"one", b"two")


def owned_but_for_the_files(host: Host) -> None:
    host.make(b"one", b"two")
    os.chown(host.state, SERVICE, SERVICE)


def closed(host: Host) -> None:
    host.make(b"one")
    host.state.chmod(0o700)


def read_only_for_its_owner(host: Host) -> None:
    host.make(b"one")
    for path in (host.state, *host.state.iterdir()):
        os.chown(path, SERVICE, SERVICE)
    (host.state / "tpm2-00.permall").chmod(0o200)
    host.state.chmod(0o500)


def not_there(host: Host) -> None:
    host.state.rmdir()


TROUBLE = [restored_by_root, owned_but_for_the_files, closed, read_only_for_its_owner, not_there]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_state_that_the_service_may_not_use(host, trouble):
    trouble(host)
    assert host.follow(open_as(SERVICE, host))
    for path in (host.state, *host.state.iterdir()):
        assert path.lstat().st_uid == SERVICE


@pytest.mark.parametrize("trouble", TROUBLE[:4])
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_to_a_person_no_state_is_given(host, trouble, mode):
    """A user who tried `vtpmctl rekey` was told to give himself /var/lib/vtpm, and with it every TPM."""
    trouble(host)
    host.states.chmod(mode)
    with pytest.raises(VtpmError) as caught:
        open_as(PERSON, host)()
    assert commands(caught.value.remedy) == []
    assert "root" in caught.value.remedy or "namei -l " in caught.value.remedy


def test_nor_to_the_service_what_is_a_third_ones(host):
    host.make(b"one")
    for path in (host.state, *host.state.iterdir()):
        os.chown(path, PERSON, PERSON)
    with pytest.raises(VtpmError) as caught:
        open_as(SERVICE, host)()
    assert commands(caught.value.remedy) == []
    assert f"it belongs to user {PERSON}" in caught.value.remedy


def test_a_link_and_what_has_other_names_are_not_given_away(host):
    host.make(b"one")
    secret = host.root / "secret"
    secret.write_text("root's")
    os.chown(host.state, SERVICE, SERVICE)
    (host.state / "tpm2-00.link").symlink_to(secret)
    os.link(secret, host.state / "tpm2-00.other")
    host.follow(open_as(SERVICE, host))
    assert secret.stat().st_uid == 0


def test_rekey_by_a_person(host, capfd):
    host.make(b"one")
    for path in (host.state, *host.state.iterdir()):
        os.chown(path, SERVICE, SERVICE)
    host.state.chmod(0o700)
    directory = host.root / "etc"
    directory.mkdir(mode=0o755)
    (directory / "vtpm0.toml").write_text(f'[state]\ndirectory = "{host.state}"\n')
    places = Places(str(directory), "/none", "/none")
    for mode in (0o755, 0o700):
        host.states.chmod(mode)
        as_user(PERSON, lambda: entry.main(["rekey", "vtpm0"], places))
        error = capfd.readouterr().err
        remedy = error.partition("\n  remedy: ")[2]
        assert remedy.startswith("run this as root: it then works as the user that owns the state")
        assert "chown" not in error


def test_root_that_acts_for_a_directorys_owner_is_not_told_to_be_root(host):
    """Below a directory that is somebody's, root makes a TPM as that user, who may not be let in there."""
    base = host.root / "closed/of somebody"
    base.mkdir(parents=True)
    for path in (base, base.parent):
        os.chown(path, PERSON, PERSON)
    base.parent.chmod(0)
    with pytest.raises(VtpmError) as caught:
        newborn.install(Place(str(base), "vtpm0", Owner(PERSON, PERSON)), "2.0", b"state", None)
    assert "do this as root" not in caught.value.remedy
    assert f"root acts as user {PERSON} there" in caught.value.remedy
    looked = subprocess.run(
        ["sh", "-c", commands(caught.value.remedy, LOOKING)[0]], capture_output=True, text=True, check=True
    )
    assert "of somebody" in looked.stdout
    assert (os.geteuid(), base.stat().st_uid) == (0, PERSON)


# --- damaged state ---------------------------------------------------------------------------------------------------


def load(host: Host) -> bytes:
    with Store.open(str(host.state), "2.0") as store:
        return store.load(PERMALL) or b""


@pytest.mark.parametrize("times", [1, 3])
def test_damaged_state_goes_back_to_the_generation_before(host, times):
    """What was set aside at an earlier time is not overwritten by what is set aside now."""
    host.make(b"one", b"two")
    permall = host.state / "tpm2-00.permall"
    damaged = [f"damaged {number}".encode() for number in range(times)]
    for content in damaged:
        permall.write_bytes(content)
        (host.state / "tpm2-00.volatilestate").write_bytes(content)
        assert [error.code for error in host.follow(lambda: load(host))] == [Code.STATE_CORRUPT]
        assert load(host) == b"one"
        assert not (host.state / "tpm2-00.volatilestate").exists()
    kept = sorted(path.read_bytes() for path in host.state.glob("tpm2-00.permall*.bad"))
    assert kept == damaged
    assert len(list(host.state.glob("tpm2-00.volatilestate*.bad"))) == times


def test_a_missing_permanent_state(host):
    host.make(b"one", b"two")
    os.unlink(host.state / "tpm2-00.permall")
    host.follow(lambda: load(host))
    assert load(host) == b"one"


def test_damaged_volatile_state(host):
    host.make(b"one")
    with Store.open(str(host.state), "2.0") as store:
        store.store(VOLATILESTATE, b"volatile")
    (host.state / "tpm2-00.volatilestate").write_bytes(b"damaged")
    host.follow(lambda: load(host))
    assert load(host) == b"one"


def test_a_first_store_that_was_cut_short(host):
    (host.state / "TMP2-00.permall").write_bytes(b"the beginning of")
    host.follow(lambda: load(host))
    assert (host.state / "unfinished.bad").read_bytes() == b"the beginning of"


# --- keys, configurations, the CA ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o644), (0, 0o666), (PERSON, 0o600), (0, 0o600)])
def test_a_key_file_that_is_not_as_it_must_be(host, owner, mode):
    file = host.root / "the key"
    file.write_text("01" * 16)
    file.chmod(mode)
    os.chown(file, owner, owner)
    source = Source("file", str(file), "hex")
    assert host.follow(lambda: as_user(SERVICE, lambda: keys.load(source)))
    found = file.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode) & 0o037) == (0, 0)
    file.chmod(0o600)
    if mode == 0o600:
        with pytest.raises(VtpmError) as caught:
            as_user(PERSON, lambda: keys.load(source))
        assert commands(caught.value.remedy) == []


def test_a_file_of_the_systems_that_was_named_as_a_key_stays_as_it_is(host):
    for path in ("/etc/passwd", "/etc/services"):
        with pytest.raises(VtpmError) as caught:
            keys.load(Source("file", path, "sha512"))
        assert caught.value.code is Code.KEY_UNUSABLE
        assert commands(caught.value.remedy) == []


def test_a_configuration_that_is_missing(host):
    for path in (host.root / "etc/vtpm.d/vtpm0.toml", host.states / "vtpm0.toml"):
        host.follow(lambda path=path: loading.load(str(path), "vtpm0"))
        assert as_user(SERVICE, lambda path=path: loading.load(str(path), "vtpm0")) is None
        path.unlink()
    shutil.rmtree(host.root / "etc")
    with pytest.raises(VtpmError) as caught:
        loading.instances(str(host.root / "etc"))
    for command in commands(caught.value.remedy):
        subprocess.run(["sh", "-c", command], check=True)
    assert loading.instances(str(host.root / "etc")) == []


def test_a_ca_that_others_could_use(host):
    place = host.root / "the CA"
    ca.obtain(str(place))
    (place / "current/issuer-key.pem").chmod(0o644)
    (place / "current/chain.pem").chmod(0o664)
    assert len(host.follow(lambda: ca.load(str(place)))) == 2
    empty = host.root / "another"
    empty.mkdir()
    empty.chmod(0o777)
    assert len(host.follow(lambda: ca.obtain(str(empty)))) == 1
    assert stat.S_IMODE(empty.stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize("path", ["/tmp", "/etc", "/var/lib"])
def test_a_directory_of_the_systems_is_neither_closed_nor_emptied_for_a_ca(path):
    with pytest.raises(VtpmError) as caught:
        ca.obtain(path)
    assert caught.value.code is Code.CA_UNUSABLE
    assert commands(caught.value.remedy) == []
    assert caught.value.remedy.startswith("name a")
    (Path(path) / ".lock").unlink(missing_ok=True)


# --- whom a lock file names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "proposed"),
    [
        ("vtpm@other.service", True),
        ("sshd.service", False),
        ("vtpm@x.service; rm -rf ~", False),
        ("vtpm@$(reboot).service", False),
        ("vtpm@x.service\x1b[2J", False),
    ],
)
def test_nothing_but_a_tpm_is_stopped_on_a_lock_files_word(host, unit, proposed):
    """The file belongs to the state's owner, who writes what he likes; the holder itself may be hidden (hidepid)."""
    descriptor = os.open(host.state, os.O_RDONLY)
    program = (
        "import os, sys, time; from swtpm_svc.state.lock import StateLock;"
        "lock = StateLock.acquire(os.open(sys.argv[1], os.O_RDONLY), sys.argv[1]); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(host.state)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
            (host.state / ".lock").write_text(f"4711\nvtpmd\n{unit}\nsystem\n")
            (host.state / ".lock").chmod(0o666)
            host.state.chmod(0o777)
            with pytest.raises(VtpmError) as caught:
                as_user(SERVICE, lambda: StateLock.acquire(descriptor, str(host.state)))
        finally:
            holder.send_signal(signal.SIGKILL)
            os.close(descriptor)
    assert caught.value.code is Code.STATE_LOCKED
    assert (f"stop it first: systemctl stop {unit}" in caught.value.remedy) == proposed
    assert ("systemctl" in caught.value.remedy) == proposed
    assert caught.value.message.isprintable()


# --- a daemon's own word ---------------------------------------------------------------------------------------------


def test_a_daemons_remedy_names_its_instance_and_starts_it_again(tmp_path):
    """From the journal's line alone: damaged, restored, served."""
    daemon = DaemonProcess(tmp_path, "vm-7").start()
    assert daemon.stop() == 0
    permall = Path(daemon.state) / "tpm2-00.permall"
    generation = (permall.parent / "tpm2-00.permall.previous").read_bytes()
    permall.write_bytes(b"damaged")
    daemon.spawn()
    assert daemon.process.wait(30) == 65
    remedy = re.search(r"remedy: (.*) VTPM_ERROR=state-corrupt", daemon.log())
    for command in commands(remedy[1]):
        subprocess.run(["sh", "-c", command], check=True)
    assert permall.read_bytes() == generation
    daemon.start()
    assert daemon.stop() == 0
