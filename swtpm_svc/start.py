"""Where the commands begin: what an interrupt finds while all else is yet to be imported.

Python's own handler would raise KeyboardInterrupt in the midst of an import, which ends in a traceback. The system's
default is a quiet end; a command that can end in order takes over when it is there. What the interpreter does before
(site, .pth files) is out of reach.
"""

import _signal  # type: ignore[import-not-found]  # signal itself imports enum, which takes longer than all of this
import gc
import os
import sys

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else whoever started us wants it ignored
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def vtpmctl() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.vtpmctl.entry import main

    return main()


def vtpmd() -> int:
    """The daemon; its exit status."""
    from swtpm_svc.service.vtpmd import main

    return main()


def swtpm() -> int:
    """The classic command of that name; its exit status."""
    _begin()
    gc.disable()  # until it is ready, as the daemon
    from swtpm_svc.cli.classic.swtpm_command import main

    return main()


def swtpm_cuse() -> int:
    """The classic command of that name, and cuse_tpm_server; its exit status."""
    _begin()
    gc.disable()
    from swtpm_svc.cli.classic.swtpm_cuse_command import main

    return main()


# The classic commands: packaging/classic-commands.ini names them.


def swtpm_ioctl() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.classic.swtpm_ioctl import main

    return main(sys.argv[1:], _program())


def swtpm_bios() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.classic.swtpm_bios import main

    return main(sys.argv[1:], _program())


def createek() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.classic.owner_tools import main

    return main("createek", sys.argv[1:])


def getpubek() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.classic.owner_tools import main

    return main("getpubek", sys.argv[1:])


def takeown() -> int:
    """The command of that name; its exit status."""
    from swtpm_svc.cli.classic.owner_tools import main

    return main("takeown", sys.argv[1:])


def _program() -> str:
    """As whom a command speaks: it may have several names."""
    return sys.argv[0].rpartition("/")[2]


def swtpm_cert() -> int:
    """The classic command of that name; its exit status."""
    _begin()
    from swtpm_svc.cli.classic.swtpm_cert import main

    return main()


def swtpm_localca() -> int:
    """The classic command of that name; its exit status."""
    _begin()
    from swtpm_svc.cli.classic.swtpm_localca import main

    return main()


def swtpm_setup() -> int:
    """The classic command of that name; its exit status."""
    _begin()
    from swtpm_svc.cli.classic.swtpm_setup import main

    return main()


def swtpm_create_user_config_files() -> int:
    """The classic command swtpm-create-user-config-files; its exit status."""
    _open_standard_streams()
    from swtpm_svc.cli.classic.config_files import main

    return main()


def _begin() -> None:
    """What comes first in a command that has keys in its memory and writes files."""
    _open_standard_streams()
    _leave_no_core()


def _leave_no_core() -> None:
    """A crash leaves no file with the keys that are in memory. The service has this, and more, from its unit.

    1, not 0: the kernel then asks no program that takes such files either (fs/coredump.c). Who looks for a fault can
    raise it, prlimit(1).
    """
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard:
        resource.setrlimit(resource.RLIMIT_CORE, (1, hard))


def _open_standard_streams() -> None:
    """What the caller closed leads nowhere: else a file that is opened would get its number, and what is meant for a
    person would be written into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
