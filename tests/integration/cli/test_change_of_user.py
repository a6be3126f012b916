"""What changes its user has imported all that it needs by then: to the other user the modules may be closed.

They are where root's clone is in /root. Here any import after the change fails, of third parties' modules too.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from tpm_commands import GET_RANDOM, result_of

import swtpm_svc
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.store import Store

pytestmark = pytest.mark.needs("root", "binding")

NOBODY = 65534
HEX_A, HEX_B = "01" * 16, "02" * 32
#: As root everything can be imported, as another user nothing.
CLOSED = """
import os, runpy, sys
class Closed:
    def find_spec(self, name, path=None, target=None):
        if os.geteuid():
            print(f"imported too late: {name}", file=sys.stderr, flush=True)
            raise ModuleNotFoundError(f"imported too late: {name}")
sys.meta_path.insert(0, Closed())
"""


@pytest.fixture
def folder():
    """One that any user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def vtpmctl(folder, *words):
    """A command with its own places: (status, what it printed as JSON, standard error)."""
    program = CLOSED + (
        "from swtpm_svc.cli.vtpmctl import create, entry\nfrom swtpm_svc.cli.vtpmctl.host import Places\n"
        f"create.STATE, create.USER = {str(folder / 'state')!r}, 'nobody'\n"
        f"sys.exit(entry.main({[*map(str, words), '--json']!r}, Places(config={str(folder / 'etc')!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "imported too late" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_the_imports_are_closed():
    program = CLOSED + f"os.setresuid({NOBODY}, {NOBODY}, 0)\nimport cryptography\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: imported too late: cryptography" in done.stderr


def instance(folder, key=None):
    """A new TPM that belongs to the service's user."""
    state, etc = folder / "state" / "vm", folder / "etc"
    for path in (state, etc):
        path.mkdir(parents=True)
    (etc / "vm.toml").write_text(f'[state]\ndirectory = "{state}"\n')
    with Store.open(str(state), "2.0", key) as store:
        store.store("permall", b"\x03\xab\x36\x47\x23 a state")
    for path in (state, *state.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    state.chmod(0o700)
    for name, text in (("a", HEX_A), ("b", HEX_B)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)


def test_rekey(folder):
    instance(folder)
    status, values, _stderr = vtpmctl(folder, "rekey", "vm", "--to", f"file={folder}/a")
    assert (status, values["mode"]) == (0, "aes-cbc")
    status, values, _stderr = vtpmctl(folder, "rekey", "vm", "--from", f"file={folder}/a", "--to", f"file={folder}/b")
    assert (status, values["mode"]) == (0, "aes-256-cbc")


@pytest.mark.parametrize("more", [(), ("--from", "file={folder}/b")])
def test_a_rekey_that_is_refused(folder, more):
    instance(folder, StateKey(bytes([7]) * 16))
    status, values, stderr = vtpmctl(
        folder, "rekey", "vm", "--to", f"file={folder}/a", *(word.format(folder=folder) for word in more)
    )
    assert (status, values["error"]["code"]) == (65, "state-key")
    assert "nothing was changed" in stderr


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_create(folder, version):
    """Where the states belong to the service's user, root acts as that user."""
    for name in ("state", "etc"):
        (folder / name).mkdir()
    os.chown(folder / "state", NOBODY, NOBODY)
    (folder / "a").write_text(HEX_A)
    (folder / "a").chmod(0o600)
    words = ("create", "vm", "--tpm-version", version, "--key-file", folder / "a", "--ca", folder / "ca")
    status, values, _stderr = vtpmctl(folder, *words)
    assert (status, values["version"]) == (0, version)
    assert (folder / "state/vm").stat().st_uid == NOBODY
    status, values, _stderr = vtpmctl(folder, *words)
    assert (status, values["error"]["code"]) == (73, "already-provisioned")


def test_a_create_that_is_refused(folder):
    """What an error says is put together as that user, too."""
    for name in ("state", "etc", "state/.create.lock"):
        (folder / name).mkdir()
        os.chown(folder / name, NOBODY, NOBODY)
    status, values, stderr = vtpmctl(folder, "create", "vm", "--no-certificates", "--ek", "ecc-p384")
    assert (status, values["error"]["code"]) == (74, "state-unwritable")
    assert "then move it away" in stderr


@pytest.mark.parametrize(
    ("tpm", "fuse"), [('version = "1.2"', False), ('version = "2.0"', False), ('version = "2.0"', True)]
)
def test_the_daemon(folder, tpm, fuse):
    """Its own modules are closed to the user for real, so that it notices."""
    (folder / "closed").mkdir(mode=0o700)
    shutil.copytree(
        Path(swtpm_svc.__file__).parent, folder / "closed/swtpm_svc", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "a").write_text(HEX_A)
    (folder / "a").chmod(0o640)
    os.chown(folder / "a", 0, NOBODY)
    (folder / "run").mkdir()
    more = f'[fuse]\nenabled = true\ndirectory = "{folder}/run/fs"\n' if fuse else ""
    daemon = DaemonProcess(folder / "run", tpm=tpm, more=more)
    with open(daemon.config, encoding="utf-8") as file:
        text = file.read().replace("[state]", f'[state]\nkey-file = "{folder}/a"')
    Path(daemon.config).write_text(text)
    for path in (folder / "run", *(folder / "run").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    program = CLOSED + f"sys.path.insert(0, {str(folder / 'closed')!r})\n"
    program += "runpy.run_module('swtpm_svc.service.vtpmd', run_name='__main__')\n"
    daemon.words = [sys.executable, "-c", program, "--config", daemon.config, "--foreground", "--user", "nobody"]
    daemon.start()
    try:
        with daemon.connect() as client:
            client.sendall(GET_RANDOM if "2.0" in tpm else bytes.fromhex("00c1 0000000e 00000046 00000008"))
            assert result_of(client.recv(4096)) == 0
        status = daemon.status()
        assert status["identity"] == {"keys": {}, "change": None, "clones": []}
        assert (status["fuse"] is not None) == fuse
        Path(daemon.config).write_text(text + "\n[devise]\n")  # and what it says of a file that is wrong
        daemon.process.send_signal(signal.SIGHUP)
        while "devise" not in daemon.log():
            daemon.status()
    finally:
        assert daemon.stop() == 0
    assert "too late" not in daemon.log()
    assert "bug" not in daemon.log()


def test_a_daemon_whose_interpreter_alone_is_closed(folder):
    """As one that root's own tools have put into /root, with the program elsewhere."""
    (folder / "closed").mkdir(mode=0o700)
    (folder / "run").mkdir()
    daemon = DaemonProcess(folder / "run")
    for path in (folder / "run", *(folder / "run").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    program = CLOSED + f"sys.path.append({str(folder / 'closed')!r})\n"
    program += "runpy.run_module('swtpm_svc.service.vtpmd', run_name='__main__')\n"
    daemon.words = [sys.executable, "-c", program, "--config", daemon.config, "--foreground", "--user", "nobody"]
    daemon.start()
    try:
        assert daemon.status()["tpm"]["power"] == "running"
        with open(daemon.config, "a", encoding="utf-8") as file:
            file.write("\nx = \u00e9\n")
        daemon.process.send_signal(signal.SIGHUP)
        while "LATIN SMALL LETTER E WITH ACUTE".lower() not in daemon.log():
            assert "too late" not in daemon.log()
            daemon.status()
    finally:
        assert daemon.stop() == 0
    assert "too late" not in daemon.log()
