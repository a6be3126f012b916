"""A real vtpmd with keys: what it writes, what it refuses, what it gives out, and that no key is to be seen
anywhere."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from swtpm_process import SECRET, swtpm
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, result_of

from swtpm_svc.state import blob
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding", "swtpm", "swtpm_ioctl")

HEX, OTHER_HEX = "5ec4e7" * 5 + "01", "0f" * 32
KEY, OTHER = StateKey(bytes.fromhex(HEX)), StateKey(bytes.fromhex(OTHER_HEX))


class Daemon(DaemonProcess):
    def configure(self, keys: str) -> None:
        """Replace the keys of [state]."""
        text = Path(self.config).read_text()
        head, _, rest = text.partition("[state]\n")
        _, _, tail = rest.partition("[socket]\n")
        Path(self.config).write_text(f'{head}[state]\ndirectory = "{self.state}"\n{keys}\n[socket]\n{tail}')

    def refuses_to_start(self, **options) -> "tuple[int, str]":
        self.spawn(**options)
        status = self.process.wait(60)
        self.process = None
        return status, self.log()

    def ask(self, request: ptm.Request) -> ptm.Reply:
        with self.connect(self.control) as client:
            client.sendall(ptm_socket.pack(request))
            data = b""
            while (reply := ptm_socket.unpack(request, data)) is None:
                data += client.recv(65536)
            return reply

    def command(self, command: bytes) -> bytes:
        with self.connect() as client:
            client.sendall(command)
            return client.recv(4096)

    def files(self) -> "dict[str, bytes]":
        """The TPM's; the lock and the record of its public keys are not secret."""
        return {path.name: path.read_bytes() for path in Path(self.state).iterdir() if "-00." in path.name}


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    yield daemon
    if daemon.process is not None:
        daemon.stop(signal.SIGKILL)


def key_file(directory: object, name: str, content: str, mode: int = 0o600) -> str:
    path = Path(str(directory), name)
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def payload_of(data: bytes, *keys) -> bytes:
    return blob.payload(blob.decode(data), Keys(*keys))


def test_a_new_tpm_is_encrypted_from_its_first_byte_and_swtpm_takes_it(daemon, tmp_path):
    path = key_file(tmp_path, "key", HEX)
    daemon.configure(f'key-file = "{path}"')
    daemon.start()
    assert daemon.ask(ptm.GetConfig()) == ptm.ConfigReply(0, ptm.CONFIG_FLAG_FILE_KEY)
    assert daemon.ask(ptm.StoreVolatile()) == ptm.Result(0)
    written = daemon.files()
    assert {"tpm2-00.permall", "tpm2-00.volatilestate"} <= set(written)
    for data in written.values():
        assert blob.decode(data).flags == blob.Flag.ENCRYPTED
        payload_of(data, KEY)
    proc = Path(f"/proc/{daemon.process.pid}")
    for place in ("cmdline", "environ"):
        assert HEX.encode() not in (proc / place).read_bytes()
    assert not [link for link in (proc / "fd").iterdir() if os.readlink(link) == path]
    assert daemon.stop() == 0
    assert HEX not in daemon.log()
    os.unlink(Path(daemon.state, "tpm2-00.volatilestate"))
    with swtpm("2.0", daemon.state, "--key", f"file={path},format=hex,mode=aes-cbc") as tpm:
        tpm.remember(SECRET)
    daemon.start()
    assert result_of(daemon.command(GET_RANDOM)) == 0
    assert daemon.stop() == 0
    with swtpm("2.0", daemon.state, "--key", f"file={path},format=hex,mode=aes-cbc") as tpm:
        assert tpm.recall(len(SECRET)) == SECRET


