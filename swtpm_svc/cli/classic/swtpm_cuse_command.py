"""The commands swtpm_cuse, `swtpm cuse`, and cuse_tpm_server, the name of 2014: a TPM as a character device."""

import os
import sys

from swtpm_svc.cli.classic import SWTPM_VERSION, swtpm_run
from swtpm_svc.cli.classic.option_scanner import Found
from swtpm_svc.cli.classic.swtpm_options import CUSE_OPTIONS, CommandError, Given, c_number, read
from swtpm_svc.cli.classic.swtpm_output import complain, guarded, say
from swtpm_svc.errors import VtpmError
from swtpm_svc.service.classic import user
from swtpm_svc.service.classic.emulation import CUSE, Emulation
from swtpm_svc.service.classic.emulation_log import EmulationLog

#: Exit statuses (measured with swtpm_cuse 0.9 to 0.11; a shell shows -1 as 255).
NO_SUCH_USER, NOT_ROOT, BAD_LIST, NO_NAME, BAD_START = 251, 252, 253, 254, 255
_NUMBER_MAX = 65535


class Done(Exception):
    """What was asked for is done, with this exit status."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


def main() -> int:
    """The exit status of swtpm_cuse, or cuse_tpm_server."""
    program = sys.argv[0]
    return guarded(lambda: run(program, os.path.basename(program), sys.argv[1:]))


def run(usage: str, name: str, words: "list[str]") -> int:
    """`name` is the program's in messages of getopt."""
    log = EmulationLog()
    numbers: dict[str, int] = {}

    def act(found: Found) -> None:
        option, value = found.option.name, found.value or ""
        if option == "help":
            from swtpm_svc.cli.classic import swtpm_help

            say(swtpm_help.of_interface(CUSE, usage))
            raise Done()
        if option == "version":
            say(f"TPM emulator CUSE interface version {SWTPM_VERSION}, Copyright (c) 2014-2015 IBM Corp.\n")
            raise Done()
        if option in ("maj", "min"):
            numbers[option] = _device_number(value, {"maj": "major", "min": "minor"}[option])
        elif option == "print-info":
            number = c_number(value)
            if number is None or number < 0:
                raise CommandError(f"Cannot parse info value '{value}'.")
            numbers[option] = number

    try:
        given = read(CUSE_OPTIONS, words, act, lambda message: complain(f"{name}: {message}\n"))
        _become_root()
        swtpm_run.change_root(given)
        _check_user(given)
        log = swtpm_run.open_log(given)
        _print(given)
        if "print-info" in numbers:
            return swtpm_run.print_info(given, numbers["print-info"], log)
        emulation = _prepare(given, numbers, log)
    except Done as done:
        return done.status
    except CommandError as error:
        log.line(error.message)
        return error.status
    from swtpm_svc.service.classic import emulator

    os.chdir("/")
    return emulator.serve(emulation, log)


def _device_number(text: str, what: str) -> int:
    number = c_number(text)
    if number is None:
        raise CommandError(f"Could not parse {what} number", BAD_START)
    if not 0 <= number <= _NUMBER_MAX:
        raise CommandError(f"{what.capitalize()} number outside valid range [0 - {_NUMBER_MAX}]", BAD_START)
    return number


def _become_root() -> None:
    try:
        os.setuid(0)
    except OSError:
        who = f"uid = {os.getuid()}, euid = {os.geteuid()}"
        raise CommandError(f"Error: Unable to setuid root. {who}", NOT_ROOT) from None


def _check_user(given: Given) -> None:
    name = given.get("runas")
    if name is not None:
        try:
            user.find(name)
        except VtpmError as error:
            raise CommandError(error.message.rstrip("."), NO_SUCH_USER) from None


def _print(given: Given) -> None:
    if "print-capabilities" in given:
        swtpm_run.print_capabilities(CUSE, given)
    elif "print-states" in given:
        swtpm_run.print_states(given)
    elif "print-profiles" in given:
        swtpm_run.print_profiles(given)
    else:
        return
    raise Done()


def _prepare(given: Given, numbers: "dict[str, int]", log: EmulationLog) -> Emulation:
    """Raises: CommandError."""
    name = given.get("name")
    if not name:
        raise CommandError("Error: device name missing", NO_NAME)
    try:
        emulation = swtpm_run.common(given, CUSE, log)
    except CommandError as error:
        raise CommandError(error.message, BAD_LIST) from None
    state = emulation.config.state
    if not state.place:
        raise CommandError("Error: No TPM state directory is defined; TPM_PATH is not set", BAD_START)
    if not state.is_file:
        _make_directory(state.directory)
    device = emulation.config.device._replace(
        enabled=True, name=name, major=numbers.get("maj", 0), minor=numbers.get("min", 0)
    )
    runas = given.get("runas")
    if runas is not None:
        swtpm_run.import_all(given)
    return emulation._replace(
        config=emulation.config._replace(device=device), is_background=True, later_user=runas or ""
    )


def _make_directory(path: str) -> None:
    """swtpm_cuse makes the folder, one level of it."""
    try:
        os.mkdir(path, 0o775)
    except FileExistsError:
        pass
    except OSError:
        raise CommandError(f"Error: Could not open tpmstate dir {path}", BAD_START) from None
