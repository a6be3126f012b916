"""The command `swtpm`: its interfaces socket and chardev; cuse is swtpm_cuse under another name."""

import os
import sys

from swtpm_svc.cli.classic import SWTPM_VERSION, swtpm_run
from swtpm_svc.cli.classic.option_scanner import Found
from swtpm_svc.cli.classic.swtpm_options import (
    CHARDEV_OPTIONS,
    SOCKET_OPTIONS,
    BadWord,
    CommandError,
    Given,
    c_number,
    read,
)
from swtpm_svc.cli.classic.swtpm_output import complain, guarded, say
from swtpm_svc.service.classic.emulation import CHARDEV, SOCKET, Emulation
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.wire.hints import Callable, Optional

_INTERFACES = ("socket", "chardev", "cuse")


class Done(Exception):
    """What was asked for is done."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


def main() -> int:
    """The exit status of `swtpm WORDS`."""
    return guarded(_main)


def _main() -> int:
    program, words = sys.argv[0], sys.argv[1:]
    if not words:
        complain("Missing TPM interface type.\n")
        return 1
    first = words[0]
    if first in ("-v", "--version"):
        say(f"TPM emulator version {SWTPM_VERSION}, Copyright (c) 2014-2022 IBM Corp. and others\n")
        return 0
    if first in ("-h", "--help"):
        say(_general_help(program))
        return 0
    if first not in _INTERFACES:
        complain(f"Unsupported TPM interface type '{first}'.\n{_general_help(program)}")
        return 1
    if first == "cuse":
        from swtpm_svc.cli.classic import swtpm_cuse_command

        return swtpm_cuse_command.run(f"{program} cuse", first, words[1:])
    return run(f"{program} {first}", first, words[1:])


def _general_help(program: str) -> str:
    from swtpm_svc.cli.classic import swtpm_help

    return swtpm_help.GENERAL.format(program=program)


def run(usage: str, interface: str, words: "list[str]") -> int:
    """`swtpm socket` or `swtpm chardev`."""
    log = EmulationLog()
    acting = _Acting(interface, usage)
    options = SOCKET_OPTIONS if interface == SOCKET else CHARDEV_OPTIONS
    try:
        given = read(options, words, acting.act)
        swtpm_run.change_root(given)
        swtpm_run.change_user(given)
        log = swtpm_run.open_log(given)
        emulation = _prepare(interface, given, acting, log)
        if acting.info is not None:
            return swtpm_run.print_info(given, acting.info, log)
    except Done as done:
        return done.status
    except BadWord as problem:
        from swtpm_svc.cli.classic import swtpm_help

        complain(f"{interface}: {problem}\n{swtpm_help.of_interface(interface, usage)}")
        return 1
    except CommandError as error:
        log.line(error.message)
        return error.status
    from swtpm_svc.service.classic import emulator

    return emulator.serve(emulation, log)


class _Acting:
    """What options do while they are read, and what is kept of it."""

    def __init__(self, interface: str, usage: str) -> None:
        self.port: Optional[int] = None
        self.fd: Optional[int] = None
        #: The bits of --print-info.
        self.info: Optional[int] = None
        self._interface = interface
        self._usage = usage
        self._actions: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "port": self._port,
            "fd": self._fd,
            "print-info": self._info,
        }

    def act(self, found: Found) -> None:
        action = self._actions.get(found.option.name)
        if action is not None:
            action(found.value or "")

    def _help(self, _value: str) -> None:
        from swtpm_svc.cli.classic import swtpm_help

        say(swtpm_help.of_interface(self._interface, self._usage))
        raise Done()

    def _port(self, value: str) -> None:
        from swtpm_svc.cli.classic import swtpm_channels

        self.port = swtpm_channels.port(value)

    def _fd(self, value: str) -> None:
        from swtpm_svc.cli.classic import swtpm_channels

        number = swtpm_channels.descriptor(value)
        if self.fd is None or self._interface == SOCKET:
            self.fd = number

    def _info(self, value: str) -> None:
        number = c_number(value)
        if number is None or number < 0:
            raise CommandError(f"Cannot parse info value '{value}'.")
        self.info = number


def _prepare(interface: str, given: Given, acting: _Acting, log: EmulationLog) -> Emulation:
    """Look at the options in swtpm's order; what prints ends there. Raises: CommandError, Done."""
    if interface == SOCKET:
        if acting.fd is not None:
            _check_descriptor(acting.fd, f"--fd {acting.fd}", takes_devices=False)
        return _prepare_socket(given, acting, log)
    return _prepare_chardev(given, acting, log)


