"""What the commands of swtpm_ioctl do, as a table.

A command's function gets its argument and the words that follow it on the command line, and refuses what is wrong with
them. What it gives back is called with the TPM, and gives what is to be printed.
"""

import os

from swtpm_svc.cli.classic.c_numbers import LARGEST, number32, unsigned
from swtpm_svc.cli.classic.plain_output import write_all
from swtpm_svc.wire.ptm_shapes import HASH_DATA_MAX

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

    from swtpm_svc.cli.classic.control_client import ControlClient, Reply

    Act = Callable[[ControlClient], str]

BLOB_TYPES = {"permanent": 1, "volatile": 2, "savestate": 3}

_LOCALITY_MAX = 4
_INIT_FLAG_DELETE_VOLATILE = 1
_STATE_FLAG_DECRYPTED = 1
#: TPM_RETRY, which libtpms says of state that there is not: an empty file, and no failure.
_NO_SUCH_STATE = 0x800
#: Octets per read() or write() of a state blob; without it, ioctls carry all of it.
_BUFFER_VARIABLE = "SWTPM_IOCTL_BUFFERSIZE"


class Failure(Exception):
    """The command fails with this on standard error; `end` stands behind it."""

    def __init__(self, message: str, end: str = "\n") -> None:
        super().__init__(message)
        self.end = end


def ask(
    client: "ControlClient", name: str, numbers: "tuple[int, ...]" = (), data: bytes = b"", allowed: int = 0
) -> "Reply":
    """The reply's numbers, the TPM's result first, and its data. `allowed`: a result that is none to fail for.

    Raises:
        Failure: the TPM refuses it, or it does not get there.
    """
    try:
        found, more = client.exchange(name, numbers, data)
    except OSError as error:
        raise _not_executed(name, error) from None
    if found[0] not in (0, allowed) and name != "GET_CAPABILITY":
        raise Failure(f"TPM result from PTM_{name}: {found[0]:#x}")
    return found, more


def _not_executed(name: str, error: OSError) -> Failure:
    return Failure(f"Could not execute PTM_{name}: {error.strerror or error}")


def _request(name: str, numbers: "tuple[int, ...]" = (), form: str = "") -> "Callable[[str, Iterator[str]], Act]":
    """Without an argument. `form`: what is printed of the reply's numbers."""
    return lambda _value, _words: lambda client: form.format(*ask(client, name, numbers)[0])


def _locality(name: str) -> "Callable[[str, Iterator[str]], Act]":
    def prepare(value: str, _words: "Iterator[str]") -> "Act":
        locality = number32(value)
        if locality is None:
            raise Failure(f"Could not get locality number from {value}.")
        if locality > _LOCALITY_MAX:
            raise Failure("Locality outside valid range of [0..4].")
        return _request(name, (locality,))(value, _words)

    return prepare


def _hash(value: str, _words: "Iterator[str]") -> "Act":
    def act(client: "ControlClient") -> str:
        ask(client, "HASH_START")
        for piece in _pieces(value):
            ask(client, "HASH_DATA", (), piece)
        ask(client, "HASH_END")
        return ""

    return act


def _pieces(value: str) -> "Iterator[bytes]":
    if value != "-":
        data = os.fsencode(value)
        yield from (data[start : start + HASH_DATA_MAX] for start in range(0, len(data), HASH_DATA_MAX))
        return
    piece = None
    while piece != b"":  # the last one is empty
        try:
            piece = os.read(0, HASH_DATA_MAX)
        except OSError as error:
            raise Failure(f"Could not read from stdin: {error.strerror}") from None
        yield piece


def _blob_type(value: str) -> int:
    if value not in BLOB_TYPES:
        raise Failure(f"Unknown TPM state type '{value}'", end="")
    return BLOB_TYPES[value]


def _file_word(option: str, words: "Iterator[str]") -> str:
    """It is no option's argument to getopt, but may not look like an option."""
    path = next(words, "-")
    if path.startswith("-"):
        raise Failure(f"Missing filename argument for {option} option")
    return path


def _open_input(path: str) -> int:
    from swtpm_svc.state import named_files

    try:
        return named_files.open_input(path)
    except OSError as error:
        raise Failure(f"Could not open file '{path}' for reading: {error.strerror}") from None


