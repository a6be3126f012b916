"""The comma lists of swtpm's options as values, and each refusal (swtpm(8), and measured with its releases)."""

import os
import socket

import pytest

from swtpm_svc.cli.classic import swtpm_channels, swtpm_keys, swtpm_lists
from swtpm_svc.cli.classic.swtpm_channels import ControlChannel, DataChannel
from swtpm_svc.cli.classic.swtpm_lists import Flags, Locality, StateOptions
from swtpm_svc.cli.classic.swtpm_options import CommandError, c_number
from swtpm_svc.service.classic.emulation import Endpoint, PidFile

UNIX = Endpoint(path="/run/s")
TCP = Endpoint(host="127.0.0.1", port=2321)


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (swtpm_channels.server, "type=unixio,path=/run/s", DataChannel(UNIX)),
        (swtpm_channels.server, "type=unixio,path=s", DataChannel(Endpoint(path="s"))),
        (swtpm_channels.server, "type=unixio,path=/run/s,mode=0600", DataChannel(UNIX._replace(mode=0o600))),
        (swtpm_channels.server, "type=unixio,path=/run/s,uid=7,gid=9", DataChannel(UNIX._replace(uid=7, gid=9))),
        (swtpm_channels.server, "type=unixio,path=/run/s,uid=root", DataChannel(UNIX._replace(uid=0))),
        (swtpm_channels.server, "type=unixio,path=/run/s,disconnect", DataChannel(UNIX, disconnects=True)),
        (swtpm_channels.server, "type=unixio,path=/run/s,disconnect=false", DataChannel(UNIX)),
        (swtpm_channels.server, "port=2321", DataChannel(TCP)),
        (swtpm_channels.server, "type=tcp,port=2321,disconnect", DataChannel(TCP, disconnects=True)),
        (swtpm_channels.server, "port=2321,bindaddr=::1", DataChannel(TCP._replace(host="::1"))),
        (swtpm_channels.control, "type=unixio,path=/run/s", ControlChannel(UNIX)),
        (swtpm_channels.control, "type=unixio,path=/run/s,terminate", ControlChannel(UNIX, ends=True)),
        (swtpm_channels.control, "type=tcp,port=2321", ControlChannel(TCP)),
        (swtpm_lists.flags, None, Flags()),
        (swtpm_lists.flags, "not-need-init", Flags(needs_init=False)),
        (swtpm_lists.flags, "startup-state", Flags(needs_init=False, startup="state")),
        (swtpm_lists.flags, "startup-none", Flags(needs_init=False)),
        (swtpm_lists.flags, "startup-none,startup-state,startup-clear", Flags(needs_init=False, startup="clear")),
        (swtpm_lists.flags, "disable-auto-shutdown", Flags(auto_shutdown=False)),
        (swtpm_lists.locality, "reject-locality-4", Locality(reject_4=True)),
        (swtpm_lists.locality, "allow-set-locality,reject-locality-4=0", Locality(allow_set=True)),
        (swtpm_lists.seccomp, None, "kill"),
        (swtpm_lists.seccomp, "action=log", "log"),
        (swtpm_lists.migration, "incoming,release-lock-outgoing=false", frozenset(["incoming"])),
        (swtpm_lists.pid_file, "file=/run/p", PidFile(path="/run/p")),
        (swtpm_lists.state, "dir=/s", StateOptions(directory="/s")),
        (swtpm_lists.state, "backend-uri=dir:///s,mode=0600", StateOptions(directory="/s", mode=0o600)),
        (swtpm_lists.state, "backend-uri=file:///s,lock", StateOptions(file="/s", lock=True)),
        (swtpm_lists.state, "dir=/s,backup,fsync=true", StateOptions(directory="/s", backup=True, fsync=True)),
        (swtpm_lists.profile, "name=default-v1", '{"Name":"default-v1"}'),
        (swtpm_lists.profile, 'profile={"Name":"custom","Algorithms":"rsa,sha1"}', '{"Name":"custom","Algorithms":"rsa,sha1"}'),
    ],
)  # fmt: skip
def test_a_list_becomes_values(read, text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (swtpm_channels.server, "type=foo", "Unsupported socket type: foo"),
        (swtpm_channels.server, "type=unixio", "Missing path and file descriptor option for UnixIO socket"),
        (swtpm_channels.server, "type=tcp,port=70000", "TCP socket port outside valid range"),
        (swtpm_channels.server, "type=tcp,port=x", "Error parsing server options: invalid number 'x'"),
        (swtpm_channels.server, "type=tcp,fd=777", "Bad filedescriptor 777 for TCP socket"),
        (swtpm_channels.server, "port=1,bindaddr=zzz", "Could not parse the bind address 'zzz'"),
        (swtpm_channels.server, "foo=1", "Error parsing server options: Unknown option 'foo=1'"),
        (swtpm_channels.server, "type=unixio,path=s,mode=9", "Error parsing server options: invalid mode type '9'"),
        (swtpm_channels.server, "type=unixio,path=s,mode=7777", "Error parsing server options: mode 7777 is invalid"),
        (swtpm_channels.server, f"type=unixio,path={'x' * 108}", "Path for UnixIO socket is too long"),
        (swtpm_channels.control, "path=s", "Missing type parameter for control channel"),
        (swtpm_channels.control, "type=foo", "Unsupported control channel type: foo"),
        (swtpm_channels.control, "type=unixio", "Missing path and fd options for UnixIO control channel"),
        (swtpm_channels.control, "type=tcp", "Missing port and fd options for TCP control channel"),
        (swtpm_channels.control, "type=tcp,port=70000", "TCP control channel port outside valid range"),
        (swtpm_channels.control, "type=unixio,fd=777", "Bad filedescriptor 777 for UnixIO control channel"),
        (swtpm_channels.control, "type=unixio,clientfd=777", "Bad filedescriptor 777 for UnixIO client control channel"),
        (swtpm_channels.control, "type=tcp,fd=777", "Bad filedescriptor 777 for TCP control channel"),
        (swtpm_channels.control, "type=unixio,path=s,", "Error parsing ctrl options: Unknown option ''"),
        (swtpm_channels.control, "type=unixio,path=s,uid=nobody-here", "Error parsing ctrl options: User 'nobody-here' does not exist."),
        (swtpm_channels.port, "abc", "Cannot parse socket port number 'abc'."),
        (swtpm_channels.port, "70000", "Port is outside valid range."),
        (swtpm_channels.descriptor, "2", "Error: Cannot accept file descriptors with values 0, 1, or 2"),
        (swtpm_lists.flags, "foo", "Error parsing flags options: Unknown option 'foo'"),
        (swtpm_lists.locality, "foo", "Error parsing locality options: Unknown option 'foo'"),
        (swtpm_lists.seccomp, "action=foo", "Unsupported seccomp log action foo"),
        (swtpm_lists.seccomp, "foo", "Error parsing seccomp options: Unknown option 'foo'"),
        (swtpm_lists.migration, "foo", "Error parsing migration options: Unknown option 'foo'"),
        (swtpm_lists.pid_file, "foo", "Error parsing pid options: Unknown option 'foo'"),
        (swtpm_lists.pid_file, "fd=777", "Bad filedescriptor 777 for pid file"),
        (swtpm_lists.log, "level=x", "Error parsing logging options: invalid number 'x'"),
        (swtpm_lists.log, "file=/nowhere/log", "Could not open logfile for writing: No such file or directory: /nowhere/log"),
        (swtpm_lists.log, "fd=777", "Could not access logfile using fd 777: Bad file descriptor"),
        (swtpm_lists.state, "mode=0600", "The dir or backend-uri parameters is required for the tpmstate option."),
        (swtpm_lists.state, "backend-uri=iscsi://x", "SWTPM_NVRAM_Init: Unsupported backend."),
        (swtpm_lists.state, "backend-uri=file:///s,backup", "SWTPM_NVRAM_PrepareLinear: The backup option is not supported with this storage backend"),
        (swtpm_lists.state, "dir=/s,mode=1777", "Error parsing tpmstate options: mode 1777 is invalid"),
        (swtpm_lists.profile, "remove-disabled=check", "No profile option parameter given to get a profile"),
        (swtpm_lists.profile, "name=a,file=b", "Only one profile option parameter of 'profile', 'name', 'fd', or 'file' may be provided"),
        (swtpm_lists.profile, "name=a,remove-disabled=x", "Invalid option parameter 'x' for 'remove-disabled'"),
        (swtpm_lists.profile, "file=/nowhere", "Failed to open file “/nowhere”: No such file or directory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_swtpms_words(read, text, message):
    with pytest.raises(CommandError) as refusal:
        read(text)
    assert (refusal.value.message, refusal.value.status) == (message, 1)


def test_the_folder_of_the_state_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TPM_PATH", "/from/environment")
    assert swtpm_lists.state(None).directory == "/from/environment"
    assert swtpm_lists.state("dir=/s").directory == "/s"


def test_the_port_may_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("TPM_PORT", raising=False)
    with pytest.raises(CommandError, match="No valid port number provided for TCP socket"):
        swtpm_channels.server("type=tcp")
    monkeypatch.setenv("TPM_PORT", "2321")
    assert swtpm_channels.server("type=tcp").endpoint == TCP


@pytest.mark.parametrize(
    ("text", "number"), [("10", 10), ("0x1f", 31), ("010", 8), ("", None), ("x", None), ("1x", None), ("09", None)]
)
def test_numbers_are_read_as_c_has_them(text, number):
    assert c_number(text) == number


def test_a_log_that_is_a_dash_is_none():
    log = swtpm_lists.log("file=-,level=20")
    assert log.fd is None
    assert not log.has_traffic


def test_a_given_log_has_no_prefix_but_its_own(tmp_path):
    path = tmp_path / "log"
    log = swtpm_lists.log(f"file={path},level=2,prefix=x:")
    try:
        for text in ("notice", " traffic", "  more"):
            log.line(text)
    finally:
        os.close(log.fd)
    assert path.read_text() == "x:notice\nx: traffic\n"
    assert path.stat().st_mode & 0o777 == 0o600


# --- keys ----------------------------------------------------------------------------------------------------------

HEX_16, HEX_32 = "00112233445566778899aabbccddeeff", "ff" * 32


@pytest.mark.parametrize(
    ("content", "options", "mode"),
    [
        (HEX_16, "", "aes-cbc"),
        (f"0x{HEX_16}\nrest", "mode=aes-128-cbc", "aes-cbc"),
        (HEX_32, "mode=aes-256-cbc", "aes-256-cbc"),
        ("x" * 16, "format=binary", "aes-cbc"),
    ],
)
def test_a_key_is_read(tmp_path, content, options, mode):
    path = tmp_path / "key"
    path.write_text(content)
    assert swtpm_keys.load(f"file={path},{options}".rstrip(","), "key", print).mode == mode
    assert path.exists()


@pytest.mark.parametrize(("kdf", "mode"), [("sha512", "aes-cbc"), ("pbkdf2", "aes-256-cbc")])
def test_a_passphrase_makes_a_key_and_may_be_removed(tmp_path, kdf, mode):
    path = tmp_path / "passphrase"
    path.write_text("secret\n")
    assert swtpm_keys.load(f"pwdfile={path},kdf={kdf},mode={mode},remove", "key", print).mode == mode
    assert not path.exists()


def test_a_key_may_come_by_descriptor(tmp_path):
    path = tmp_path / "key"
    path.write_text(HEX_16)
    with path.open("rb") as file:
        assert swtpm_keys.load(f"fd={file.fileno()}", "key", print).mode == "aes-cbc"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("0011", "", "Unsupported key length with 4 digits."),
        ("00zz", "", "Could not parse key hex string into 16 byte buffer."),
        (HEX_32, "", "Could not parse key hex string into 16 byte buffer."),
        (HEX_16, "mode=aes-256-cbc", "The provided key is too short. Got 16 bytes, need 32."),
        ("x" * 20, "format=binary", "Key is larger than buffer (20 > 16)."),
        (HEX_16, "format=foo", "Unknown key format 'foo'."),
        (HEX_16, "mode=foo", "Unknown encryption mode 'foo'."),
        (HEX_16, "kdf=foo", "Unknown kdf 'foo'."),
    ],
)
def test_what_is_wrong_with_a_key(tmp_path, content, options, message):
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(CommandError) as refusal:
        swtpm_keys.load(f"file={path},{options}".rstrip(","), "key", print)
    assert refusal.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode=aes-cbc", "Either file=, fd=, pwdfile=, or pwdfd= is required for key option"),
        ("file=/nowhere", "Unable to open file /nowhere: No such file or directory"),
        ("pwdfile=/nowhere", "Unable to open file /nowhere : No such file or directory"),
        ("fd=777", "Unable to read key: Bad file descriptor"),
    ],
)
def test_there_is_no_key(text, message):
    with pytest.raises(CommandError) as refusal:
        swtpm_keys.load(text, "key", print)
    assert refusal.value.message == message


