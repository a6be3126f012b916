"""swtpm_bios: what a machine's firmware does with its TPM, for one that has no firmware."""

import os
from collections.abc import Callable
from typing import Optional

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.cli.classic.firmware_steps import Options, Step, is_deactivated, tpm2_steps, tpm12_steps
from swtpm_svc.cli.classic.option_scanner import NONE, REQUIRED, Found, Option, Problem, scan
from swtpm_svc.cli.classic.plain_output import write_error, write_output
from swtpm_svc.cli.classic.tpm_addresses import AddressError, split_tcp
from swtpm_svc.cli.classic.tpm_place import DEFAULT_PORT, DevicePlace, Place, TcpPlace, UnixPlace, named_by_environment
from swtpm_svc.wire.dialect import StartupType
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import HEADER_SIZE, decode_response

SUCCESS, USAGE, TPM_ERROR, NEEDS_RESET, NO_COMMUNICATION = 0, 1, 128, 129, 255

OPTIONS_HELP = {
    "--tpm-device": ("<device>", "its device; /dev/tpm0 if nothing else is said"),
    "--tcp": ("[<host>]:[<port>]", f"its commands by TCP; without words 127.0.0.1 and {DEFAULT_PORT}"),
    "--unix": ("<path>", "its commands by a UNIX socket"),
    "--tpm2": ("", "it is a TPM 2"),
    "-c": ("", "start it with a clear state (what happens without an option)"),
    "-s": ("", "start it with the state that was saved"),
    "-d": ("", "start it deactivated; a TPM 2: not at all"),
    "-n": ("", "do not start it"),
    "-o": ("", "start it, and nothing else"),
    "-cs": ("", "have it test itself"),
    "-ea": ("", "see that a TPM 1.2 is activated; status 129: it must be reset first"),
    "-u": ("", "give up physical presence; a TPM 2: set a random platform password"),
    "-v": ("", "print this and end"),
    "-h": ("", "print this and end"),
}
OPTIONS = tuple(
    Option(word.lstrip("-"), REQUIRED if argument else NONE) for word, (argument, _meaning) in OPTIONS_HELP.items()
)
#: What startup an option asks for; all but -d turn on again what -o and -d turn off.
_STARTUPS = {"c": StartupType.CLEAR, "s": StartupType.STATE, "d": StartupType.DEACTIVATED, "n": None}


class _Help(Exception):
    """The help is printed, and the command ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


def main(words: "list[str]", program: str) -> int:
    """The exit status."""
    try:
        return _run(words, program)
    except AddressError as error:
        write_error(str(error))
    except ProtocolError:
        write_error("Malformed response.")
    except BrokenPipeError:  # nobody reads what it prints
        pass
    except OSError as error:
        write_error(f"{program}: {error.strerror or error}")
    return NO_COMMUNICATION


def _run(words: "list[str]", program: str) -> int:
    """
    Raises:
        AddressError, OSError, ProtocolError: as _send_all(); OSError: standard output cannot be written.
    """
    try:
        options, place, is_tpm2 = _parse(words, program)
    except AddressError as error:
        write_error(str(error))
        return USAGE
    except _Help as asked:
        write_output(help_text())
        return asked.status
    return _send_all(options, place or named_by_environment(os.environ), is_tpm2=is_tpm2)


def _parse(words: "list[str]", program: str) -> "tuple[Options, Optional[Place], bool]":
    """
    Raises:
        AddressError: a port is none. _Help
    """
    options = Options()
    places: dict[str, Place] = {}
    is_tpm2 = False
    for event in scan(OPTIONS, words, long_only=True):
        if isinstance(event, Problem):
            write_error(f"{program}: {event.message}")
            raise _Help(USAGE)
        if not isinstance(event, Found):
            continue
        name = event.option.name
        if name == "tpm-device":
            places[name] = DevicePlace(event.value or "")
        elif name == "unix":
            places[name] = UnixPlace(event.value or "")
        elif name == "tcp":
            places[name] = TcpPlace(*split_tcp(event.value or "", DEFAULT_PORT))
        elif name == "tpm2":
            is_tpm2 = True
        elif name in ("h", "v"):
            raise _Help(SUCCESS if name == "h" else USAGE)
        else:
            options = _with(options, name)
    # the first of these counts, whatever their order is
    return options, next((places[kind] for kind in ("tpm-device", "tcp", "unix") if kind in places), None), is_tpm2


def _with(options: Options, name: str) -> Options:
    if name in _STARTUPS:
        return options._replace(startup=_STARTUPS[name], presence=name != "d")
    if name == "o":
        return options._replace(presence=False)
    if name == "cs":
        return options._replace(self_test=True)
    return options._replace(ensure_activated=True) if name == "ea" else options._replace(give_up=True)


def _send_all(options: Options, place: Place, *, is_tpm2: bool) -> int:
    """
    Raises:
        AddressError, OSError, ProtocolError: the TPM does not get it, or does not answer.
    """
    # as swtpm_bios has it: a TPM 2's errors are output
    tell = write_output if is_tpm2 else _error_line
    first, last = (tpm2_steps(options), []) if is_tpm2 else tpm12_steps(options)
    status, was_deactivated = SUCCESS, False
    for step in first:
        response = _sent(step, place, tell)
        status = status if response is not None else TPM_ERROR
        was_deactivated |= step.asks_flags and is_deactivated(response or b"")
    if was_deactivated:
        write_output("TPM requires a reset\n")
        return NEEDS_RESET
    for step in last:
        status = status if _sent(step, place, tell) is not None else TPM_ERROR
    return status


def _sent(step: Step, place: Place, tell: "Callable[[str], None]") -> Optional[bytes]:
    """The response; None: the TPM's error, which was told."""
    response = place.exchange(step.command, step.timeout_s)
    if len(response) < HEADER_SIZE:
        raise AddressError("Returned packet is too short.")
    _tag, rc, _body = decode_response(response)
    if rc:
        tell(f"{step.name} returned error code 0x{rc:08x}\n")
        return None
    return response


def _error_line(line: str) -> None:
    write_error(line, end="")


def help_text() -> str:
    parts = [
        f"TPM emulator BIOS emulator version {SWTPM_VERSION}, Copyright (c) 2015 IBM Corp.\n\nswtpm_bios [options]\n\n",
        "Starts a TPM; then enables and activates it, with physical presence, if it is a TPM 1.2.\n\n",
        *(f"{word + ' ' + argument:<25} {meaning}\n" for word, (argument, meaning) in OPTIONS_HELP.items()),
    ]
    return "".join(parts)
