"""What udev asks when a device of ours appears: which instance's file names it, and with which owner, group and mode.

    IMPORT{program}="/usr/libexec/vtpm/vtpm-udev-properties %k"

It prints VTPM_INSTANCE=, VTPM_OWNER=, VTPM_GROUP= and VTPM_MODE=, or nothing and status 1 when no file names the
device. udev waits for it, and it runs as root: it starts nothing, writes nothing, and every value that it prints has
passed the configuration's patterns, so none holds a space, a quote, a `$` or the end of a line.
"""

import os
import sys
from typing import Optional

from swtpm_svc.errors import VtpmError
from swtpm_svc.service import config
from swtpm_svc.service.config import Config


def find(device_name: str, directory: str = config.CONFIG_DIRECTORY) -> Optional[Config]:
    """The configuration whose device has this name; of several, the one whose instance has it too, then the first by name.

    A file that is wrong names no device: its own service says what is wrong with it.
    """
    try:
        names = config.instances(directory)
    except VtpmError:
        return None
    for instance in sorted(names, key=lambda name: name != device_name):
        try:
            candidate = config.load(os.path.join(directory, f"{instance}.toml"), instance)
        except VtpmError:
            continue
        if candidate.device.name == device_name:
            return candidate
    return None


def properties(found: Config) -> str:
    device = found.device
    return f"VTPM_INSTANCE={found.instance}\nVTPM_OWNER={device.owner}\nVTPM_GROUP={device.group}\nVTPM_MODE={device.mode:04o}\n"


def main(arguments: list[str], directory: str = config.CONFIG_DIRECTORY) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: vtpm-udev-properties KERNELNAME\n")
        return 64
    found = find(arguments[0], directory)
    if found is None:
        return 1
    sys.stdout.write(properties(found))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
