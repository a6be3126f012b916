"""createek, takeown and getpubek of vtpmctl on real daemons, with tools of others to say whether it is so.

The TPMs are those of libtpms, at sockets of vtpmd; a device is in tests/lab/uml.
"""

import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
import tempfile

import pytest
from owner_session import LINE, PASSWORD, PROGRAM, modulus_of, sessions
from socket_service import SocketService, free_ports
from tcsd import Tcsd

from swtpm_svc.cli import tpm_connection
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS


@pytest.fixture
def session(tmp_path, capsys):
    with sessions(tmp_path, capsys) as make:
        yield make


def openssl_modulus(path):
    done = subprocess.run(
        ["openssl", "rsa", "-pubin", "-in", path, "-noout", "-modulus"], capture_output=True, text=True, check=True
    )
    return bytes.fromhex(done.stdout.strip().removeprefix("Modulus=")).hex(" ").upper().split()


# --- TPM 1.2
# -----------------------------------------------------------------------------------------------------------------


def test_the_classic_session_for_two_instances(session):
    moduli = []
    for name in ("vtpm0", "vtpm1"):
        one = session("1.2", name=name)
        assert "there is no endorsement key" in one.refused(
            70, "takeown", name, "--owner-password-file", one.password_file
        )
        assert one.done("createek", name).startswith("the endorsement key is made: RSA 2048, fingerprint sha256:")
        assert "there is an endorsement key already" in one.refused(73, "createek", name)
        before = modulus_of(one.done("getpubek", name))
        one.done("takeown", name, "--owner-password-file", one.password_file)
        assert "has an owner already" in one.refused(73, "takeown", name, "--owner-password-file", one.password_file)
        (one.folder / "pubek.pem").unlink()
        assert "TPM_AUTHFAIL" in one.refused(77, "getpubek", name, "--owner-password-file", one.wrong_file)
        assert "is needed" in one.refused(64, "getpubek", name)
        assert not (one.folder / "pubek.pem").exists()
        owned = modulus_of(one.done("getpubek", name, "--owner-password-file", one.password_file))
        assert before == owned == openssl_modulus(one.folder / "pubek.pem")
        assert stat.S_IMODE(os.stat(one.folder / "pubek.pem").st_mode) == 0o644 & ~os.umask(os.umask(0))
        moduli.append(owned)
    assert moduli[0] != moduli[1]


def test_ownership_survives_a_restart(session):
    one = session("1.2")
    one.done("createek", "lab")
    one.done("takeown", "lab", "--owner-password-file", one.password_file)
    before = one.done("getpubek", "lab", "--owner-password-file", one.password_file)
    one.daemon.stop()
    one.daemon.start()
    assert one.done("getpubek", "lab", "--owner-password-file", one.password_file) == before


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_the_classic_session_from_power_on(session, version):
    """Nothing but these commands: no firmware, no configuration and no other program sends a Startup."""
    one = session(version, name="vtpm0", startup="none", tpm_keys='power-on = "manual"')
    password = ("--owner-password-file", one.password_file)
    one.done("init", "vtpm0")
    one.done("createek", "vtpm0")
    one.done("takeown", "vtpm0", *password)
    modulus = modulus_of(one.done("getpubek", "vtpm0", *password))
    assert modulus == openssl_modulus(one.folder / "pubek.pem")


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_tpm_that_was_not_started(session, version):
    """Who only looks at it does not start it; and who sets it up cannot start it twice."""
    one = session(version, startup="none")
    err = one.refused(69, "getpubek", "lab")
    assert ("TPM_INVALID_POSTINIT" if version == "1.2" else "TPM_RC_INITIALIZE") in err
    assert "vtpmctl createek lab starts it, as takeown does" in err
    one.done("createek", "lab")
    one.done("power", "off", one.daemon.control)
    # a data socket takes no control operation: it is the instance's
    assert "remedy: power it on: vtpmctl init lab\n" in one.refused(69, "createek", one.daemon.data)
    one.done("init", one.daemon.control)
    one.done("takeown", one.daemon.data, "--owner-password-file", one.password_file)


def test_what_a_tpm_1_2_cannot_do_is_said(session):
    one = session("1.2")
    assert "no endorsement key ecc-p384" in one.refused(64, "createek", "lab", "--algorithm", "ecc-p384")
    assert "never gets another" in one.refused(64, "createek", "lab", "--force")


