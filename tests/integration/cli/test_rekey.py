"""Going over from one key to another: all files at one moment, whenever it is killed, and whatever the file system
refuses."""

import errno
import json
import os
import pty
import random
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from counted_calls import Steps
from daemon_process import DaemonProcess
from swtpm_process import SECRET, swtpm

from swtpm_svc.cli.vtpmctl import inventory
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.privileges import Account
from swtpm_svc.state import blob, files, replacement
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.state.rekeying import CLEAR, OLD, rekey
from swtpm_svc.state.store import BAD, PERMALL, PREVIOUS, SAVESTATE, VOLATILESTATE, Store, file_name

A, B, C = (StateKey(bytes([value]) * size) for value, size in ((1, 16), (2, 32), (3, 16)))
HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}
ROUNDS = 60
HEX_A, HEX_B = "01" * 16, "02" * 32


@pytest.fixture(params=["1.2", "2.0"])
def version(request) -> str:
    return request.param


def payloads(version: str) -> "dict[str, bytes]":
    """What each file holds; the volatile and saved state are as secret as the rest."""
    names = (PERMALL, PERMALL + PREVIOUS, VOLATILESTATE, SAVESTATE)
    return {file_name(version, name): HEADS[version] + name.encode() * 3 for name in names}


def make(directory: object, version: str, key: Optional[StateKey]) -> str:
    os.makedirs(str(directory), exist_ok=True)
    for name, payload in payloads(version).items():
        with open(os.path.join(str(directory), name), "wb") as file:
            file.write(blob.encode_checked(payload, key))
    return str(directory)


def read(directory: str, version: str, key: Optional[StateKey]) -> "dict[str, bytes]":
    """All that a service with this key would read, in the form that it wants. Raises: VtpmError."""
    with Store.open(directory, version, key):
        pass
    found = {}
    for name in payloads(version):
        with open(os.path.join(directory, name), "rb") as file:
            decoded = blob.decode(file.read())
        assert blob.is_encrypted(decoded) == (key is not None), name
        found[name] = blob.payload(decoded, Keys(key))
    return found


def is_under(directory: str, version: str, key: Optional[StateKey]) -> bool:
    try:
        return read(directory, version, key) == payloads(version)
    except VtpmError as error:
        if error.code is not Code.STATE_KEY:
            raise
        return False


CHANGES = [(None, A), (A, None), (A, B), (B, A)]


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=str)
def test_all_files_go_over(version, old, new, tmp_path):
    directory = make(tmp_path, version, old)
    os.chmod(os.path.join(directory, file_name(version, PERMALL)), 0o640)  # as swtpm has it
    done = rekey(directory, version, old, new)
    assert done.files == dict.fromkeys(sorted(payloads(version)), OLD if old else CLEAR)
    assert is_under(directory, version, new)
    assert not is_under(directory, version, old)
    for name, payload in payloads(version).items():
        assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
        content = Path(directory, name).read_bytes()
        assert (payload in content) == (new is None)
    assert set(os.listdir(directory)) == {*payloads(version), ".lock"}
    again = rekey(directory, version, old, new)
    assert (again.files, again.unchanged) == ({}, tuple(sorted(payloads(version))))


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=str)
def test_a_rekey_that_is_killed_leaves_all_files_under_one_key(old, new, tmp_path):
    """Killed before each of its system calls in turn."""
    version = "2.0"
    outcomes = []

    def kill(step: int) -> bool:
        directory = make(tmp_path / f"at-{step}", version, old)
        killed = killed_at(step, lambda: rekey(directory, version, old, new))
        under = [is_under(directory, version, key) for key in (old, new)]
        assert sorted(under) == [False, True], (step, under)
        assert set(os.listdir(directory)) == {*payloads(version), ".lock"}
        rekey(directory, version, old, new)
        assert is_under(directory, version, new)
        outcomes.append(under[1])
        return killed

    steps = next(step for step in range(1, 400) if not kill(step))
    assert steps > 40
    assert outcomes == sorted(outcomes), "it is under the new key from one moment on"
    assert {False, True} == set(outcomes)