def _open_output(path: str) -> int:
    from swtpm_svc.state import named_files

    try:
        return named_files.open_output(path, os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise Failure(f"Could not open file '{path}' for writing: {error.strerror}") from None


def _save(value: str, words: "Iterator[str]") -> "Act":
    path = _file_word("--save", words)

    def act(client: "ControlClient") -> str:
        kind = _blob_type(value)
        # before the request, as swtpm_ioctl has it: a refusal leaves an empty file
        file = _open_output(path)
        try:
            blob = _fetch(client, kind)
            try:
                write_all(file, blob)
            except OSError as error:
                raise Failure(f"Could not write to file '{path}': {error.strerror}") from None
        finally:
            os.close(file)
        return ""

    return act


def _fetch(client: "ControlClient", kind: int) -> bytes:
    size = _buffer_size(client)
    blob = b""
    while True:
        numbers = (_STATE_FLAG_DECRYPTED, kind, len(blob))
        found, piece = ask(client, "GET_STATEBLOB", numbers, allowed=_NO_SUCH_STATE)
        if found[0] == _NO_SUCH_STATE:
            return b""
        blob, total = blob + piece, found[2]
        while size and piece and len(blob) < total:
            try:
                piece = client.read(size)
            except OSError as error:
                raise _not_executed("GET_STATEBLOB", error) from None
            blob += piece
        if len(blob) >= total:
            return blob
        if not piece:
            raise Failure(f"Could not execute PTM_GET_STATEBLOB: {len(blob)} of {total} octets came")


def _load(value: str, words: "Iterator[str]") -> "Act":
    path = _file_word("--load", words)

    def act(client: "ControlClient") -> str:
        kind = _blob_type(value)
        file = _open_input(path)
        try:
            with open(file, "rb", buffering=0) as stream:
                blob = stream.readall()
        except OSError as error:
            raise Failure(f"Could not read from file '{path}': {error.strerror}") from None
        _send(client, kind, blob)
        return ""

    return act


def _send(client: "ControlClient", kind: int, blob: bytes) -> None:
    chunk = client.blob_chunk or len(blob) + 1
    size = _buffer_size(client)
    if size:
        ask(client, "SET_STATEBLOB", (0, kind))
        try:
            for start in range(0, len(blob), size):
                client.write(blob[start : start + size])
        except OSError as error:
            raise _not_executed("SET_STATEBLOB", error) from None
        blob = b""
    # the piece that is not full ends it; it may be empty, but for the first of all
    for start in range(0, len(blob) + 1, chunk):
        ask(client, "SET_STATEBLOB", (0, kind), blob[start : start + chunk])


def _buffer_size(client: "ControlClient") -> int:
    """0: state is not carried by read() and write()."""
    if not client.blob_chunk or _BUFFER_VARIABLE not in os.environ:
        return 0
    number, rest = unsigned(os.environ[_BUFFER_VARIABLE])
    return min(number, 1 << 20) if number and not rest else 1


def _buffer(value: str, _words: "Iterator[str]") -> "Act":
    size = number32(value)
    if size is None:
        raise Failure(f"Could not get buffersize from {value}.")
    form = "TPM buffersize: {1}\nminimum size  : {2}\nmaximum size  : {3}\n"
    return _request("SET_BUFFERSIZE", (size,), form)(value, _words)


def _info(value: str, _words: "Iterator[str]") -> "Act":
    flags, rest = unsigned(value)
    if rest or flags > LARGEST:
        raise Failure("Cannot parse info flags.")

    def act(client: "ControlClient") -> str:
        text = b""
        while True:
            (_result, total, _length), piece = ask(client, "GET_INFO", (flags, len(text)))
            text += piece
            if len(text) >= total or not piece:
                return text.rstrip(b"\0").decode("utf-8", "surrogateescape") + "\n"

    return act


def _lock(value: str, _words: "Iterator[str]") -> "Act":
    retries = number32(value)
    if retries is None:
        raise Failure(f"Could not get number of retries from {value}.")
    return _request("LOCK_STORAGE", (retries,))(value, _words)


#: By the option's name.
ACTIONS: "dict[str, Callable[[str, Iterator[str]], Act]]" = {
    "c": _request("GET_CAPABILITY", form="ptm capability is {0:#x}\n"),
    "i": _request("INIT", (_INIT_FLAG_DELETE_VOLATILE,)),
    "stop": _request("STOP"),
    "s": _request("SHUTDOWN"),
    "e": _request("GET_TPMESTABLISHED", form="tpmEstablished is {1}\n"),
    "r": _locality("RESET_TPMESTABLISHED"),
    "v": _request("STORE_VOLATILE"),
    "C": _request("CANCEL_TPM_CMD"),
    "l": _locality("SET_LOCALITY"),
    "h": _hash,
    "save": _save,
    "load": _load,
    "g": _request("GET_CONFIG", form="ptm configuration flags: {1:#x}\n"),
    "b": _buffer,
    "info": _info,
    "lock-storage": _lock,
}
