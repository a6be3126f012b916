"""swtpm_ioctl, and as cuse_tpm_ioctl of 2014: control requests to a TPM by a device, TCP or a UNIX socket.

What it takes to start is most of what it takes at all, so it imports little: no typing, enumerations, socket.
"""

import os

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.cli.classic.ioctl_commands import ACTIONS, Failure
from swtpm_svc.cli.classic.option_scanner import NONE, REQUIRED, Found, Option, Problem, scan
from swtpm_svc.cli.classic.plain_output import write_error, write_output
from swtpm_svc.cli.classic.tpm_addresses import AddressError, connect_tcp, connect_unix, open_device, split_tcp

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    import _socket

    from swtpm_svc.cli.classic.control_client import ControlClient
    from swtpm_svc.cli.classic.ioctl_commands import Act

DEFAULT_PORT = 6546
#: How long a socket's answer may take.
ANSWER_TIME_S = 20.0

#: What names the TPM, as in the help: argument and meaning. The first one counts where several are given.
PLACES = {
    "--tpm-device": ("<device>", "its device; may also be the last word"),
    "--tcp": (
        "[<host>]:[<port>]",
        f"its control channel by TCP; without words 127.0.0.1 and {DEFAULT_PORT}",
    ),
    "--unix": ("<path>", "its control channel's UNIX socket"),
}
#: Each as it must be written.
COMMANDS = {
    "-c": ("", "what the TPM's emulator can do, as a number"),
    "-i": ("", "power on, or reset; volatile state that was stored is resumed, and its file removed"),
    "--stop": ("", "power off; the emulator goes on"),
    "-s": ("", "power off, and end the emulator"),
    "-e": ("", "the bit tpmEstablished"),
    "-r": ("<locality>", "clear that bit, in this locality: 3 or 4"),
    "-v": ("", "write the volatile state to its file"),
    "-C": ("", "cancel the command that runs"),
    "-l": ("<locality>", "the locality of all commands from now on: 0 to 4"),
    "-h": ("<data>", "measure this as a dynamic launch does; -: all of standard input"),
    "--save": ("<type> <file>", "write state to a file: permanent, volatile or savestate"),
    "--load": ("<type> <file>", "load such a file into a TPM that is stopped"),
    "-g": ("", "which keys encrypt the state, as flags"),
    "-b": ("<size>", "set the size of the TPM's buffer, 0: only ask; and its limits"),
    "--info": ("<flags>", "what the TPM is, as JSON; 1: its specification, 2: maker and model"),
    "--lock-storage": ("<retries>", "take the lock on the storage of the state"),
}
_OTHERS = {"--version": ("", "print the version and end"), "--help": ("", "print this and end")}
OPTIONS = tuple(
    Option(word.lstrip("-"), REQUIRED if argument else NONE)
    for table in (PLACES, COMMANDS, _OTHERS)
    for word, (argument, _meaning) in table.items()
)
_VERSION_LINE = f"TPM emulator control tool version {SWTPM_VERSION}, Copyright (c) 2015 IBM Corp.\n"


def main(words: "list[str]", program: str) -> int:
    """The exit status: 0 or 1."""
    try:
        _run(words, program)
    except Failure as failure:
        write_error(str(failure), failure.end)
    except AddressError as error:
        write_error(str(error))
    except BrokenPipeError:  # nobody reads what it prints
        pass
    except OSError as error:  # standard output cannot be written
        write_error(f"{program}: {error.strerror or error}")
    else:
        return 0
    return 1


def _run(words: "list[str]", program: str) -> None:
    """
    Raises:
        Failure, AddressError; OSError: standard output cannot be written.
    """
    places: dict[str, str] = {}
    chosen = ""
    remaining = iter(words)
    for event in scan(OPTIONS, remaining, long_only=True):
        if isinstance(event, Problem):
            write_error(f"{program}: {event.message}")
        elif not isinstance(event, Found):
            places.setdefault("", event.text)
        elif f"--{event.option.name}" in PLACES:
            places[event.option.name] = event.value or ""
        elif f"--{event.option.name}" in _OTHERS:
            write_output(_VERSION_LINE if event.option.name == "version" else help_text())
            return
        elif chosen:
            raise Failure("Only one command may be given.")
        else:
            chosen = event.word
            act: Act = ACTIONS[event.option.name](event.value or "", remaining)
    if not chosen:
        raise Failure("No valid command.")
    with _Place(places) as client:
        if chosen not in COMMANDS:  # a spelling that getopt takes, and the classic tool does not
            write_output(help_text())
            raise Failure("", end="")
        printed = act(client)
    write_output(printed)


class _Place:
    """The TPM that was named, while it is used; a context manager.

    Raises:
        Failure: none was. AddressError
    """

    def __init__(self, places: "dict[str, str]") -> None:
        self._places = places
        self._descriptor = -1
        self._socket: _socket.socket | None = None

    def __enter__(self) -> "ControlClient":
        # imported here: what is wrong with the command line is told without
        from swtpm_svc.cli.classic.control_client import DeviceClient, SocketClient

        places = self._places
        device = places.get("tpm-device", None if {"tcp", "unix"} & set(places) else places.get(""))
        if device is not None:
            self._descriptor = open_device(device)
            return DeviceClient(self._descriptor)
        if "tcp" in places:
            self._socket = connect_tcp(*split_tcp(places["tcp"], DEFAULT_PORT), ANSWER_TIME_S)
        elif "unix" in places:
            self._socket = connect_unix(places["unix"], ANSWER_TIME_S)
        else:
            raise Failure("Error: Missing device name.")
        return SocketClient(self._socket)

    def __exit__(self, *_exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        if self._socket is not None:
            self._socket.close()


def help_text() -> str:
    parts = [_VERSION_LINE, "\nUsage: swtpm_ioctl command <device path>\n"]
    for title, table in (("Where the TPM is", PLACES), ("Commands, one at a time", COMMANDS), ("Others", _OTHERS)):
        parts.append(f"\n{title}:\n")
        parts += [f"{word + ' ' + argument:<25} {meaning}\n" for word, (argument, meaning) in table.items()]
    return "".join([*parts, "\n"])