def test_the_key_can_be_a_credential_of_systemd_or_a_passphrase(daemon, tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    key_file(credentials, "state-key", HEX, 0o440)
    daemon.configure(
        'key-credential = "state-key"\nmigration-key-credential = "migration"\nmigration-key-format = "sha512"'
    )
    status, log = daemon.refuses_to_start()
    assert status == 78
    assert "LoadCredentialEncrypted=state-key" in log
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    status, log = daemon.refuses_to_start(environment=environment)
    assert status == 78
    assert "credential migration" in log
    assert not daemon.files()
    key_file(credentials, "migration", "long and random", 0o400)
    daemon.start(environment=environment)
    assert daemon.ask(ptm.GetConfig()) == ptm.ConfigReply(0, ptm.CONFIG_FLAG_FILE_KEY | ptm.CONFIG_FLAG_MIGRATION_KEY)
    assert daemon.stop() == 0
    payload_of(daemon.files()["tpm2-00.permall"], KEY)


REFUSALS = {
    "another key": (OTHER_HEX[:32], 0o600, "", 65, "it is encrypted with another key"),
    "another cipher": (OTHER_HEX, 0o600, "", 65, "with aes-cbc, but the key is one for aes-256-cbc"),
    "another passphrase": ("battery staple", 0o600, 'key-format = "pbkdf2"', 65, "it is encrypted with another key"),
    "readable by others": (HEX, 0o644, "", 78, "is not secret: its mode is 0644"),
    "no key": ("battery staple", 0o600, "", 78, "holds no key: expected a key as hex digits"),
}


@pytest.mark.parametrize(("content", "mode", "more", "status", "says"), REFUSALS.values(), ids=REFUSALS)
def test_the_wrong_key_ends_the_start_and_the_state_is_untouched(daemon, tmp_path, content, mode, more, status, says):
    daemon.configure(f'key-file = "{key_file(tmp_path, "key", HEX)}"')
    daemon.start()
    assert daemon.stop() == 0
    before = daemon.files()
    daemon.configure(f'key-file = "{key_file(tmp_path, "wrong", content, mode)}"\n{more}')
    found, log = daemon.refuses_to_start()
    assert (found, says in log) == (status, True), log
    assert "remedy: " in log
    assert "Traceback" not in log
    assert content not in log
    assert daemon.files() == before
    daemon.configure("")
    found, log = daemon.refuses_to_start()
    assert (found, "and no key is configured" in log) == (65, True), log
    assert daemon.files() == before
    daemon.configure(f'key-file = "{tmp_path / "key"}"')
    daemon.start()


def test_blobs_are_encrypted_as_swtpms_are(daemon, tmp_path):
    """The flags of blobs and replies for both keys, and the results for missing and wrong ones: swtpm 0.7.1's."""
    file, migration = key_file(tmp_path, "key", HEX), key_file(tmp_path, "migration", OTHER_HEX)
    daemon.configure(f'key-file = "{file}"\nmigration-key-file = "{migration}"')
    daemon.start()
    daemon.command(PCR_EXTEND_16)
    extended = daemon.command(PCR_READ_16)
    blobs = {}
    for kind in (1, 2):
        sealed = daemon.ask(ptm.GetStateBlob(0, kind, 0))
        assert (sealed.state_flags, blob.decode(sealed.data).flags) == (ptm.STATE_FLAG_ENCRYPTED, 1 | 2 | 4 | 16)
        opened = daemon.ask(ptm.GetStateBlob(ptm.STATE_FLAG_DECRYPTED, kind, 0))
        assert (opened.state_flags, blob.decode(opened.data).flags) == (0, 2 | 4 | 16)
        assert payload_of(opened.data, None, OTHER)
        blobs[kind] = sealed.data, opened.data
        rest = daemon.ask(ptm.GetStateBlob(ptm.STATE_FLAG_DECRYPTED, kind, 700))
        assert rest.data == opened.data[700:], "the end of the same blob"
    assert daemon.ask(ptm.Stop()) == ptm.Result(0)
    for number in (0, 1):
        for kind in (1, 2):
            flags = 0 if number else ptm.STATE_FLAG_ENCRYPTED
            assert daemon.ask(ptm.SetStateBlob(flags, kind, blobs[kind][number])) == ptm.Result(0)
        assert daemon.ask(ptm.SetStateBlob(0, 1, blobs[1][number][:-1])) == ptm.Result(0x03)
    wrong = blob.encode_migration(payload_of(blobs[1][1], None, OTHER), Keys(None, StateKey(bytes(32))))
    assert daemon.ask(ptm.SetStateBlob(0, 1, wrong)) == ptm.Result(0x21)
    for kind in (1, 2):
        assert daemon.ask(ptm.SetStateBlob(0, kind, blobs[kind][1])) == ptm.Result(0)
    assert daemon.ask(ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)) == ptm.Result(0)
    assert daemon.command(PCR_READ_16) == extended
    payload_of(daemon.files()["tpm2-00.permall"], KEY)
    assert daemon.stop() == 0
    daemon.configure(f'key-file = "{file}"')
    daemon.start()
    assert daemon.ask(ptm.Stop()) == ptm.Result(0)
    assert daemon.ask(ptm.SetStateBlob(0, 1, blobs[1][1])) == ptm.Result(0x0D)
    daemon.stop()


def test_a_tpm_migrates_to_swtpm_and_back_under_a_migration_key(daemon, tmp_path):
    migration = key_file(tmp_path, "migration", OTHER_HEX)
    daemon.configure(f'key-file = "{key_file(tmp_path, "key", HEX)}"\nmigration-key-file = "{migration}"')
    daemon.start()
    daemon.command(PCR_EXTEND_16)
    extended = daemon.command(PCR_READ_16)
    saved = {kind: str(tmp_path / kind) for kind in ("permanent", "volatile")}
    (tmp_path / "there").mkdir()

    def ioctl(*arguments: str) -> None:
        command = ["swtpm_ioctl", "--unix", daemon.control, *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    for kind, path in saved.items():
        ioctl("--save", kind, path)
        assert blob.decode(Path(path).read_bytes()).flags == 2 | 4 | 16
    ioctl("--stop")
    with swtpm("2.0", tmp_path / "there", "--migration-key", f"file={migration},mode=aes-256-cbc") as there:
        assert there.ioctl("--stop").returncode == 0
        for kind, path in saved.items():
            assert there.ioctl("--load", kind, path).returncode == 0
        assert there.ioctl("-i").returncode == 0
        there.remember(SECRET)
        for kind, path in saved.items():
            assert there.ioctl("--save", kind, path).returncode == 0
    for kind, path in saved.items():
        ioctl("--load", kind, path)
    ioctl("-i")
    assert daemon.command(PCR_READ_16) == extended
    daemon.stop()
    payload_of(daemon.files()["tpm2-00.permall"], KEY)


def test_cryptography_is_not_loaded_without_a_key():
    """A cold start is short (decisions/0024)."""
    program = (
        "import sys, swtpm_svc.service.daemon; print([n for n in ('cryptography', 'hmac', 'getpass') if n in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
