"""The same command lines for the distribution's swtpm and ours: the same exit status, and the same words.

What differs between releases of swtpm, or says more here, is compared by its status alone. Programs that would
serve get a TPM whose state cannot be had, or no time to.
"""

import os
import subprocess

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S

DISTRIBUTION = "/usr/bin/swtpm"
#: Words behind `swtpm`; {place} is a folder with an empty `state`, a `tpm2` with a TPM, files `key`, `short`, `bad`.
SAID = [
    "",
    "foo",
    "socket --foo",
    "socket --tpm",
    "socket -x",
    "socket -p",
    "socket -p abc",
    "socket -p 70000",
    "socket -p -1",
    "socket -p 0x10000",
    "socket -f abc",
    "socket -f 0",
    "socket -f 1",
    "socket -f 2",
    "socket -f 77",
    "socket left",
    "socket left over",
    "socket --tpm2 left",
    "socket -- left",
    "socket --tpm2=1",
    "socket --server",
    "socket --server type=tcp,port=abc",
    "socket --server type=tcp,fd=77",
    "socket --server type=tcp",
    "socket --server type=unixio",
    "socket --server port=1,bindaddr=zzz",
    "socket --server foo",
    "socket --server foo=1",
    "socket --server path=",
    "socket --server type=unixio,path={place}/s,mode=abc",
    "socket --server type=unixio,path={place}/s,mode=1777",
    "socket --server typ=tcp",
    "socket --ctrl foo",
    "socket --ctrl path={place}/c",
    "socket --ctrl type=tcp",
    "socket --ctrl type=tcp,fd=77",
    "socket --ctrl type=tcp,port=70000",
    "socket --ctrl type=tcp,port=x",
    "socket --ctrl type=unixio",
    "socket --ctrl type=unixio,fd=77",
    "socket --ctrl type=unixio,clientfd=77",
    "socket --ctrl type=unixio,path={place}/c,mode=8",
    "socket --ctrl type=unixio,path={place}/c,foo=1",
    "socket --tpmstate foo",
    "socket --tpmstate dir=",
    "socket --tpmstate mode=0600",
    "socket --tpmstate dir={place}/state,mode=999",
    "socket --tpmstate dir={place}/state,mode=1777",
    "socket --log foo",
    "socket --log level=x",
    "socket --log level=",
    "socket --pid foo",
    "socket --pid fd=77",
    "socket --pid fd=x",
    "socket --pid file=",
    "socket --locality foo",
    "socket --locality reject-locality-4,foo",
    "socket --flags foo",
    "socket --flags not-need-init,startup-foo",
    "socket --flags =",
    "socket --seccomp foo",
    "socket --seccomp action=foo",
    "socket --seccomp action=",
    "socket --key foo",
    "socket --key mode=aes-cbc",
    "socket --key file={place}/nowhere",
    "socket --key file={place}/key,format=foo",
    "socket --key file={place}/key,mode=foo",
    "socket --key pwdfile={place}/key,kdf=foo",
    "socket --key file={place}/short",
    "socket --key file={place}/bad",
    "socket --key file={place}/key,mode=aes-256-cbc",
    "socket --key file={place}/long,format=binary",
    "socket --key remove",
    "socket --migration-key file={place}/nowhere",
    "socket --migration-key file={place}/key,format=foo",
    "socket --migration-key file={place}/short",
    "socket --runas nobody-here",
    "socket --print-states",
    "socket --print-states --tpmstate dir={place}/state",
    "socket --print-states --tpmstate dir={place}/state --tpm2",
    "socket --print-states --tpmstate dir={place}/tpm2 --tpm2",
    "socket --print-states --tpmstate backend-uri=dir://{place}/tpm2 --tpm2",
    "socket --print-states --tpmstate dir={place}/tpm2",
    "socket --print-st --tpmstate dir={place}/tpm2 --tpm2",
    "chardev --print-states --tpmstate dir={place}/tpm2 --tpm2",
    "chardev",
    "chardev --foo",
    "chardev --server type=tcp",
    "chardev -t",
    "chardev -c",
    "chardev -c {place}/nowhere",
    "chardev --chardev {place}/nowhere",
    "chardev -f 77",
    "chardev -f 1",
    "chardev left",
    "chardev --vtpm-proxy -c /dev/null",
    "chardev --vtpm-proxy -f 77",
    "chardev --ctrl type=unixio -c /dev/null",
    "chardev --locality foo",
    "chardev --flags foo -c /dev/null",
    "chardev --key file={place}/nowhere -c /dev/null",
    "chardev --pid foo -c /dev/null",
    "chardev --tpmstate foo -c /dev/null",
]
STATUS_ONLY = [
    "--help",
    "-h",
    "--version",
    "-v",
    "socket --help",
    "socket -h",
    "socket --help --foo",
    "socket --tpm2 --help left",
    "socket --foo --help",
    "socket --pri",
    "socket -p abc --help",
    "chardev --help",
    "chardev -h",
    "socket --server type=foo",
    "socket --server type=unixio,path={place}/s,uid=nobody-here",
    "socket --server type=unixio,path={place}/s,gid=nobody-here",
    "socket --server type=unixio,fd=77",
    "socket --server type=unixio,path={long}",
    "socket --ctrl type=foo",
    "socket --ctrl type=unixio,path={long}",
    "socket --ctrl type=unixio,path={place}/no/where",
    "socket --server type=unixio,path={place}/no/where",
    "socket --log file={place}/no/where",
    "socket --log fd=77",
    "socket --log file={place}/link",
    "socket --pid file={place}/no/where --tpmstate dir={place}/state",
    "socket --pid file={place}/link --tpmstate dir={place}/state",
    "socket --key pwdfile={place}/nowhere",
    "socket --key fd=77",
    "socket --key pwdfd=77",
    "socket --print-capabilities",
    "socket --print-capabilities --tpm2",
    "socket --print-capabilities --foo",
    "socket --print-capabilities left",
    "socket --print-capabilities --log foo",
    "socket --print-capabilities --ctrl foo",
    "socket --print-capabilities --runas nobody-here",
    "chardev --print-capabilities",
    "chardev --print-capabilities --locality foo",
    "socket --print-states --tpmstate foo",
    "socket --print-states --tpmstate mode=0600",
    "socket --print-states --tpmstate dir={place}/tpm2 --ctrl type=foo",
    "socket --flags not-need-init",
    "socket --flags startup-clear --tpmstate dir={place}/nowhere",
    "socket --flags not-need-init --tpmstate dir={place}/nowhere --tpm2",
    "socket --flags not-need-init --tpmstate backend-uri=foo://{place}",
    "socket --flags not-need-init --tpm2 --tpmstate backend-uri=file://{place}/no/where",
    "socket --flags not-need-init --tpm2 --tpmstate backend-uri=file://{place}/state",
    "socket --flags startup-state --tpmstate dir={place}/nowhere -d",
    "socket --flags startup-clear --tpmstate dir={place}/tpm2 --tpm2 --key file={place}/key",
    "socket --flags startup-clear --tpmstate dir={place}/broken --tpm2",
    "socket --flags startup-clear --tpmstate dir={place}/broken --tpm2 --daemon",
    "chardev --vtpm-proxy --tpm2 --tpmstate dir={place}/state",
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands")) / "swtpm"


@pytest.fixture
def place(tmp_path):
    for name in ("state", "tpm2", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "key").write_text("00" * 16)
    (tmp_path / "short").write_text("0011")
    (tmp_path / "bad").write_text("xx")
    (tmp_path / "long").write_text("x" * 20)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "tpm2/tpm2-00.permall").write_bytes(bytes(1315))
    (tmp_path / "tpm2/tpm2-00.volatilestate").write_bytes(bytes(800))
    (tmp_path / "broken/tpm2-00.permall").write_bytes(b"garbage")
    return tmp_path


def run(program, line, place):
    words = line.format(place=place, long="/" + "x" * 120).split(" ") if line else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TPM_")}
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=place,
        env=environment,
    )
    said = done.stderr.splitlines()
    return done.returncode, done.stdout, said[0] if said else ""


def contents(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def run_ours(ours, line, place):
    """As `run`; it leaves nothing but a lock, and has no traceback."""
    before = contents(place)
    status, out, err = run(ours, line, place)
    assert "Traceback" not in out + err
    assert [name for name in contents(place) if name not in before and not name.endswith("/.lock")] == []
    return status, out, err


@pytest.mark.beside_swtpm
@pytest.mark.needs("swtpm 0.7")
@pytest.mark.parametrize("line", SAID)
def test_the_same_status_and_words(ours, place, line):
    assert run_ours(ours, line, place) == run(DISTRIBUTION, line, place)


@pytest.mark.beside_swtpm
@pytest.mark.needs("swtpm 0.7")
@pytest.mark.parametrize("line", STATUS_ONLY)
def test_the_same_status(ours, place, line):
    assert run_ours(ours, line, place)[0] == run(DISTRIBUTION, line, place)[0]
