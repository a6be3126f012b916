"""How long a new TPM takes: `vtpmctl create` and the distribution's swtpm_setup, for the same work, interleaved.

Both make a TPM 2.0 with an RSA 2048 and an ECC P-384 endorsement key, the certificates of both and of the platform in locked
NV indices, and the PCR banks SHA-256 and SHA-384. The CA exists already, as it does for every TPM but the first. The breakdown
is that of a process of its own, with the same work; what the CA's thread does meanwhile is within the times of the keys.
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
PYTHON = os.path.realpath(sys.executable)
PATHS = [
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    next(path for path in sys.path if path.endswith("site-packages")),
]
# as the installed command: the system's Python in isolated mode, without the hooks of an editable installation
CREATE = f"""
import sys
sys.path += {PATHS!r}
from swtpm_svc.cli import create, vtpmctl
from swtpm_svc.service import config
config.CONFIG_DIRECTORY, create.STATE, create.USER = sys.argv[1], sys.argv[2], "root"
del sys.argv[1:3]
sys.exit(vtpmctl.main())
"""
STEPS = (
    "Python",
    "imports",
    "power on",
    "banks",
    "RSA 2048 EK",
    "ECC P-384 EK",
    "wait for the CA",
    "certificates, NV",
    "state to disk",
)
BREAKDOWN = f"""
import gc, sys, time
gc.disable()
times = [time.time()]
sys.path += {PATHS!r}
from swtpm_svc.cli import create, vtpmctl, parser
from swtpm_svc.service import provisioning
from swtpm_svc.provision import factory, manufacture, ownership
from swtpm_svc.provision.issuer import Issuer
from swtpm_svc.provision.manufacture import Order
from swtpm_svc.state.newborn import Owner, Place, install
times.append(time.time())
def mark(module, name):
    call = getattr(module, name)
    def marked(*words, **named):
        result = call(*words, **named)
        times.append(time.time())
        return result
    setattr(module, name, marked)
mark(manufacture, "_allocate")
mark(ownership, "create_endorsement_key")
issuer = Issuer(sys.argv[1], ("Fedora", "QEMU", "2.1", ""))
certify = manufacture._certify
def certified(*words):
    issuer.wait()
    times.append(time.time())
    return certify(*words)
manufacture._certify = certified
work = factory._work
def started(*words):
    times.append(time.time())
    return work(*words)
factory._work = started
product = factory.make("2.0", Order(("rsa2048", "ecc-p384"), ("sha256", "sha384"), "none", False, False), issuer)
times.append(time.time())
install(Place(sys.argv[2], sys.argv[3], Owner(0, 0)), "2.0", product.state, None, lambda: None)
times.append(time.time())
print(*times)
"""


def seconds(command):
    """(how long it took, what it printed)."""
    begin = time.monotonic()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return time.monotonic() - begin, output


def configure_swtpm(directory):
    with open(f"{directory}/options", "w", encoding="ascii") as file:
        file.write("--platform-manufacturer Fedora\n--platform-version 2.1\n--platform-model QEMU\n")
    with open(f"{directory}/localca.conf", "w", encoding="ascii") as file:
        file.write(f"statedir = {directory}\n")
        file.writelines(f"{name} = {directory}/{name}\n" for name in ("signingkey", "issuercert", "certserial"))
    with open(f"{directory}/setup.conf", "w", encoding="ascii") as file:
        file.write(f"create_certs_tool = {shutil.which('swtpm_localca')}\n")
        file.write(f"create_certs_tool_config = {directory}/localca.conf\ncreate_certs_tool_options = {directory}/options\n")


def milliseconds(values):
    return f"{statistics.median(values) * 1000:7.0f} ms (min {min(values) * 1000:.0f}, max {max(values) * 1000:.0f})"


def main():
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    try:
        for name in ("etc", "lib", "ca", "peer"):
            os.mkdir(f"{directory}/{name}")
        configure_swtpm(f"{directory}/peer")
        platform = ["--platform-manufacturer", "Fedora", "--platform-model", "QEMU", "--platform-version", "2.1"]
        ours, theirs, steps = [], [], []
        for run in range(RUNS + 1):
            create = [PYTHON, "-I", "-c", CREATE, f"{directory}/etc", f"{directory}/lib", "create", f"vm{run}"]
            state = f"{directory}/peer/vm{run}"
            os.mkdir(state)
            setup = ["swtpm_setup", "--tpm2", "--tpmstate", state, "--config", f"{directory}/peer/setup.conf", "--lock-nvram"]
            setup += ["--create-ek-cert", "--create-platform-cert", "--pcr-banks", "sha256,sha384"]
            took, _output = seconds([*create, "--ca", f"{directory}/ca", *platform])
            other, _output = seconds(setup)
            begin = time.time()
            _took, output = seconds([PYTHON, "-I", "-c", BREAKDOWN, f"{directory}/ca", f"{directory}/lib", f"steps{run}"])
            if run:  # the first one makes the CA
                ours.append(took)
                theirs.append(other)
                moments = [begin, *(float(word) for word in output.split())]
                steps.append([after - before for before, after in zip(moments, moments[1:])])
        for name, values in zip(STEPS, zip(*steps)):
            print(f"  {name:20}{milliseconds(values)}")
        print(f"{'vtpmctl create':22}{milliseconds(ours)}")
        print(f"{'swtpm_setup':22}{milliseconds(theirs)}")
        print(f"ratio {statistics.median(ours) / statistics.median(theirs):.2f} (goal {GOAL})")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
