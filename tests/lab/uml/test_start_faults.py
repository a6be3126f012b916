"""What a start can meet: each ends before READY with one line of cause and one of remedy, and leaves everything as it
was."""

import contextlib
import os
import subprocess
import sys

import pytest
from device_clients import Client, wait_for
from tpm_commands import GET_RANDOM, HIERARCHY_CHANGE_AUTH

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def content(directory):
    return {name: read(f"{directory}/{name}") for name in sorted(os.listdir(directory)) if not name.startswith(".")}


def fill(path):
    """Write until the file system is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(fd, bytes(512)):
            pass
    os.close(fd)
    assert os.statvfs(path).f_bfree == 0


def refused(instance, exit_status, *words):
    before = content(instance.state) if os.path.isdir(instance.state) else None
    status, log = instance.fails()
    assert status == exit_status, log
    assert "Traceback" not in log
    assert "remedy: " in log
    for word in words:
        assert word in log
    assert not instance.is_ready()
    assert not instance.store
    if before is not None:
        assert content(instance.state) == before
    return log


def test_no_cuse(instance):
    one = instance()
    os.rename("/dev/cuse", "/dev/cuse-away")
    try:
        refused(one, 69, "/dev/cuse does not exist", "modprobe cuse")
    finally:
        os.rename("/dev/cuse-away", "/dev/cuse")


def test_cuse_may_not_be_opened(instance):
    one = instance()
    # not by runuser: the program may be where only root can read it
    program = (
        "import os, pwd, sys; from swtpm_svc.service import daemon, vtpmd; who = pwd.getpwnam('lab-member'); "
        "os.initgroups(who.pw_name, who.pw_gid); os.setgid(who.pw_gid); os.setuid(who.pw_uid); sys.exit(vtpmd.main())"
    )
    words = [sys.executable, "-c", program, one.name, "--foreground"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77
    assert "/dev/cuse cannot be opened: Permission denied" in done.stderr


def test_name_taken(instance):
    instance().start()
    other = instance("other", extra='[device]\nname = "vtpm0"\n')
    refused(other, 73, "/dev/vtpm0 exists already")
    third = instance("third", extra='[device]\nname = "null"\n')
    refused(third, 73, "/dev/null exists already")


def test_number_taken(instance):
    refused(instance(extra="[device]\nmajor = 1\nminor = 3\n"), 73, "1:3 exists already")


def test_number_of_another_driver(instance):
    """Major 1 is the memory driver's: the minor is free, but the kernel refuses the device.

    The new TPM is good, and kept.
    """
    one = instance(extra="[device]\nmajor = 1\nminor = 200\n")
    status, log = one.fails()
    assert status == 73
    assert "did not make the device" in log
    one.configure('[tpm]\nstartup = "none"\n')  # else it is written to
    made = read(f"{one.state}/tpm2-00.permall")
    one.start()
    assert read(f"{one.state}/tpm2-00.permall") == made


def test_missing_state_directory(instance):
    one = instance()
    os.rmdir(one.state)
    refused(one, 66, one.state)


def test_state_in_use(instance):
    first = instance().start()
    second = instance("other", extra=f'[state]\ndirectory = "{first.state}"\n')
    log = refused(second, 75, f"process {first.pid}")
    assert first.state in log
    assert len(Client(first.device)(GET_RANDOM)) == 20


def test_read_only_state(instance):
    one = instance().start()
    one.stop()
    subprocess.run(["mount", "--bind", one.state, one.state], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", one.state], check=True)
    try:
        refused(one, 74, one.state)
    finally:
        subprocess.run(["umount", one.state], check=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_state(instance, damage):
    one = instance().start()
    one.stop()
    path = f"{one.state}/tpm2-00.permall"
    data = bytearray(read(path))
    if damage == "truncated":
        data = data[:-7]
    elif damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data = b""
    with open(path, "wb") as file:
        file.write(data)
    refused(one, 65, path)


def test_state_of_the_other_tpm_version(instance):
    one = instance(version="1.2").start()
    one.stop()
    one.configure('[tpm]\nversion = "2.0"\n')
    refused(one, 65, "1.2")


def test_full_disk_when_a_tpm_is_made(instance):
    one = instance()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "tmpfs", one.state], check=True)
    try:
        fill(f"{one.state}/filler")
        refused(one, 74, one.state)
    finally:
        subprocess.run(["umount", one.state], check=True)


def test_full_disk_while_serving_is_a_tpm_error_and_keeps_the_old_state(instance):
    one = instance()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", one.state], check=True)
    try:
        one.start()
        fill(f"{one.state}/filler")
        before = read(f"{one.state}/tpm2-00.permall")
        client = Client(one.device)
        assert client(HIERARCHY_CHANGE_AUTH)[6:10] != bytes(4)
        assert "state-full" in one.log()
        assert read(f"{one.state}/tpm2-00.permall") == before
        assert one.status()["last_error"]["code"] == "state-full"
        client.close()
        os.unlink(f"{one.state}/filler")
        one.stop()
        one.start()
        assert len(Client(one.device)(GET_RANDOM)) == 20
    finally:
        one.stop()
        wait_for(lambda: not os.path.exists(one.device), "the node to go")
        subprocess.run(["umount", one.state], check=True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[tpm]\nversion = 2\n", "version"),
        ("[tmp]\n", "tmp"),
        ("[device]\ncolour = 'red'\n", "colour"),
        ("[device]\nmode = '0999'\n", "mode"),
        ("[tpm\n", "line 1"),
    ],
)
def test_wrong_configuration(instance, text, word):
    one = instance()
    one.configure(text)
    refused(one, 78, one.config, word)


def test_unknown_group(instance):
    refused(instance(extra='[device]\ngroup = "no-such-group"\n'), 67, "no-such-group")


def test_wrong_command_lines():
    for words, status in (
        ([], 64),
        (["--config"], 64),
        (["a", "b"], 64),
        (["no/such"], 64),
        (["absent"], 78),
        (["--help"], 0),
    ):
        done = subprocess.run(
            ["python", "-m", "swtpm_svc.service.vtpmd", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, (words, done.stderr)
        assert "Traceback" not in done.stderr
