"""The owner's password: from files, descriptors, credentials and a terminal, and what is no part of it."""

import os
import pty

import pytest
from owner_session import PASSWORD, PROGRAM, modulus_of, sessions


@pytest.fixture
def session(tmp_path, capsys):
    with sessions(tmp_path, capsys) as make:
        yield make


@pytest.fixture
def owned(session):
    one = session("1.2")
    one.done("createek", "lab")
    one.done("takeown", "lab", "--owner-password-file", one.password_file)
    return one


def test_passwords_from_descriptors_and_credentials(owned, monkeypatch):
    with open(owned.password_file, encoding="utf-8") as file:
        modulus_of(owned.done("getpubek", "lab", "--owner-password-fd", file.fileno()))
    assert "CREDENTIALS_DIRECTORY" in owned.refused(64, "getpubek", "lab", "--owner-password-credential", "owner")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(owned.folder))
    modulus_of(owned.done("getpubek", "lab", "--owner-password-credential", "owner"))
    assert "not a name" in owned.refused(64, "getpubek", "lab", "--owner-password-credential", "../owner")
    assert "No such file" in owned.refused(66, "getpubek", "lab", "--owner-password-credential", "nobody")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_no_part_of_a_password(owned, end):
    """Whichever editor has written the file."""
    modulus_of(owned.done("getpubek", "lab", "--owner-password-file", owned.write("other", PASSWORD + end)))


def test_what_else_is_in_a_line_is_a_part_of_it(owned):
    for text in (f"{PASSWORD}\r", f"{PASSWORD} \n", f"{PASSWORD}\r\r\n", f"\t{PASSWORD}\n"):
        assert "TPM_AUTHFAIL" in owned.refused(
            77, "getpubek", "lab", "--owner-password-file", owned.write("other", text)
        )


@pytest.mark.needs("tpm2-tools")
def test_a_password_from_a_file_of_windows_is_that_of_other_tools(session):
    one = session("2.0")
    one.done("takeown", "lab", "--owner-password-file", one.write("windows", PASSWORD + "\r\n"))
    one.tool("tpm2_createprimary", "-C", "o", "-P", PASSWORD)


def test_the_classic_option_is_taken_with_a_warning(owned):
    status, out, err = owned.run("getpubek", "lab", "-pwdo", PASSWORD)
    assert (status, err) == (
        0,
        "vtpmctl: warning: other users can see the password in -pwdo; use --owner-password-file\n",
    )
    modulus_of(out)


def test_passwords_that_cannot_be_had(owned):
    def refused(status, *words):
        return owned.refused(status, "getpubek", "lab", *words)

    assert "in more than one way" in refused(64, "--owner-password-file", owned.password_file, "-pwdo", PASSWORD)
    assert "No such file" in refused(66, "--owner-password-file", str(owned.folder / "nobody"))
    assert "Is a directory" in refused(74, "--owner-password-file", str(owned.folder))
    assert "is empty" in refused(64, "--owner-password-file", owned.write("empty", "\n"))
    assert "is empty" in refused(64, "--owner-password-file", owned.write("empty", "\r\n"))
    assert "more than one line" in refused(64, "--owner-password-file", owned.write("two", f"{PASSWORD}\n\n"))
    assert "more than one line" in refused(64, "--owner-password-file", owned.write("two", f"{PASSWORD}\r\n{PASSWORD}"))
    assert "byte order mark" in refused(64, "--owner-password-file", owned.write("mark", f"\ufeff{PASSWORD}\r\n"))
    assert "more than 4096 bytes" in refused(65, "--owner-password-file", "/dev/zero")
    for number in ("-1", "999", "99999999999999999999"):
        assert "cannot be read from descriptor" in refused(74, f"--owner-password-fd={number}")


def at_a_terminal(owned, *words, typed):
    """What vtpmctl says at a terminal, where `typed` answers its prompts one by one; and its exit status."""
    words = [word if word != "lab" else owned.daemon.data for word in words]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(owned.folder)
        os.execv(PROGRAM[0], [*PROGRAM, *words])
    shown, answers = b"", list(typed)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        shown += piece
        if piece.endswith(b": ") and answers:
            os.write(terminal, answers.pop(0).encode() + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode().replace("\r\n", "\n")


def test_a_person_at_a_terminal_is_asked(owned, session):
    status, shown = at_a_terminal(owned, "getpubek", "lab", typed=[PASSWORD])
    assert status == 0
    assert shown.startswith("Owner password: \npubek.pem successfully written\n")
    assert PASSWORD not in shown
    other = session("1.2", name="other")
    other.done("createek", "other")
    status, shown = at_a_terminal(other, "takeown", other.daemon.data, typed=[PASSWORD, "ownerpasS"])
    assert status == 64
    assert "was not typed the same twice" in shown
    status, shown = at_a_terminal(other, "takeown", other.daemon.data, typed=[PASSWORD, PASSWORD])
    assert (status, shown) == (
        0,
        "Owner password: \nOwner password, again: \nownership is taken; the storage root key's secret is the "
        "well-known one\n",
    )
    other.done("getpubek", "other", "--owner-password-file", other.password_file)
