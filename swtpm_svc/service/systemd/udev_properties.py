"""What udev asks when a device of ours appears: which instance's file names it, and with which owner, group and mode.

    IMPORT{program}="/usr/libexec/vtpm/vtpm-udev-properties $kernel"
    IMPORT{program}="/usr/libexec/vtpm/vtpm-udev-properties --kernel-tpm $kernel"

It prints VTPM_INSTANCE=, VTPM_OWNER=, VTPM_GROUP= and VTPM_MODE=, or nothing and status 1 when no file names the
device. Owner and group are numbers: names from a directory can hold characters that mean something in udev's rules
(`CORP\\domain users`). One that does not exist is left out, and udev's log says so. With --kernel-tpm the name is that
of a TPM of the kernel (tpm0, tpmrm0), and only its instance is printed. udev waits for it, and it runs as root: it
starts nothing, writes nothing, and prints only numbers and names of instances, so no value holds a space, a quote, a
`$` or the end of a line.
"""

import os
import re
import sys
from typing import Optional

from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.config.schema import NAME_PATTERN
from swtpm_svc.errors import VtpmError
from swtpm_svc.service.kernel_tpm import kernel_tpm_record

_KERNEL_TPM = re.compile(r"tpm(?:rm)?([0-9]{1,5})")


def find(device_name: str, directory: str = loading.CONFIG_DIRECTORY) -> Optional[Config]:
    """The configuration whose device has this name; of several, the one whose instance has the same name, else the
    first by name.

    A file that is wrong names no device: its own service says what is wrong with it.
    """
    try:
        names = loading.instances(directory)
    except VtpmError:
        return None
    for instance in sorted(names, key=lambda name: name != device_name):
        try:
            candidate = loading.load(os.path.join(directory, f"{instance}.toml"), instance)
        except VtpmError:
            continue
        if candidate.device.name == device_name:
            return candidate
    return None


def find_kernel_tpm(device_name: str, run: str = kernel_tpm_record.RUNTIME_DIRECTORY) -> Optional[str]:
    """The instance whose TPM the kernel knows by this name."""
    match = _KERNEL_TPM.fullmatch(device_name)
    name = kernel_tpm_record.find(int(match[1]), run) if match else None
    return name if name is not None and NAME_PATTERN.fullmatch(name) else None


def properties(found: Config) -> str:
    device = found.device
    text = f"VTPM_INSTANCE={found.instance}\n"
    for name, look_up, account in (("OWNER", loading.user_id, device.owner), ("GROUP", loading.group_id, device.group)):
        try:
            text += f"VTPM_{name}={look_up(account)}\n"
        except VtpmError as error:
            sys.stderr.write(f"{found.path}: {error}\n")
    return f"{text}VTPM_MODE={device.mode:04o}\n"


def main(arguments: list[str], directory: str = loading.CONFIG_DIRECTORY) -> int:
    name, words = arguments[-1] if arguments else "", arguments[:-1]
    if not arguments or words not in ([], ["--kernel-tpm"]):
        sys.stderr.write("usage: vtpm-udev-properties [--kernel-tpm] KERNELNAME\n")
        return 64
    if words:
        instance = find_kernel_tpm(name)
        text = f"VTPM_INSTANCE={instance}\n" if instance else ""
    else:
        found = find(name, directory)
        text = properties(found) if found else ""
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0 if text else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