@pytest.mark.needs("root", "setpriv", "tcsd", "tpm-tools")
@pytest.mark.parametrize("taken_by", ["vtpmctl", "tpm-tools"])
def test_tpm_tools_and_we_agree_about_passwords(taken_by):
    """Each takes ownership by a password that is typed, and the other one is the owner with the same password."""
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="tcsd-", dir="/tmp") as folder:  # where user tss gets to
        service = SocketService(f"{folder}/tpm", version="1.2", tcp=port)
        assert service.tpm.startup("clear")[6:10] == bytes(4)
        daemon = Tcsd(folder, free_ports(), port)
        environment = {**os.environ, "TSS_TCSD_HOSTNAME": "localhost", "TSS_TCSD_PORT": str(daemon.port)}

        def tool(program, *words, password, times=1):
            # without a terminal to ask at, it reads standard input
            return subprocess.run(
                [program, *words],
                env=environment,
                input=f"{password}\n" * times,
                capture_output=True,
                text=True,
                timeout=60,
                start_new_session=True,
                check=False,
            )

        try:
            with open(f"{folder}/owner", "w", encoding="utf-8") as file:
                file.write("pässword\n")
            assert entry.main(["createek", f"tcp:{port}"]) == 0
            if taken_by == "vtpmctl":
                assert entry.main(["takeown", f"tcp:{port}", "--owner-password-file", f"{folder}/owner"]) == 0
            else:
                assert tool("tpm_takeownership", "-z", password="pässword", times=2).returncode == 0
            shown = tool("tpm_getpubek", password="pässword")
            assert shown.returncode == 0, shown.stderr
            assert "Authentication failed" in tool("tpm_getpubek", password="password").stderr
            output = ["--output", f"{folder}/pubek.pem"]
            assert entry.main(["getpubek", f"tcp:{port}", "--owner-password-file", f"{folder}/owner", *output]) == 0
            theirs = "".join(re.findall(r"[0-9a-f]{8}", shown.stdout.split("Public Key:")[1]))
            assert theirs.upper() == "".join(openssl_modulus(f"{folder}/pubek.pem"))
        finally:
            daemon.close()
            service.close()


# --- TPM 2.0
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("tpm2-tools")
@pytest.mark.parametrize(
    ("algorithm", "handle", "theirs"), [("rsa2048", "0x81010001", "rsa"), ("ecc-p256", "0x81010002", "ecc")]
)
def test_tpm2_tools_make_the_same_endorsement_key(session, algorithm, handle, theirs):
    """tpm2_createek makes those of the low range by its own templates."""
    one = session("2.0")
    assert f" at {handle}, fingerprint sha256:" in one.done("createek", "lab", "--algorithm", algorithm)
    one.done("getpubek", "lab", "--algorithm", algorithm)
    assert one.tool("tpm2_getcap", "handles-transient").stdout.strip() == ""
    one.tool("tpm2_createek", "-c", "ek.ctx", "-G", theirs, "-u", "theirs.pem", "-f", "pem")
    one.tool("tpm2_readpublic", "-c", handle, "-f", "pem", "-o", "stored.pem")
    ours = (one.folder / "pubek.pem").read_text()
    assert ours == (one.folder / "theirs.pem").read_text() == (one.folder / "stored.pem").read_text()
    assert handle in one.tool("tpm2_getcap", "handles-persistent").stdout


def made_by_swtpm_setup(session, tmp_path, *options):
    state = tmp_path / "state"
    state.mkdir()
    words = ["swtpm_setup", "--tpm2", "--tpm-state", str(state), *options]
    made = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    one = session("2.0")
    one.daemon.stop()
    for path in state.iterdir():
        path.rename(f"{one.daemon.state}/{path.name}")
    one.daemon.start()
    return one


@pytest.mark.needs("swtpm", "tpm2-tools")
@pytest.mark.parametrize("algorithm", ["rsa2048", "ecc-p384"])
def test_an_endorsement_key_that_can_also_sign(session, tmp_path, algorithm):
    """A key that the template does not give, at the place of one that it gives."""
    one = made_by_swtpm_setup(session, tmp_path, "--createek", "--allow-signing")
    handle = hex(ENDORSEMENT_KEYS[algorithm].handle)
    assert "sign" in one.tool("tpm2_readpublic", "-c", handle, "-f", "pem", "-o", "theirs.pem").stdout
    one.done("getpubek", "lab", "--algorithm", algorithm)
    theirs = (one.folder / "theirs.pem").read_text()
    assert (one.folder / "pubek.pem").read_text() == theirs == one.done("ek", "lab", "--algorithm", algorithm)
    assert "there is a key at" in one.refused(73, "createek", "lab", "--algorithm", algorithm)
    one.done("createek", "lab", "--algorithm", algorithm, "--force")
    assert one.done("ek", "lab", "--algorithm", algorithm) != theirs


