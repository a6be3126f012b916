"""vtpmctl rekey: keys from files, descriptors, credentials and a terminal, and what the configuration must then say."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess
from keyed_state import HEADS, A, B, contents, is_under, make
from swtpm_process import SECRET, swtpm

from swtpm_svc.cli.vtpmctl import inventory
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.privileges import Account
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.rekeying import OLD
from swtpm_svc.state.state_file import StateFile
from swtpm_svc.state.store import Store

HEX_A, HEX_B = "01" * 16, "02" * 32


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


def test_state_in_one_file(lab):
    """To a key, and back into clear; not while somebody has it."""
    path = lab.directory / "vm1.tpm"
    with Store.of(StateFile.open(str(path)), "2.0") as store:
        for name in (PERMALL, VOLATILESTATE):
            store.store(name, HEADS["2.0"] + name.encode() * 300)
    first = lab.key("first", HEX_A)

    def configure(keys: str) -> None:
        lab.config.write_text(f'[state]\nfile = "{path}"\n{keys}\n')

    configure(f'key-file = "{first}"')
    done = lab.rekey()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"lab: {PERMALL}: was in clear, is now encrypted with aes-cbc\n" in done.stdout
    assert "is encrypted with aes-cbc already" in lab.rekey().stdout
    with Store.of(StateFile.open(str(path)), "2.0", A) as store:
        assert store.load(VOLATILESTATE) == HEADS["2.0"] + VOLATILESTATE.encode() * 300
        locked = lab.rekey()
    assert (locked.returncode, str(path) in locked.stderr) == (75, True)
    before = path.read_bytes()
    configure("")
    assert lab.rekey().returncode == 65
    assert path.read_bytes() == before
    assert lab.rekey("--from", f"file={first}").returncode == 0
    with Store.of(StateFile.open(str(path)), "2.0") as store:
        assert store.load(PERMALL) == HEADS["2.0"] + PERMALL.encode() * 300