def killed_at(step: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a child that is killed before its system call number `step`; False when it has fewer."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


class MoreSteps(Steps):
    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in ("mkdir", "rmdir", "listdir"):
            return super().__getattr__(name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.step:
                self.at_step()
            return function(*arguments, **options)

        return counted


def count(step: int, at_step: Callable[[], None]) -> MoreSteps:
    steps = MoreSteps(step, at_step)
    files.os = replacement.os = steps  # type: ignore[attr-defined]
    return steps


@pytest.fixture
def real_os():
    yield
    files.os = replacement.os = os  # type: ignore[attr-defined]


@pytest.mark.usefixtures("real_os")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_rekey_that_fails_leaves_all_files_under_one_key(number, tmp_path):
    """Every system call in turn is refused."""
    version = "1.2"

    def refuse() -> None:
        if steps.where != "close":  # of what was only read, or was synced before: nothing is lost
            raise OSError(number, os.strerror(number))

    for step in range(1, 400):
        directory = make(tmp_path / f"at-{step}", version, A)
        steps = count(step, refuse)
        failure = None
        try:
            rekey(directory, version, A, B)
        except VtpmError as error:
            failure = error
        finally:
            files.os = replacement.os = os  # type: ignore[attr-defined]
        under = [is_under(directory, version, key) for key in (A, B)]
        assert sorted(under) == [False, True], (step, under)
        if failure is not None:
            assert failure.code in (Code.STATE_FULL, Code.STATE_UNWRITABLE, Code.STATE_UNREADABLE), failure
            assert failure.remedy
        if steps.calls < step:
            assert failure is None
            return
    raise AssertionError("it does not end")


def test_killed_at_any_moment_in_the_middle_of_many(tmp_path):
    """SIGKILL from outside, at random moments of a process that goes to and fro between two keys."""
    found = {A.mode: 0, B.mode: 0}
    directory = make(tmp_path / "state", "2.0", A)
    for _ in range(ROUNDS):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    rekey(directory, "2.0", A, B)
                    rekey(directory, "2.0", B, A)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        under = [key for key in (A, B) if is_under(directory, "2.0", key)]
        assert len(under) == 1
        found[under[0].mode] += 1
    assert min(found.values()) > 0, found


def test_a_mixed_set_is_brought_to_one_key(version, tmp_path):
    """What a service would refuse: some in clear, some under the old key, some under the new one."""
    directory = make(tmp_path, version, A)
    names = list(payloads(version))
    for name, key in zip(names, (B, None)):
        Path(directory, name).write_bytes(blob.encode_checked(payloads(version)[name], key))
    done = rekey(directory, version, A, B)
    assert done.unchanged == (names[0],)
    assert {name: done.files[name] for name in names[1:]} == {names[1]: CLEAR, names[2]: OLD, names[3]: OLD}
    assert is_under(directory, version, B)


@pytest.mark.parametrize(("old", "new"), [(None, B), (None, None), (C, B), (C, None), (B, None), (B, C)], ids=str)
def test_the_wrong_old_key_changes_nothing(version, old, new, tmp_path):
    directory = make(tmp_path, version, A)
    before = contents(directory)
    with pytest.raises(VtpmError) as caught:
        rekey(directory, version, old, new)
    assert caught.value.code is Code.STATE_KEY
    assert "--from" in (caught.value.remedy or "")
    assert contents(directory) == before


def test_one_damaged_file_stops_all_and_one_that_was_set_aside_does_not(version, tmp_path):
    directory = make(tmp_path, version, A)
    aside = Path(directory, file_name(version, PERMALL) + BAD)
    aside.write_bytes(b"no state")
    good = Path(directory, file_name(version, VOLATILESTATE))
    content = good.read_bytes()
    good.write_bytes(content[:-20])
    before = contents(directory)
    with pytest.raises(VtpmError, match="cut off") as caught:
        rekey(directory, version, A, B)
    assert caught.value.code is Code.STATE_CORRUPT
    assert contents(directory) == before
    good.write_bytes(content)
    left_over = Path(directory, {"1.2": "TMP-00.permall", "2.0": "TMP2-00.permall"}[version])
    left_over.write_bytes(blob.encode_checked(payloads(version)[file_name(version, PERMALL)]))
    done = rekey(directory, version, A, B)
    assert done.left == (aside.name,)
    assert aside.read_bytes() == b"no state"
    assert not left_over.exists(), "it was in clear"
    assert is_under(directory, version, B)


def test_no_state_is_said(version, tmp_path):
    with pytest.raises(VtpmError) as caught:
        rekey(str(tmp_path), version, A, B)
    assert caught.value.code is Code.STATE_MISSING


def contents(directory: str) -> "dict[str, bytes]":
    return {name: Path(directory, name).read_bytes() for name in os.listdir(directory) if name != ".lock"}


# --- the command -----------------------------------------------------------------------------------------------------


class Instance:
    """An instance `lab` with a configuration, and the command on it, as a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.state = directory, directory / "state"
        self.config = directory / "lab.toml"
        self.state.mkdir()
        self.configure()

    def configure(self, keys: str = "", version: str = "2.0") -> None:
        text = f'[tpm]\nversion = "{version}"\n[state]\ndirectory = "{self.state}"\n{keys}\n'
        self.config.write_text(text)

    def key(self, name: str, content: str, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def command(self, *arguments: object) -> "list[str]":
        program = (
            "import sys; from swtpm_svc.cli.vtpmctl import entry; from swtpm_svc.cli.vtpmctl.host import Places; "
            f"sys.exit(entry.main(sys.argv[1:], Places({str(self.directory)!r})))"
        )
        return [sys.executable, "-c", program, "rekey", "lab", *map(str, arguments)]

    def rekey(self, *arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        options = {"stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            del options["stdin"]
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, check=False, **options
        )


@pytest.fixture
def lab(tmp_path) -> Instance:
    return Instance(tmp_path)


def test_encrypt_change_the_key_and_decrypt(lab):
    directory = make(lab.state, "2.0", None)
    first, second = lab.key("first", HEX_A), lab.key("second", bytes.fromhex(HEX_B).decode())
    lab.configure(f'key-file = "{first}"')
    done = lab.rekey()
    assert (done.returncode, done.stderr) == (0, "")
    assert "lab: tpm2-00.permall: was in clear, is now encrypted with aes-cbc\n" in done.stdout
    assert is_under(directory, "2.0", A)
    assert "is encrypted with aes-cbc already" in lab.rekey().stdout
    lab.configure(f'key-file = "{second}"\nkey-format = "binary"')
    wrong = lab.rekey()
    assert (wrong.returncode, wrong.stdout) == (65, "")
    assert "--from" in wrong.stderr
    assert is_under(directory, "2.0", A)
    done = lab.rekey("--from", f"file={first}", "--json")
    assert json.loads(done.stdout)["files"]["tpm2-00.permall"] == OLD
    assert json.loads(done.stdout)["mode"] == "aes-256-cbc"
    assert is_under(directory, "2.0", B)
    lab.configure()
    assert lab.rekey("--from", f"file={second},format=binary,mode=aes-256-cbc").returncode == 0
    assert is_under(directory, "2.0", None)


def test_keys_by_descriptor_and_credential_and_what_the_configuration_must_then_say(lab):
    directory = make(lab.state, "2.0", None)
    done = lab.rekey("--to", "fd=0", input=HEX_A)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"[state] in {lab.config} must name this key" in done.stdout
    assert is_under(directory, "2.0", A)
    done = lab.rekey("--from", "fd=0", "--to", "none", input=HEX_A)
    assert f"[state] in {lab.config} must name no key" in done.stdout
    assert is_under(directory, "2.0", None)
    assert lab.rekey("--to", "fd=0", input=HEX_A).returncode == 0
    lab.key("state-key", HEX_B)
    lab.configure('key-credential = "state-key"')
    missing = lab.rekey("--from", "fd=0", input=HEX_A)
    assert missing.returncode == 78
    assert "LoadCredentialEncrypted=state-key" in missing.stderr
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(lab.directory)}
    assert lab.rekey("--from", "fd=0", input=HEX_A, env=environment).returncode == 0
    assert is_under(directory, "2.0", B)
    assert lab.rekey("--from", "credential=state-key", "--to", "none", env=environment).returncode == 0
    assert is_under(directory, "2.0", None)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0011",
        "file=",
        "fd=x",
        "fd=-1",
        "credential=a/b",
        "none,format=hex",
        "prompt=x",
        "file=/k,format=zip",
        "fd=0,mode=aes",
    ],
)
def test_a_key_on_the_command_line_or_what_is_no_place_is_refused(lab, word):
    done = lab.rekey("--to", word)
    assert (done.returncode, done.stdout) == (64, "")
    assert "expected none, prompt, file=PATH" in done.stderr
    assert "0011" not in done.stderr


def test_a_file_that_others_can_read_is_refused(lab):
    directory = make(lab.state, "2.0", None)
    done = lab.rekey("--to", f"file={lab.key('open', HEX_A, 0o644)}")
    assert done.returncode == 78
    assert "so everybody can read or change it" in done.stderr or "others than its owner" in done.stderr
    assert HEX_A not in done.stderr
    assert is_under(directory, "2.0", None)


def test_without_a_terminal_nothing_can_be_typed(lab):
    make(lab.state, "2.0", None)
    done = lab.rekey("--to", "prompt")
    assert (done.returncode, done.stdout) == (64, "")
    assert "no terminal" in done.stderr


def typed(command: "list[str]", *lines: str) -> "tuple[int, str]":
    """Run it on a terminal of its own, and type a line at each prompt; its exit status and all that was shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown, left = "", list(lines)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 4096).decode()
        except OSError:
            break
        if not piece:
            break
        shown += piece
        if shown.rstrip(" ").endswith(":") and left:
            os.write(terminal, left.pop(0).encode() + b"\n")
            shown += "\n"
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


@pytest.mark.needs("swtpm", "swtpm_ioctl")
def test_a_typed_passphrase_is_swtpms(lab):
    with swtpm("2.0", lab.state) as tpm:
        tpm.remember(SECRET)
    status, shown = typed(lab.command("--to", "prompt"), "correct horse", "correct hose")
    assert status == 78
    assert "not twice the same" in shown
    status, shown = typed(lab.command("--to", "prompt,mode=aes-256-cbc"), "correct horse", "correct horse")
    assert status == 0, shown
    assert "New passphrase:" in shown
    assert "horse" not in shown
    passphrase = lab.key("passphrase", "correct horse")
    with swtpm("2.0", lab.state, "--key", f"pwdfile={passphrase},mode=aes-256-cbc") as tpm:
        assert tpm.recall(len(SECRET)) == SECRET
    status, shown = typed(lab.command("--from", "prompt,mode=aes-256-cbc"), "correct horse")
    assert status == 0, shown
    with swtpm("2.0", lab.state) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET


@pytest.mark.needs("root")
def test_root_works_as_the_owner_of_the_state():
    """Files that root left behind could not be read by the service; and only root can read the key."""
    directory = Path(tempfile.mkdtemp())  # pytest's own is closed to all others
    try:
        directory.chmod(0o755)
        lab = Instance(directory)
        make(lab.state, "2.0", None)
        for path in (lab.state, *lab.state.iterdir()):
            shutil.chown(path, 65534, 65534)
        lab.state.chmod(0o700)
        done = lab.rekey("--to", f"file={lab.key('root-only', HEX_A)}")
        assert (done.returncode, done.stderr) == (0, "")
        assert {(path.stat().st_uid, path.stat().st_gid) for path in lab.state.iterdir()} == {(65534, 65534)}
        assert is_under(str(lab.state), "2.0", A)
    finally:
        shutil.rmtree(directory)


@pytest.mark.needs("root")
def test_check_looks_at_the_keys(lab, monkeypatch):
    """As the service would: root's file is as good as none for user vtpm."""
    monkeypatch.setattr(inventory, "find_account", lambda _name: Account("vtpm", 65534, 65534))
    monkeypatch.setattr(inventory.loading, "user_id", lambda _name: 0)
    monkeypatch.setattr(inventory.loading, "group_id", lambda _name: 0)
    places, key = Places(str(lab.directory)), lab.key("key", HEX_A)
    lab.configure(f'key-file = "{key}"')
    assert any("cannot be read by user vtpm" in note for note in inventory.check("lab", places)[1])
    shutil.chown(key, 0, 65534)
    key.chmod(0o640)
    assert inventory.check("lab", places)[1] == []
    shutil.chown(key, 65534, 65534)
    key.chmod(0o400)
    assert inventory.check("lab", places)[1] == []
    for mode, text in ((0o644, HEX_A), (0o400, "no key")):
        key.chmod(mode)
        key.write_text(text)
        with pytest.raises(VtpmError) as caught:
            inventory.check("lab", places)
        assert caught.value.code is Code.KEY_UNUSABLE


@pytest.mark.needs("binding")
def test_it_is_refused_while_the_daemon_runs(lab):
    """And what was in clear when the daemon made it goes over when it is stopped, and is served then."""
    daemon = DaemonProcess(lab.directory, "lab")
    lab.state.rmdir()
    lab.state = Path(daemon.state)
    text = Path(daemon.config).read_text()
    key = lab.key("key", HEX_A)
    daemon.start()
    try:
        daemon.status()  # what it does right after READY is done then
        before = contents(daemon.state)
        Path(daemon.config).write_text(text.replace("[socket]", f'key-file = "{key}"\n[socket]'))
        done = lab.rekey()
        assert done.returncode == 75, done.stderr
        assert f"is held by process {daemon.process.pid}" in done.stderr
        assert contents(daemon.state) == before
        assert daemon.stop() == 0
        daemon.spawn()
        assert daemon.process.wait(30) == 65
        assert "is not encrypted, but a key is configured" in daemon.log()
        assert "remedy: encrypt it with that key: vtpmctl rekey lab; " in daemon.log()
        assert lab.rekey().returncode == 0
        daemon.start()
        assert daemon.status()["state"]["encryption"] == "aes-cbc"
    finally:
        daemon.stop(signal.SIGKILL)