def test_a_pid_goes_into_a_regular_file_alone(tmp_path):
    """As swtpm 0.7.1: it is removed at the end."""
    with open(tmp_path / "pid", "wb") as file:
        assert swtpm_lists.pid_file(f"fd={file.fileno()}") == PidFile(fd=file.fileno())
    for path, flags in (("/", os.O_RDONLY), ("/dev/null", os.O_WRONLY), (tmp_path / "pid", os.O_RDONLY)):
        fd = os.open(path, flags)
        with pytest.raises(CommandError, match=f"^Bad filedescriptor {fd} for pid file$"):
            swtpm_lists.pid_file(f"fd={fd}")
        os.close(fd)


@pytest.mark.parametrize("path", ["/", "/dev/null"])
def test_a_descriptor_that_cannot_be_written_is_neither_log_nor_capture(path):
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(CommandError, match=f"^Could not access logfile using fd {fd}: "):
        swtpm_lists.log(f"fd={fd}")
    with pytest.raises(CommandError, match=f"^Could not open pcap file descriptor {fd}: "):
        swtpm_lists.pcap(f"fd={fd}")
    os.close(fd)


def test_what_is_talked_over_goes_both_ways():
    """A pipe has one direction; a device is for the interface that serves one."""
    reader, writer = os.pipe()
    terminal, other = os.openpty()
    ends = socket.socketpair()
    folder = os.open("/", os.O_RDONLY)
    kind = "Given file descriptor type is not supported"
    swtpm_channels.check_descriptor(ends[0].fileno(), "--fd 3", takes_devices=False)
    swtpm_channels.check_descriptor(terminal, "--fd 3", takes_devices=True)
    for fd, message in (
        (777, "Cannot stat file descriptor: Bad file descriptor"),
        (reader, f"{kind}: --fd 3 is a pipe, which has one direction"),
        (terminal, f"{kind}: --fd 3 is a device, and not a socket"),
        (folder, f"{kind}."),
    ):
        with pytest.raises(CommandError) as caught:
            swtpm_channels.check_descriptor(fd, "--fd 3", takes_devices=False)
        assert caught.value.message == message
    for end in ends:
        end.close()
    for fd in (reader, writer, terminal, other, folder):
        os.close(fd)