def _check_descriptor(fd: int, named: str, *, takes_devices: bool) -> None:
    from swtpm_svc.cli.classic import swtpm_channels

    swtpm_channels.check_descriptor(fd, named, takes_devices=takes_devices)


def _prepare_socket(given: Given, acting: _Acting, log: EmulationLog) -> Emulation:
    if "print-capabilities" in given:
        swtpm_run.print_capabilities(SOCKET, given)
        raise Done()
    from swtpm_svc.cli.classic import swtpm_channels
    from swtpm_svc.service.classic.emulation import Endpoint

    control_text, server_text = given.get("ctrl"), given.get("server")
    control = swtpm_channels.control(control_text) if control_text is not None else None
    data: Optional[swtpm_channels.DataChannel] = None
    if server_text is not None:
        data = swtpm_channels.server(server_text)
    elif acting.fd is not None:
        data = swtpm_channels.DataChannel(Endpoint(fd=acting.fd, is_connected=True), ends=True)
    elif acting.port is not None:
        data = swtpm_channels.tcp(acting.port)
    _print_states_or_profiles(given)
    return swtpm_run.common(given, SOCKET, log)._replace(
        control=control.endpoint if control else None,
        ends_with_control=control is not None and control.ends,
        data=data.endpoint if data else None,
        disconnects=data is not None and data.disconnects,
        ends_with_data="terminate" in given or (data is not None and data.ends),
        is_background="daemon" in given,
    )


def _print_states_or_profiles(given: Given) -> None:
    if "print-states" in given:
        swtpm_run.print_states(given)
        raise Done()
    if "print-profiles" in given:
        swtpm_run.print_profiles(given)
        raise Done()


def _prepare_chardev(given: Given, acting: _Acting, log: EmulationLog) -> Emulation:
    from swtpm_svc.cli.classic import swtpm_channels, swtpm_lists

    swtpm_lists.locality(given.get("locality"))
    if "print-capabilities" in given:
        swtpm_run.print_capabilities(CHARDEV, given)
        raise Done()
    _print_states_or_profiles(given)
    control_text = given.get("ctrl")
    control = swtpm_channels.control(control_text) if control_text is not None else None
    is_proxy, path = "vtpm-proxy" in given, given.get("chardev")
    emulation = swtpm_run.common(given, CHARDEV, log, is_started=is_proxy)
    return emulation._replace(
        control=control.endpoint if control else None,
        ends_with_control=control is not None and control.ends,
        character_device=-1 if acting.info is not None else _open_device(path, acting.fd, is_proxy=is_proxy),
        obeys_set_locality=emulation.obeys_set_locality or is_proxy,
        is_background="daemon" in given,
    )


def _open_device(path: Optional[str], fd: Optional[int], *, is_proxy: bool) -> int:
    if fd is not None:
        _check_descriptor(fd, f"--fd {fd}", takes_devices=True)
    if is_proxy and (fd is not None or path is not None):
        raise CommandError("Cannot use vTPM proxy with a provided device.")
    if is_proxy or fd is not None:
        return -1 if fd is None else fd
    if path is None:
        raise CommandError("Error: Missing character device or file descriptor")
    try:
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise CommandError(f"Cannot open {path}: {error.strerror}") from None
    _check_descriptor(device, f"--chardev {path}", takes_devices=True)
    return device
