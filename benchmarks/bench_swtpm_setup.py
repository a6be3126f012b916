"""How long swtpm_setup takes: ours and the distribution's, the same words and the same CA, interleaved.

A TPM 2.0 with two endorsement keys, their certificates and the platform's in locked NV indices, and the same for a TPM
1.2. Ours is run as an installed command: the system's Python in isolated mode.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 11
GOAL = 0.5
THEIRS = "/usr/bin/swtpm_setup"
PATHS = [
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    next(path for path in sys.path if path.endswith("site-packages")),
]
OURS = f"import sys; sys.path += {PATHS!r}; from swtpm_svc.start import swtpm_setup; sys.exit(swtpm_setup())"
WORDS = {
    "TPM 2.0": ["--tpm2", "--create-ek-cert", "--create-platform-cert", "--lock-nvram"],
    "TPM 1.2": ["--create-ek-cert", "--create-platform-cert", "--lock-nvram"],
}


def once(program: "list[str]", folder: str, words: "list[str]") -> float:
    state = os.path.join(folder, "state")
    os.mkdir(state)
    begin = time.perf_counter()
    subprocess.run(
        [*program, "--tpm-state", state, *words],
        env={**os.environ, "XDG_CONFIG_HOME": folder},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    took = time.perf_counter() - begin
    shutil.rmtree(state)
    return took


def main() -> int:
    if shutil.which(THEIRS) is None:
        print(f"swtpm_setup: {THEIRS} is not here, nothing to compare with")
        return 0
    programs = {"swtpm's": [THEIRS], "ours": [os.path.realpath(sys.executable), "-I", "-c", OURS]}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [THEIRS, "--create-config-files", "root"],
            env={**os.environ, "XDG_CONFIG_HOME": folder},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        for version, words in WORDS.items():
            times: dict[str, list[float]] = {name: [] for name in programs}
            for number in range(RUNS + 1):
                for name, program in programs.items():
                    took = once(program, folder, words)
                    if number:  # the first run makes the CA, and reads files from the disk
                        times[name].append(took)
            theirs, ours = (statistics.median(times[name]) for name in ("swtpm's", "ours"))
            print(
                f"swtpm_setup, {version}: ours {ours * 1e3:.0f} ms, swtpm's {theirs * 1e3:.0f} ms, ratio "
                f"{ours / theirs:.2f} (goal {GOAL})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
