"""How long `swtpm_ioctl -c` takes, from exec to its end: ours, the distribution's and the bare interpreter, in turns.

What is measured is an installed package with the system's Python; the TPM is the distribution's, at a UNIX socket and
by TCP.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from bench_start import ROOT, install

RUNS = int(os.environ.get("RUNS", "101"))
GOAL_RATIO = 1.5
QUIET = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


def timed_ms(words):
    begin = time.monotonic()
    pid = os.posix_spawn(words[0], words, {"PATH": os.environ["PATH"]}, file_actions=QUIET)
    _pid, status = os.waitpid(pid, 0)
    assert status == 0, words
    return (time.monotonic() - begin) * 1000


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start_tpm(directory, channel, name):
    """The distribution's swtpm with this control channel."""
    state = f"{directory}/{name}"
    os.mkdir(state)
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", channel]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(words):
    end = time.monotonic() + 20
    while subprocess.run(words, capture_output=True, check=False).returncode:
        assert time.monotonic() < end, "the TPM does not answer"
        time.sleep(0.02)


def compare(python, directory, where, name):
    ours, theirs = f"{directory}/installed/bin/swtpm_ioctl", shutil.which("swtpm_ioctl", path="/usr/bin")
    subjects = {
        "bare python3": [python, "-I", "-c", "pass"],
        "swtpm's": [theirs, *where, "-c"],
        "ours": [ours, *where, "-c"],
    }
    wait_for(subjects["swtpm's"])
    taken = {label: [] for label in subjects}
    for _run in range(RUNS):
        for label, words in subjects.items():
            taken[label].append(timed_ms(words))
    interpreter = statistics.median(taken["bare python3"])
    for label, times in taken.items():
        ratio = f", {statistics.median(times) / interpreter:.2f} x the bare interpreter" if "bare" not in label else ""
        goal = f" (goal {GOAL_RATIO})" if label == "ours" else ""
        figures = f"{statistics.median(times):6.1f} ms (min {min(times):.1f})"
        print(f"swtpm_ioctl {name} -c: {label:14} {figures}{ratio}{goal}")


def main():
    if shutil.which("swtpm") is None or not os.path.exists("/usr/bin/swtpm_ioctl"):
        sys.exit("bench_control_tool.py: there is no swtpm to compare with\n  remedy: tools/need.sh test")
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    tpms = []
    try:
        python = install(f"{directory}/installed")
        command = [python, f"{ROOT}/tools/install_package.py", "--classic-only", f"{directory}/installed"]
        subprocess.run(command, check=True)
        path, port = f"{directory}/control", free_port()
        tpms = [start_tpm(directory, f"type=unixio,path={path}", "unix")]
        tpms.append(start_tpm(directory, f"type=tcp,port={port}", "tcp"))
        compare(python, directory, ["--unix", path], "--unix")
        compare(python, directory, ["--tcp", f":{port}"], "--tcp")
    finally:
        for tpm in tpms:
            tpm.terminate()
            tpm.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
