"""Where a classic command says what it has to."""

import os

from swtpm_svc.service.classic.emulation_log import EmulationLog


def test_a_log_that_cannot_be_written_stops_nothing():
    """/dev/full is a full disk: the TPM goes on, and so does the log when there is room."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        EmulationLog(fd).line("Data client disconnected")
    finally:
        os.close(fd)
    EmulationLog(fd).line("its descriptor is closed")


def test_a_line_by_its_indentation(tmp_path):
    """One blank less than the level is said, as many are not; without a descriptor nothing is."""
    with open(tmp_path / "log", "w+b", buffering=0) as file:
        log = EmulationLog(file.fileno(), level=2, prefix="name: ")
        for text in ("said", " said, too", "  not said"):
            log.line(text)
        EmulationLog(None, level=20).line("to nobody")
        assert (tmp_path / "log").read_text() == "name: said\nname:  said, too\n"
