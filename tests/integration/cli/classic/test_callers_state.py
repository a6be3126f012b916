"""Our `swtpm` and the distribution's go on with each other's TPMs: state on disk in every form, and state blobs."""

import os
import struct
from contextlib import ExitStack, contextmanager

import pytest
from classic_commands import commands_directory
from swtpm_process import PASSWORD, SECRET, VERSIONS, swtpm

pytestmark = [pytest.mark.beside_swtpm, pytest.mark.needs("swtpm", "swtpm_ioctl", "binding")]

#: Words of --key for which the file is `key`, and its content; with "fd" it is handed over open.
KEYS = {
    "in clear": None,
    "hexadecimal": ("file", "format=hex", b"0x" + b"1f" * 16 + b"\n"),
    "hexadecimal, 256 bits": ("file", "mode=aes-256-cbc", b"2e" * 32),
    "binary": ("file", "format=binary,mode=aes-cbc", bytes(range(16))),
    "binary, 256 bits, open": ("fd", "format=binary,mode=aes-256-cbc", bytes(range(32))),
    "passphrase": ("pwdfile", "kdf=pbkdf2", b"correct horse\n"),
    "passphrase, 256 bits": ("pwdfile", "mode=aes-256-cbc", b"battery staple"),
    "passphrase, SHA-512": ("pwdfile", "kdf=sha512", b"correct horse"),
    "passphrase, SHA-512, 256 bits, open": ("pwdfd", "kdf=sha512,mode=aes-256-cbc", b"battery staple"),
}
#: Who makes the TPM, who goes on with it.
DIRECTIONS = [("ours", "distribution's"), ("distribution's", "ours")]
PCR = 10
RESUMED = "not-need-init"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts one of the two programs on a state directory."""
    programs = {
        "ours": str(commands_directory(tmp_path_factory.mktemp("commands")) / "swtpm"),
        "distribution's": "swtpm",
    }

    @contextmanager
    def start_it(whose, version, directory, *, key=None, migration_key=None, **keywords):
        options, descriptors = [], []
        with ExitStack() as stack:
            for option, one in (("--key", key), ("--migration-key", migration_key)):
                if one is None:
                    continue
                way, words, path = one
                where = path
                if way.endswith("fd"):
                    where = os.open(path, os.O_RDONLY)
                    stack.callback(os.close, where)
                    descriptors.append(where)
                options += [option, f"{way}={where},{words}"]
            keywords.update(program=programs[whose], descriptors=descriptors)
            yield stack.enter_context(swtpm(version, directory, *options, **keywords))

    return start_it


@pytest.fixture
def place(tmp_path):
    (tmp_path / "state").mkdir()
    return tmp_path


def key_of(place, name, kind):
    """A key in a file of its own, as `start` takes it."""
    if KEYS[kind] is None:
        return None
    way, words, content = KEYS[kind]
    (place / name).write_bytes(content)
    return way, words, place / name


def extend(tpm):
    """Extend the PCR; what is in it."""
    if tpm.version == "1.2":
        tpm.send(0xC1, 0x14, struct.pack(">I", PCR) + os.urandom(20))
    else:
        digest = struct.pack(">IH", 1, 0x000B) + os.urandom(32)
        tpm.send(0x8002, 0x182, struct.pack(">I", PCR) + PASSWORD + digest)
    return read_pcr(tpm)


def read_pcr(tpm):
    if tpm.version == "1.2":
        return tpm.send(0xC1, 0x15, struct.pack(">I", PCR))
    selection = (1 << PCR).to_bytes(3, "little")
    return tpm.send(0x8001, 0x17E, struct.pack(">IHB", 1, 0x000B, 3) + selection)[-32:]


def save_state(tpm):
    """TPM_SaveState, TPM2_Shutdown(STATE)."""
    if tpm.version == "1.2":
        tpm.send(0xC1, 0x98, b"")
    else:
        tpm.send(0x8001, 0x145, struct.pack(">H", 1))


def ioctl(tpm, *words):
    done = tpm.ioctl(*map(str, words))
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), words


@pytest.mark.parametrize(("maker", "heir"), DIRECTIONS)
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_on_disk_is_gone_on_with(start, place, version, kind, maker, heir):
    """What is permanent, and what was stored of the rest; and back again."""
    key = key_of(place, "key", kind)
    with start(maker, version, place / "state", key=key) as tpm:
        tpm.remember(SECRET)
        before = extend(tpm)
        ioctl(tpm, "-v")
    with start(heir, version, place / "state", key=key, flags=RESUMED) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET
        assert read_pcr(tpm) == before
        after = extend(tpm)
        ioctl(tpm, "-v")
    with start(maker, version, place / "state", key=key, flags=RESUMED) as tpm:
        assert read_pcr(tpm) == after
        assert tpm.recall(len(SECRET)) == SECRET
    for name in os.listdir(place / "state"):
        if name != ".lock":
            flags = (place / "state" / name).read_bytes()[4:6]
            assert flags == bytes([0, 0 if key is None else 9 if "256" in kind else 1]), name


@pytest.mark.parametrize(("maker", "heir"), DIRECTIONS)
@pytest.mark.parametrize("kind", ["in clear", "binary"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_that_was_saved_is_started_with(start, place, version, kind, maker, heir):
    key = key_of(place, "key", kind)
    with start(maker, version, place / "state", key=key) as tpm:
        before = extend(tpm)
        save_state(tpm)
    with start(heir, version, place / "state", key=key, flags="startup-state") as tpm:
        assert read_pcr(tpm) == before


@pytest.mark.parametrize(("maker", "heir"), DIRECTIONS)
@pytest.mark.parametrize("kind", ["in clear", "passphrase, 256 bits"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_in_one_file_is_gone_on_with(start, place, version, kind, maker, heir):
    """A volume has its size before there is a TPM in it."""
    key = key_of(place, "key", kind)
    with open(place / "volume", "xb") as file:
        file.truncate(65536)
    volume = f"file://{place}/volume"
    with start(maker, version, volume, key=key) as tpm:
        tpm.remember(SECRET)
        before = extend(tpm)
        ioctl(tpm, "-v")
    for whose in (heir, maker):
        with start(whose, version, volume, key=key, flags=RESUMED) as tpm:
            assert read_pcr(tpm) == before
            assert tpm.recall(len(SECRET)) == SECRET
            before = extend(tpm)
            ioctl(tpm, "-v")
    assert (place / "volume").read_bytes()[:8] == b"nilmptws"


@pytest.mark.parametrize(("maker", "heir"), DIRECTIONS)
@pytest.mark.parametrize("migration", ["in clear", "hexadecimal", "passphrase, SHA-512, 256 bits, open"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_tpm_moves_by_its_blobs(start, place, version, migration, maker, heir):
    """The state keys stay behind: each side has its own."""
    kinds = ["permanent", "volatile", "savestate"]
    migration_key = key_of(place, "migration", migration)
    # of the same width: swtpm 0.7.1 does not read its own volatile state when the other key is wider
    old = key_of(place, "old", "binary, 256 bits, open" if "256" in migration else "binary")
    new = key_of(place, "new", "passphrase")
    with start(maker, version, place / "state", key=old, migration_key=migration_key) as tpm:
        tpm.remember(SECRET)
        before = extend(tpm)
        for kind in kinds:
            ioctl(tpm, "--save", kind, place / kind)
    (place / "target").mkdir()
    with start(heir, version, place / "target", key=new, migration_key=migration_key, flags=None) as tpm:
        for kind in kinds:
            if (place / kind).stat().st_size:
                ioctl(tpm, "--load", kind, place / kind)
        ioctl(tpm, "-i")
        assert tpm.recall(len(SECRET)) == SECRET
        assert read_pcr(tpm) == before
    if migration_key is None:
        return
    (place / "keyless").mkdir()
    with start(heir, version, place / "keyless", flags=None) as tpm:
        done = tpm.ioctl("--load", "permanent", str(place / "permanent"))
        assert (done.returncode, done.stderr.strip()) == (1, "TPM result from PTM_SET_STATEBLOB: 0xd")