@pytest.mark.needs("tpm2-tools")
def test_what_is_no_key_at_the_place_of_one_can_be_replaced(session):
    """An HMAC object of another program."""
    one = session("2.0")
    one.tool("tpm2_createprimary", "-C", "o", "-c", "primary")
    one.tool("tpm2_create", "-C", "primary", "-G", "hmac", "-u", "public", "-r", "private")
    one.tool("tpm2_flushcontext", "-t")
    one.tool("tpm2_load", "-C", "primary", "-u", "public", "-r", "private", "-c", "hmac")
    one.tool("tpm2_evictcontrol", "-C", "o", "-c", "hmac", "0x81010001")
    one.tool("tpm2_flushcontext", "-t")
    assert "there is a key at" in one.refused(73, "createek", "lab")
    one.done("createek", "lab", "--force")


@pytest.mark.needs("swtpm")
@pytest.mark.parametrize(
    ("algorithm", "options"), [("rsa2048", []), ("ecc-p384", []), ("rsa3072", ["--rsa-keysize", "3072"])]
)
def test_swtpm_setup_makes_the_same_endorsement_key(session, tmp_path, algorithm, options):
    """The key that it has stored and ours come from the same seed: they are equal if template and handle are."""
    one = made_by_swtpm_setup(session, tmp_path, "--createek", *options)
    theirs = one.done("getpubek", "lab", "--algorithm", algorithm)
    assert "already" in one.refused(73, "createek", "lab", "--algorithm", algorithm)
    one.done("createek", "lab", "--algorithm", algorithm, "--force")
    assert one.done("getpubek", "lab", "--algorithm", algorithm) == theirs


@pytest.mark.needs("tpm2-tools")
def test_ownership_of_a_tpm_2_works_with_the_password_and_not_without(session):
    one = session("2.0")
    one.done("takeown", "lab", "--owner-password-file", one.password_file)
    shown = one.tool("tpm2_getcap", "properties-variable").stdout
    for name in ("ownerAuthSet", "endorsementAuthSet", "lockoutAuthSet"):
        assert re.search(rf"{name}: +1", shown)
    assert "has an owner already" in one.refused(73, "takeown", "lab", "--owner-password-file", one.password_file)
    for hierarchy in "oe":
        words = ["tpm2_createprimary", "-C", hierarchy, "-c", "key.ctx"]
        assert one.tool(*words, check=False).returncode != 0
        assert one.tool(*words, "-P", "wrong", check=False).returncode != 0
        one.tool(*words, "-P", PASSWORD)
        one.tool("tpm2_flushcontext", "-t")
    one.tool("tpm2_dictionarylockout", "-c", "-p", PASSWORD)
    assert "--owner-password-file" in one.refused(77, "createek", "lab")
    assert "TPM_RC_BAD_AUTH" in one.refused(77, "createek", "lab", "--owner-password-file", one.wrong_file)
    one.done("createek", "lab", "--owner-password-file", one.password_file)


@pytest.mark.needs("tpm2-tools")
@pytest.mark.parametrize(("what", "status"), [(KeyboardInterrupt, 130), (ConnectionResetError(104, "reset"), 69)])
def test_ownership_that_is_cut_short_is_given_up(session, monkeypatch, what, status):
    """After the second command was sent and before its answer was read: what comes next must not read that."""
    one = session("2.0")
    exchange, seen = tpm_connection._Stream.exchange, []

    def cut_short(way, command):
        if int.from_bytes(command[6:10], "big") == 0x129:  # HierarchyChangeAuth
            seen.append(command)
            if len(seen) == 2:
                way._socket.sendall(command)
                raise what
        return exchange(way, command)

    monkeypatch.setattr(tpm_connection._Stream, "exchange", cut_short)
    assert one.run("takeown", "lab", "--owner-password-file", one.password_file)[0] == status
    assert re.findall(r"AuthSet: +(\d)", one.tool("tpm2_getcap", "properties-variable").stdout) == ["0"] * 3
    one.done("takeown", "lab", "--owner-password-file", one.password_file)


def test_a_password_that_a_tpm_2_takes_for_none(session):
    one = session("2.0")
    zeros = one.write("zeros", "\0" * 20)
    assert "zero bytes" in one.refused(64, "takeown", "lab", "--owner-password-file", zeros)
    one.done("takeown", "lab", "--owner-password-file", one.password_file)


def test_the_public_key_on_a_curve(session):
    one = session("2.0")
    one.done("createek", "lab", "--algorithm", "ecc-p384")
    out = one.done("getpubek", "lab", "--algorithm", "ecc-p384", "--output", "ek.pem")
    assert re.fullmatch(
        rf"ek\.pem successfully written\nPubek curve NIST P-384\nX:\n(?:{LINE}){{3}}Y:\n(?:{LINE}){{3}}", out
    )
    values = json.loads(one.done("getpubek", "lab", "--algorithm", "ecc-p384", "--json"))
    assert (values["operation"], values["curve"], values["file"]) == ("getpubek", "NIST P-384", "pubek.pem")
    assert bytes.fromhex(values["x"]).hex(" ").upper().split() == out.split("X:\n")[1].split("Y:")[0].split()
    assert values["pem"] == (one.folder / "ek.pem").read_text()


