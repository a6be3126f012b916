"""What the certificates of a new TPM cost: the breakdown, and the distribution's tool for the same work beside it.

The CA exists already, as it does for every TPM but the first. Times are of one process: what it imports, loading the CA
from its files with all checks of the chain, and the EK and platform certificates of a TPM 2.0. swtpm_localca is a
process for each certificate, and the time is that of both.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 11
PYTHON = os.path.realpath(sys.executable)
PATHS = [
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    next(path for path in sys.path if path.endswith("site-packages")),
]
STEPS = ("import cryptography", "load the CA", "EK certificate", "platform certificate")
PROGRAM = f"""
import sys
from time import perf_counter as now
sys.path += {PATHS!r}
times = [now()]
from swtpm_svc.provision import ca, certificates
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives.asymmetric import rsa
default_backend()  # some versions import half of themselves at the first key
times.append(now())
authority = ca.obtain(sys.argv[1])
times.append(now())
tpm = certificates.TpmFacts("id:00001014", "swtpm", "id:20191023", "2.0", 0, 164)
platform = certificates.PlatformFacts("Fedora", "QEMU", "2.1")
key = rsa.RSAPublicNumbers(65537, int(sys.argv[2], 16)).public_key()
certificates.ek_certificate(authority, key, tpm)
times.append(now())
certificates.platform_certificate(authority, key, tpm, platform)
times.append(now())
print(*(after - before for before, after in zip(times, times[1:])))
"""


def seconds(command):
    """(how long it took, what it printed)."""
    begin = time.monotonic()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return time.monotonic() - begin, output


def localca(directory, kind, modulus):
    facts = (
        "--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 164 --tpm-manufacturer id:00001014 "
        "--tpm-model swtpm"
    )
    places = ["--dir", directory, "--optsfile", f"{directory}/options", "--configfile", f"{directory}/conf"]
    return [
        "swtpm_localca",
        "--type",
        kind,
        "--ek",
        modulus,
        "--vmid",
        "vm",
        *places,
        *facts.split(),
        "--tpm-version",
        "id:20191023",
        "--tpm2",
    ]


def milliseconds(values):
    return f"{statistics.median(values) * 1000:8.2f} ms (min {min(values) * 1000:.2f})"


def main():
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    try:
        with open(f"{directory}/options", "w", encoding="ascii") as file:
            file.write("--platform-manufacturer Fedora\n--platform-version 2.1\n--platform-model QEMU\n")
        with open(f"{directory}/conf", "w", encoding="ascii") as file:
            file.write(f"statedir = {directory}\n")
            file.writelines(f"{name} = {directory}/{name}\n" for name in ("signingkey", "issuercert", "certserial"))
        text = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True).stdout
        modulus = subprocess.run(
            ["openssl", "rsa", "-noout", "-modulus"], input=text, check=True, capture_output=True
        ).stdout
        modulus = modulus.decode().strip().partition("=")[2]
        ours = [PYTHON, "-I", "-c", PROGRAM, f"{directory}/ca", modulus]
        theirs = [[*localca(directory, "ek", modulus), "--decryption"], localca(directory, "platform", modulus)]
        steps, wall, peer = [], [], []
        for run in range(RUNS + 1):
            took, output = seconds(ours)
            other = sum(seconds(command)[0] for command in theirs)
            if run:  # the first one makes the CA
                steps.append([float(word) for word in output.split()])
                wall.append(took)
                peer.append(other)
        for name, values in zip(STEPS, zip(*steps)):
            print(f"{name:22}{milliseconds(values)}")
        print(f"{'whole process':22}{milliseconds(wall)}")
        print(f"{'swtpm_localca, twice':22}{milliseconds(peer)}")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
