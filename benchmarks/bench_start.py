"""How long a start takes until READY, and how much memory an idle daemon has for itself.

The TPM exists already, as after a reboot. A SOCK_SEQPACKET pair stands for the /dev/cuse that systemd keeps, so the time
is that of the process: Python, imports, configuration, state, libtpms, sd_notify; the kernel's and udev's part of making
a node is not in it. The unique set size is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup (proc(5)).
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from swtpm_svc.service.parking import Park

RUNS = 21
PYTHON = os.path.realpath(sys.executable)
PATHS = [
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    next(path for path in sys.path if path.endswith("site-packages")),
]
GOAL_MS, GOAL_MIB = 100, 12


def start(directory, config):
    """Start a daemon: (its process, seconds to READY, what must stay open for it)."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = f"{directory}/notify"
    if os.path.exists(path):
        os.unlink(path)
    notify.bind(path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    park = Park.create("bench")
    environment = dict(
        os.environ, NOTIFY_SOCKET=path, LISTEN_FDS="2", LISTEN_FDNAMES="cuse-live:journal", RUNTIME_DIRECTORY=directory
    )
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # as the unit's launcher: the system's Python in isolated mode, without the hooks of an editable installation
    arguments = ["--config", config, "--foreground", "--user", "root"]
    code = (
        f"import os, sys; sys.path += {PATHS!r}; sys.argv[1:] = {arguments!r}; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "from swtpm_svc.service.main import main; sys.exit(main())"
    )

    def arrange():
        fds = [os.dup(ours.fileno()), os.dup(park.fd)]
        moved = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
        for index, fd in enumerate(moved):
            os.dup2(fd, 3 + index)

    begin = time.monotonic()
    process = subprocess.Popen([PYTHON, "-I", "-c", code], env=environment, preexec_fn=arrange, close_fds=False, stderr=None)
    notify.settimeout(10)
    while b"READY=1" not in notify.recv(4096):
        pass
    return process, time.monotonic() - begin, (ours, theirs, park, notify)


def bare_python():
    begin = time.monotonic()
    subprocess.run([PYTHON, "-I", "-c", "pass"], check=True)
    return time.monotonic() - begin


def unique_set_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        kib = [int(line.split()[1]) for line in file if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(kib) / 1024


def main():
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    try:
        for version in ("2.0", "1.2"):
            state = f"{directory}/state-{version}"
            os.mkdir(state)
            config = f"{directory}/bench.toml"
            with open(config, "w", encoding="ascii") as file:
                file.write(
                    f'[tpm]\nversion = "{version}"\n[state]\ndirectory = "{state}"\n[device]\nowner = "root"\ngroup = "root"\n'
                )
            starts, bare, sizes = [], [], []
            for run in range(RUNS + 1):
                process, took, _kept = start(directory, config)
                if run:  # the first one makes the TPM, and the byte code
                    starts.append(took)
                    bare.append(bare_python())
                    time.sleep(0.05)
                    sizes.append(unique_set_mib(process.pid))
                process.kill()
                process.wait()
            print(
                f"TPM {version}: start to READY {statistics.median(starts) * 1000:.0f} ms (min {min(starts) * 1000:.0f}; "
                f"bare python3 {statistics.median(bare) * 1000:.0f}; goal {GOAL_MS}), "
                f"unique set {statistics.median(sizes):.1f} MiB (goal {GOAL_MIB})"
            )
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
