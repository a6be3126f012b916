"""What a service that failed leaves: the line for systemd, the note for the next try, and how long its end takes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service import failed_start

ERROR = VtpmError(Code.STATE_LOCKED, "/x/.lock is held by process 7", remedy="stop it first: systemctl stop y")


def test_the_line_says_all_and_can_be_read_again():
    line = failed_start.line(ERROR)
    assert line == ("failed (state-locked): /x/.lock is held by process 7; remedy: stop it first: systemctl stop y")
    found = failed_start.parse(line)
    assert (found.code, found.message, found.remedy) == (ERROR.code, ERROR.message, ERROR.remedy)
    assert failed_start.parse(failed_start.line(VtpmError(Code.INTERNAL, "why"))).remedy is None
    assert "\n" not in failed_start.line(VtpmError(Code.INTERNAL, "two\nlines"))


@pytest.mark.parametrize(
    "text",
    ["", "TPM 2.0 at /dev/x, running", "TPM 2.0 at /dev/x, failed: no room", "failed (no-such-code): x", "Stopping"],
)
def test_what_a_service_says_that_has_not_failed_is_no_such_line(text):
    assert failed_start.parse(text) is None


@given(st.sampled_from(list(Code)), st.text(), st.none() | st.text(min_size=1))
def test_any_error_keeps_its_code(code, message, remedy):
    found = failed_start.parse(failed_start.line(VtpmError(code, message, remedy=remedy)))
    assert found is None or found.code is code


def test_failures_in_a_row_are_counted_until_one_start_succeeds(tmp_path):
    path = str(tmp_path / "failed-start")
    umask = os.umask(0o077)
    try:
        assert [failed_start.leave(path, ERROR) for _ in range(3)] == [1, 2, 3]
    finally:
        os.umask(umask)
    assert os.stat(path).st_mode & 0o777 == 0o644, "everybody may ask"
    note = failed_start.read(path)
    assert (note.tries, note.error.message) == (3, ERROR.message)
    failed_start.forget(path)
    assert failed_start.read(path) is None
    failed_start.forget(path)
    assert failed_start.leave(path, ERROR) == 1


def test_without_a_runtime_directory_nothing_is_left(tmp_path):
    assert failed_start.leave(str(tmp_path / "none/failed-start"), ERROR) == 1


@pytest.mark.parametrize("text", ["", "3", "x failed (usage): y", "-1 failed (usage): y", "3 y", "\xff"])
def test_a_note_that_is_none(tmp_path, text):
    (tmp_path / "note").write_text(text, encoding="latin-1")
    assert failed_start.read(str(tmp_path / "note")) is None


def test_a_note_is_not_read_or_written_through_a_link(tmp_path):
    (tmp_path / "other").write_text("3 failed (usage): y")
    (tmp_path / "note").symlink_to("other")
    assert failed_start.leave(str(tmp_path / "note"), ERROR) == 1
    assert (tmp_path / "other").read_text() == "3 failed (usage): y"


def test_the_pauses_grow_and_end_growing():
    pauses = [failed_start.pause_s(tries) for tries in range(1, 20)]
    assert pauses == sorted(pauses)
    assert (pauses[0] < 0.5, pauses[-1]) == (True, failed_start.MAX_PAUSE_S)
