"""The command `vtpmd`: what it does before the daemon is imported, and how an error ends it."""

import gc
import sys

from swtpm_svc import __version__
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.options import HELP, parse
from swtpm_svc.wire.small_tools import signal


def main() -> int:
    arguments = sys.argv[1:]
    if "--help" in arguments or "-h" in arguments:
        print(HELP, end="")
        return 0
    if "--version" in arguments:
        print(f"vtpmd {__version__}")
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop takes it: an end, not a KeyboardInterrupt
    try:
        options = parse(arguments)
    except VtpmError as error:
        print(error.report("vtpmd"), file=sys.stderr)
        return error.fault.exit_status
    gc.disable()  # until READY: next to nothing of what imports make is garbage, and looking for it takes a tenth
    try:
        from swtpm_svc.service.daemon import serve_instance
    except (ImportError, PermissionError) as error:  # IMA refuses a module with the latter
        missing = VtpmError(
            Code.INSTALLATION,
            f"a part of the program cannot be loaded: {error}",
            remedy="install libtpms and the Python packages cffi and systemd-python, for this Python; or reinstall; "
            "where IMA appraises files, vtpmctl doctor --ima says more",
        )
        print(missing.report("vtpmd"), file=sys.stderr)
        return missing.fault.exit_status
    return serve_instance(options)


if __name__ == "__main__":
    sys.exit(main())
