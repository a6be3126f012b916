"""How long a start takes, from exec to the first answer, and how much memory an idle daemon has for itself.

What is measured is an installed package, started by its launcher as the unit does it, with the system's Python; beside
it the distribution's swtpm and the bare interpreter, in turns, so that whatever else the machine does meets all of
them. The TPMs exist already, as after a reboot, and are sent TPM_Startup as they are configured. A client asks for
random bytes on a UNIX socket as soon as it can connect. A SOCK_SEQPACKET pair stands for the /dev/cuse that systemd
keeps: the time is that of the process, and the kernel's and udev's part of making a node is not in it. The unique set
size is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup (proc(5)).
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from swtpm_svc.continuity.parking import Park

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNS = int(os.environ.get("RUNS", "31"))
SYSTEM_PYTHON = "/usr/bin/python3"
GOAL_RATIO, GOAL_MIB = 2.5, 12
#: TPM2_GetRandom and TPM_GetRandom of 8 bytes.
GET_RANDOM = {"2.0": "80010000000c0000017b0008", "1.2": "00c10000000e0000004600000008"}


def install(directory):
    """The package in an environment of its own, in which the system's packages are; the path of its interpreter."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", directory], check=True)
    python = f"{directory}/bin/python"
    done = subprocess.run(
        [python, f"{ROOT}/tools/install_package.py", "--classic", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(
            f"{done.stdout}{done.stderr}bench_start.py: the package cannot be installed\n  remedy: tools/need.sh "
            "install"
        )
    return python


def spawn(words, log, fds=(), **variables):
    """Start a program with these descriptors from 3 on, as systemd passes them: (its process id, when)."""
    begin = time.monotonic()
    pid = os.fork()
    if not pid:
        moved = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
        for index, fd in enumerate(moved):
            os.dup2(fd, 3 + index)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(100, 110)
        os.execve(words[0], words, {"PATH": os.environ["PATH"], "LISTEN_PID": str(os.getpid()), **variables})
    return pid, begin


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def first_answer(path, version, pid):
    """When the TPM behind the socket has answered."""
    command = bytes.fromhex(GET_RANDOM[version])
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
            except OSError:
                assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it has ended"
                time.sleep(0.0002)
                continue
            client.settimeout(20)
            client.sendall(command)
            response = client.recv(4096)
            assert response[6:10] == bytes(4), response.hex()
            return time.monotonic()


class Bare:
    label = "bare python3"

    def __init__(self, python, log):
        self._words, self._log = [python, "-IB", "-c", "pass"], log

    def once(self):
        pid, begin = spawn(self._words, self._log)
        os.waitpid(pid, 0)
        return time.monotonic() - begin


class Swtpm:
    """The distribution's, or ours of that name."""

    def __init__(self, name, program, version, directory, log):
        self.label, self._version, self._log = f"{name}, TPM {version}", version, log
        self._path = f"{directory}/{name}-{version}.sock"
        state = f"{directory}/{name}-{version}"
        os.mkdir(state)
        self._words = [
            *program,
            "socket",
            *(["--tpm2"] if version == "2.0" else []),
            "--tpmstate",
            f"dir={state}",
        ]
        self._words += ["--server", f"type=unixio,path={self._path}", "--flags", "not-need-init,startup-clear"]

    def once(self):
        pid, begin = spawn(self._words, self._log)
        try:
            return first_answer(self._path, self._version, pid) - begin
        finally:
            end(pid)


class Ours:
    def __init__(self, python, version, directory, log):
        self.label, self._version, self._log = f"vtpmd, TPM {version}", version, log
        self._path = f"{directory}/vtpmd-{version}.sock"
        state, config = f"{directory}/vtpmd-{version}", f"{directory}/bench.{version}.toml"
        os.mkdir(state)
        with open(config, "w", encoding="ascii") as file:
            file.write(
                f'[tpm]\nversion = "{version}"\nstartup = "clear"\n[state]\ndirectory = "{state}"\n'
                f'[socket]\ncontrol = "{self._path}.ctrl"\ndata = "{self._path}"\n'
                '[device]\nname = "bench"\nowner = "root"\ngroup = "root"\n[control]\ngroup = "root"\n'
            )
        self._words = [
            python,
            "-IB",
            f"{ROOT}/packaging/libexec/vtpmd",
            "--config",
            config,
            "--foreground",
            "--user",
            "root",
        ]
        self._directory = directory
        self.sizes_mib = []

    def once(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        park = Park.create("bench")
        with ours, theirs:
            ours.setblocking(False)
            variables = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "cuse-live:journal", "RUNTIME_DIRECTORY": self._directory}
            pid, begin = spawn(self._words, self._log, (ours.fileno(), park.fd), **variables)
            try:
                took = first_answer(self._path, self._version, pid) - begin
                time.sleep(0.05)
                self.sizes_mib.append(unique_set_mib(pid))
            finally:
                end(pid)
                park.close()
        return took


def unique_set_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        kib = [int(line.split()[1]) for line in file if line.startswith(("Private_Clean", "Private_Dirty"))]
    return sum(kib) / 1024


def main():
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    log_path = f"{directory}/log"
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        python = install(f"{directory}/installed")
        bare, ours = Bare(python, log), [Ours(python, version, directory, log) for version in ("2.0", "1.2")]
        program = shutil.which("swtpm")
        theirs = [Swtpm("swtpm", [program], version, directory, log) for version in ("2.0", "1.2")] if program else []
        launcher = [python, "-ISB", f"{directory}/installed/bin/swtpm"]  # as its first line has it
        theirs += [Swtpm("our swtpm", launcher, version, directory, log) for version in ("2.0", "1.2")]
        times = {subject: [] for subject in (bare, *theirs, *ours)}
        for run in range(RUNS + 1):
            for subject, taken in times.items():
                took = subject.once()
                if run:  # the first one makes the TPM
                    taken.append(took * 1000)
        interpreter = statistics.median(times[bare])
        for subject, taken in times.items():
            more = (
                f", {statistics.median(taken) / interpreter:.1f} x the bare interpreter" if subject is not bare else ""
            )
            more += (
                f" (goal {GOAL_RATIO}); unique set {statistics.median(subject.sizes_mib):.1f} MiB (goal {GOAL_MIB})"
                if subject in ours
                else ""
            )
            figures = f"{statistics.median(taken):6.1f} ms (min {min(taken):.1f})"
            print(f"{subject.label:18} from exec to the first answer {figures}{more}")
    except BaseException:
        with open(log_path, encoding="utf-8", errors="replace") as file:
            sys.stderr.write("".join(file.readlines()[-20:]))
        raise
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
