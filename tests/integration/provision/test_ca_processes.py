"""The local CA under real processes: many at the same moment make one, and no kill leaves half of one."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from swtpm_svc.provision import ca

ROUNDS = 30
KILLS = 100
PROCESSES = 4


def fork(work: Callable[[], object]) -> int:
    """A process that does the work and ends with status 0, or 1 after any error."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)
    raise AssertionError


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fingerprint(authority: ca.Authority) -> bytes:
    return ca.pem(authority.certificate)


def obtain_when_told(place: str, ends: "tuple[int, int]", answer: Path) -> None:
    os.close(ends[1])
    os.read(ends[0], 1)  # the pipe's end, which comes to all of them at the same moment
    answer.write_bytes(fingerprint(ca.obtain(place)))


def test_processes_at_the_same_moment_make_one_ca(tmp_path: Path):
    answers = [tmp_path / f"answer{index}" for index in range(PROCESSES)]
    for number in range(ROUNDS):
        place, ends = str(tmp_path / f"ca{number}"), os.pipe()
        pids = [fork(partial(obtain_when_told, place, ends, answer)) for answer in answers]
        for end in ends:
            os.close(end)
        assert [status_of(pid) for pid in pids] == [0] * PROCESSES
        assert {answer.read_bytes() for answer in answers} == {fingerprint(ca.load(place))}
        assert sorted(os.listdir(place)) == [".lock", "current"]


def test_two_commands_at_the_same_moment_make_one_ca(tmp_path: Path):
    """The whole program, as two administrators or two first starts would run it."""
    command = [
        sys.executable,
        "-m",
        "swtpm_svc.cli.vtpmctl.entry",
        "ca",
        "create",
        "--json",
        "--ca",
        str(tmp_path / "ca"),
    ]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {run.communicate(timeout=60)[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(outputs) == 1


def duration(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def test_a_kill_during_creation_leaves_no_ca_or_a_whole_one(tmp_path: Path):
    took = max(duration(partial(ca.obtain, str(tmp_path / f"warm{number}"))) for number in range(3))
    seen = {"none": 0, "whole": 0}
    for number in range(KILLS):
        place = str(tmp_path / f"ca{number}")
        pid = fork(partial(ca.obtain, place))
        time.sleep(random.uniform(0, 1.5 * took))
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        chain = os.path.join(place, "current", ca.CHAIN)
        before = Path(chain).read_bytes() if os.path.exists(chain) else None
        seen["whole" if before else "none"] += 1
        after = ca.obtain(place)
        assert before is None or before == b"".join(ca.pem(found) for found in after.chain)
        assert sorted(os.listdir(place)) == [".lock", "current"]
    assert min(seen.values()) > 0, seen  # or the kills were all too early, or all too late


def test_a_kill_during_an_import_leaves_the_old_ca_or_the_new_one(tmp_path: Path):
    for name in ("old", "new"):
        ca.obtain(str(tmp_path / name))
    old, new = (
        {name: (tmp_path / which / "current" / name).read_bytes() for name in (ca.CHAIN, ca.ISSUER_KEY)}
        for which in ("old", "new")
    )

    def replace(place: str, files: "dict[str, bytes]") -> None:
        ca.import_issuer(files[ca.CHAIN], key=files[ca.ISSUER_KEY], directory=place, force=True)

    took = max(duration(partial(replace, str(tmp_path / f"warm{number}"), old)) for number in range(3))
    seen = {old[ca.CHAIN]: 0, new[ca.CHAIN]: 0}
    for number in range(KILLS // 2):
        place = str(tmp_path / f"ca{number}")
        replace(place, old)
        pid = fork(partial(replace, place, new))
        time.sleep(random.uniform(0, 1.5 * took))
        os.kill(pid, signal.SIGKILL)
        status_of(pid)
        seen[b"".join(ca.pem(found) for found in ca.obtain(place).chain)] += 1
    assert min(seen.values()) > 0, list(seen.values())


@pytest.mark.needs("strace")
def test_a_kill_at_each_change_of_a_directory_leaves_no_ca_or_a_whole_one(tmp_path: Path):
    """Not at random: strace kills the process as it makes, syncs or renames something, once for each such call."""
    program = (
        f"import sys; sys.path.insert(0, {os.getcwd()!r}); from swtpm_svc.provision import ca; ca.obtain(sys.argv[1])"
    )
    outcomes = []
    for call in ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "fsync", "flock"):
        for number in range(1, 20):
            place = str(tmp_path / f"{call}{number}")
            command = [
                "strace",
                "-o",
                "/dev/null",
                "-e",
                f"inject={call}:signal=KILL:when={number}",
                sys.executable,
                "-B",
                "-c",
                program,
            ]
            done = subprocess.run([*command, place], stderr=subprocess.DEVNULL, check=False)
            whole = os.path.exists(os.path.join(place, "current"))
            before = ca.load(place).chain if whole else None
            assert before in (None, ca.obtain(place).chain)
            if done.returncode == 0:
                break  # there are no more such calls
            outcomes.append(whole)
    assert set(outcomes) == {False, True}
    assert len(outcomes) >= 9, "two directories, two renames, five syncs and more"
