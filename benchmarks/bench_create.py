"""How long a new TPM takes: `vtpmctl create` and the distribution's swtpm_setup, for the same work, interleaved.

Both make a TPM 2.0 with an RSA 2048 and an ECC P-384 endorsement key, the certificates of both and of the platform in
locked NV indices, and the PCR banks SHA-256 and SHA-384. The CA exists already, as it does for every TPM but the first.

The breakdown is that of the same command with a clock at the end of each step: the steps are all of its time, from the
start of the process to its end. The CA's thread works while the keys are made; what is left of it then is the wait for
the CA.
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
from swtpm_svc.cli.vtpmctl import create, entry
from swtpm_svc.cli.vtpmctl.host import Places
places, create.STATE, create.USER = Places(config=sys.argv[1]), sys.argv[2], "root"
del sys.argv[1:3]
sys.exit(entry.main(places=places))
"""
#: What ends each step: a function by where it is and its name, in the order in which they return; None: the program
#: does.
STEPS = {
    "start of Python": None,
    "imports": None,
    "arguments, configuration": ("swtpm_svc.state.newborn", "refuse_existing"),
    "power on, PCR banks": ("swtpm_svc.provision.manufacture", "_allocate"),
    "RSA 2048 EK": ("swtpm_svc.provision.ownership", "create_endorsement_key"),
    "ECC P-384 EK": ("swtpm_svc.provision.ownership", "create_endorsement_key"),
    "wait for the CA": ("swtpm_svc.provision.issuer:Issuer", "wait"),
    "certificates, NV": ("swtpm_svc.provision.factory", "make"),
    "to disk: state, configuration": ("swtpm_svc.state.newborn", "install"),
    "report": None,
    "end of Python": None,
}
KEYS = ("RSA 2048 EK", "ECC P-384 EK")
# the marks are printed as the report's last line
BREAKDOWN = f"""
import sys, time
marks = [time.time()]
sys.path += {PATHS!r}
from swtpm_svc.cli import command_line
from swtpm_svc.cli.vtpmctl import commands, create, entry, performing
from swtpm_svc.service import provisioning
from swtpm_svc.cli.vtpmctl.host import Places
marks.append(time.time())
left, computing = {[ends for ends in STEPS.values() if ends]!r}, 0.0
def clock(holder, name):
    module, _colon, inner = holder.partition(":")
    place = getattr(sys.modules[module], inner) if inner else sys.modules[module]
    call = getattr(place, name)
    def clocked(*words, **named):
        global computing
        begin = time.thread_time()
        result = call(*words, **named)
        if left and left[0] == (holder, name):
            del left[0]
            marks.append(time.time())
            computing += time.thread_time() - begin if name == "create_endorsement_key" else 0
        return result
    setattr(place, name, clocked)
for ends in dict.fromkeys(left):
    clock(*ends)
places, create.STATE, create.USER = Places(config=sys.argv[1]), sys.argv[2], "root"
del sys.argv[1:3]
status = entry.main(places=places)
print(computing, *marks, time.time())
sys.exit(status)
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
        file.write(
            f"create_certs_tool_config = {directory}/localca.conf\ncreate_certs_tool_options = {directory}/options\n"
        )


def milliseconds(values):
    return f"{statistics.median(values) * 1000:7.0f} ms (min {min(values) * 1000:.0f}, max {max(values) * 1000:.0f})"


def share(parts, wholes):
    return f"{statistics.median(part / whole for part, whole in zip(parts, wholes)):.0%}"


def main():
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    try:
        for name in ("etc", "lib", "ca", "peer"):
            os.mkdir(f"{directory}/{name}")
        configure_swtpm(f"{directory}/peer")
        platform = ["--platform-manufacturer", "Fedora", "--platform-model", "QEMU", "--platform-version", "2.1"]
        ours, theirs, steps, wholes, computing = [], [], [], [], []
        for run in range(RUNS + 1):
            create = [PYTHON, "-I", "-c", CREATE, f"{directory}/etc", f"{directory}/lib", "create", f"vm{run}"]
            state = f"{directory}/peer/vm{run}"
            os.mkdir(state)
            setup = [
                "swtpm_setup",
                "--tpm2",
                "--tpmstate",
                state,
                "--config",
                f"{directory}/peer/setup.conf",
                "--lock-nvram",
            ]
            setup += ["--create-ek-cert", "--create-platform-cert", "--pcr-banks", "sha256,sha384"]
            took, _output = seconds([*create, "--ca", f"{directory}/ca", *platform])
            other, _output = seconds(setup)
            clocked = [PYTHON, "-I", "-c", BREAKDOWN, *create[4:6], "create", f"steps{run}"]
            begin = time.time()
            whole, output = seconds([*clocked, "--ca", f"{directory}/ca", *platform])
            if run:  # the first one makes the CA
                ours.append(took)
                theirs.append(other)
                used, *moments = (float(word) for word in output.splitlines()[-1].split())
                moments = [begin, *moments, begin + whole]
                steps.append(dict(zip(STEPS, (after - before for before, after in zip(moments, moments[1:])))))
                wholes.append(whole)
                computing.append(used)
        for name in STEPS:
            print(f"  {name:32}{milliseconds([taken[name] for taken in steps])}")
        print(f"{'  all of them':34}{milliseconds(wholes)}")
        keys = [sum(taken[name] for name in KEYS) for taken in steps]
        print(f"{'  of these the keys':34}{milliseconds(keys)}, {share(keys, wholes)} of the time")
        print(f"{'  which are in libtpms':34}{milliseconds(computing)} of a processor, {share(computing, wholes)}")
        print(f"{'vtpmctl create':34}{milliseconds(ours)}")
        print(f"{'swtpm_setup':34}{milliseconds(theirs)}")
        print(f"ratio {statistics.median(ours) / statistics.median(theirs):.2f} (goal {GOAL})")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