def test_a_key_that_is_not_there(session):
    one = session("2.0")
    assert "no endorsement key rsa2048" in one.refused(70, "getpubek", "lab")
    assert not (one.folder / "pubek.pem").exists()


def test_a_storage_root_key_is_not_made_by_takeown(session):
    one = session("2.0")
    words = ["--owner-password-file", one.password_file, "--srk-password-file", one.password_file]
    assert "no storage root key" in one.refused(64, "takeown", "lab", *words)
    one.done("takeown", "lab", "--owner-password-file", one.password_file)


# --- ways to the TPM
# ---------------------------------------------------------------------------------------------------------


def test_a_name_a_socket_and_the_environment(session, monkeypatch):
    """A control socket is as good as one for commands; which one it is, is found out."""
    one = session("2.0")
    made = one.done("createek", "lab").split()[-1]
    for name in (one.daemon.data, one.daemon.control):
        assert made in one.done("createek", name, "--force")
    assert "no TPM is named" in one.refused(64, "createek", "--force")
    monkeypatch.setenv("TPM_DEVICE", one.daemon.control)
    assert made in one.done("createek", "--force")
    assert json.loads(one.done("createek", "--force", "--json"))["device"] == one.daemon.control
    assert "nobody" in one.refused(69, "createek", f"tcp:{free_ports()}")


def test_a_name_without_a_data_socket(session, tmp_path):
    one = session("1.2", socket_keys=f'control = "{tmp_path}/only-control"')
    one.done("createek", "lab")


@pytest.mark.needs("root", "fuse", "pyfuse3")
def test_a_file_of_the_fuse_front_end(session, tmp_path):
    directory = tmp_path / "fs"
    directory.mkdir()
    sockets = f'control = "{tmp_path}/only-control"'
    fuse = f'[fuse]\nenabled = true\ndirectory = "{directory}"\n'
    one = session("1.2", device_keys='group = "root"', socket_keys=sockets, more=fuse)
    assert json.loads(one.done("createek", "lab", "--json"))["device"] == f"{directory}/tpm"
    modulus_of(one.done("getpubek", directory / "tpm"))


@pytest.mark.parametrize("place", ["/dev/null", "/dev/zero"])
def test_a_device_that_is_no_tpm(session, place):
    one = session("2.0")
    assert f"{place} does not answer as a TPM does" in one.refused(76, "createek", place)


def test_a_file_that_is_no_tpm_is_not_written_to(session):
    one = session("2.0")
    path = one.write("precious", "precious")
    assert "neither a TPM's device nor a socket" in one.refused(64, "createek", path)
    assert (one.folder / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    "answer", [b"", b"\0" * 4, b"GET / HTTP", b"\x80\x01\0\0\0\x09\0\0\0\0", b"\x80\x01\xff\xff\xff\xff\0\0\0\0"]
)
def test_a_socket_that_is_no_tpm(session, tmp_path, answer):
    """It is accepted from as often as somebody connects, and every time it says the same."""
    one = session("2.0")
    path = str(tmp_path / "other")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)
        process = subprocess.Popen([*PROGRAM, "createek", path], stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            if select.select([listener], [], [], 0.05)[0]:
                peer, _address = listener.accept()
                peer.recv(64)
                peer.sendall(answer)
                peer.close()
        err = process.stderr.read()
    assert process.returncode in (69, 76), err
    assert "Traceback" not in err
    assert "\n  remedy: " in err
    assert one.daemon.status()


def test_without_cryptography_nothing_is_changed(session, monkeypatch):
    """The endorsement key is made without it. To take ownership of a TPM 1.2 is to encrypt."""
    one = session("1.2")
    monkeypatch.setitem(sys.modules, "cryptography", None)  # what an import of it then raises is ImportError
    one.done("createek", "lab")
    password = ("--owner-password-file", one.password_file)
    for command in ("takeown", "getpubek", "ek", "identity"):
        assert "remedy: install python3-cryptography" in one.refused(69, command, "lab", *password)
    monkeypatch.undo()
    one.done("takeown", "lab", *password)


def test_cryptography_is_not_imported_where_nothing_is_encrypted():
    """A cold start is short (decisions/0024)."""
    imports = "from swtpm_svc.cli import tpm_connection; from swtpm_svc.cli.vtpmctl import owner_commands, commands"
    code = f"import sys; {imports}; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
