"""`vtpmctl decode`: what a number or a message of a TPM says, in words. No TPM is asked."""

import re
import sys
from typing import Any, Optional

from swtpm_svc.cli.command import Report
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire import anatomy, command_codes, handle_names, return_codes
from swtpm_svc.wire.anatomy import Message, Part
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import HEADER_SIZE

VERSIONS = ("1.2", "2.0")
#: More than any TPM takes or gives.
_DIGITS_MAX = 1 << 17
_NUMBER_DIGITS = 8
_INDEX = "NV index"
_SEPARATORS = re.compile(r"[\s:,]+")
_HEX = re.compile(r"[0-9A-Fa-f]+")


def run(*, text: str, answer: Optional[str], tpm_version: Optional[str], secrets: bool) -> Report:
    """
    Raises:
        VtpmError USAGE: it is not hexadecimal, or nothing that a TPM says or is told.
    """
    if "-" in (text, answer):
        text, answer = _from_input(text, answer)
    versions = (tpm_version,) if tpm_version else VERSIONS
    digits = _digits(text)
    if answer is not None:
        return _exchange(digits, _digits(answer), secrets=secrets)
    if len(digits) <= _NUMBER_DIGITS:
        return _number(int(digits, 16), versions)
    messages = _messages(digits, secrets=secrets)
    return Report("\n".join(map(message_text, messages)), {"messages": [message_values(one) for one in messages]})


def _from_input(text: str, answer: "Optional[str]") -> "tuple[str, Optional[str]]":
    """One line each, of those that are to be read."""
    try:
        lines = [line for line in sys.stdin.read(_DIGITS_MAX * 2).splitlines() if line.strip()] if sys.stdin else []
    except (OSError, ValueError) as error:
        raise _unusable(f"standard input cannot be read ({error})") from error
    if not lines:
        raise _unusable("there is nothing on standard input")
    if text == answer == "-":
        return lines[0], " ".join(lines[1:])
    return (" ".join(lines), answer) if text == "-" else (text, " ".join(lines))


def _digits(text: str) -> str:
    digits = "".join(word[2:] if word[:2] in ("0x", "0X") else word for word in _SEPARATORS.split(text))
    if not _HEX.fullmatch(digits):
        raise _unusable("what was given is not hexadecimal" if digits else "there are no digits")
    if len(digits) > _DIGITS_MAX:
        raise _unusable(f"there are {len(digits)} digits, more than a TPM has to say")
    return digits


def _exchange(command: str, answer: str, *, secrets: bool) -> Report:
    """A command and its response, or the response's return code."""
    asked = _command(command, secrets=secrets)
    if len(answer) <= _NUMBER_DIGITS:
        words = anatomy.result_text(asked.version, int(answer, 16), asked)
        result = {"code": int(answer, 16), "text": words}
        text = f"{message_text(asked)}\nreturn code 0x{int(answer, 16):x}: {words}"
        return Report(text, {"messages": [message_values(asked)], "return_code": result})
    answered = _response(answer, asked, secrets=secrets)
    both = (asked, answered)
    return Report("\n".join(map(message_text, both)), {"messages": [message_values(one) for one in both]})


def _messages(digits: str, *, secrets: bool) -> "list[Message]":
    """One, or two where it can be a command as well as a response."""
    data = _bytes(digits)
    try:
        kind = anatomy.is_command(data)
    except ProtocolError as error:
        raise _unusable(f"this is neither a TPM's command nor a response: {error}") from error
    readings = [anatomy.read_command(data, secrets=secrets)] if kind is not False else []
    if kind is not True and not (kind is None and return_codes.is_unknown("2.0", readings[0].code)):
        readings.append(anatomy.read_response(data, secrets=secrets))
    return readings


def _command(digits: str, *, secrets: bool) -> Message:
    try:
        data = _bytes(digits)
        if anatomy.is_command(data) is False:
            raise ProtocolError("it is a response")
        return anatomy.read_command(data, secrets=secrets)
    except ProtocolError as error:
        raise _unusable(f"this is not a TPM's command: {error}") from error


def _response(digits: str, command: Message, *, secrets: bool) -> Message:
    try:
        data = _bytes(digits)
        if anatomy.is_command(data) is True:
            raise ProtocolError("it is a command")
        return anatomy.read_response(data, command, secrets=secrets)
    except ProtocolError as error:
        raise _unusable(f"this is not a TPM's response: {error}") from error


def _bytes(digits: str) -> bytes:
    if len(digits) % 2 or len(digits) < 2 * HEADER_SIZE:
        raise _unusable(
            f"there are {len(digits)} digits: a number has up to {_NUMBER_DIGITS}, a command or response two for each "
            f"byte, and {2 * HEADER_SIZE} or more"
        )
    return bytes.fromhex(digits)


def _number(number: int, versions: "tuple[str, ...]") -> Report:
    meanings: list[tuple[str, str, str]] = []
    for version in versions:
        for kind, words in _meanings(version, number):
            # a TPM 2.0 has a code of 1.2 for one case only, a command with a wrong tag
            if ("1.2", kind, words) not in meanings or kind != "return code" or number == 0:
                meanings.append((version, kind, words))
    if not meanings:
        of = f"a TPM {versions[0]}" if len(versions) == 1 else "any TPM"
        raise _unusable(f"0x{number:x} is no return code, command, handle or NV index of {of} that is known")
    lines = [f"TPM {version}, {kind}: {words}" for version, kind, words in meanings]
    values = [{"version": version, "kind": kind, "text": words} for version, kind, words in meanings]
    return Report("\n".join(lines), {"number": number, "meanings": values})


def _meanings(version: str, number: int) -> "list[tuple[str, str]]":
    found = []
    if not return_codes.is_unknown(version, number):
        found.append(("return code", return_codes.describe(version, number)))
    if command_codes.is_known(version, number):
        found.append(("command", command_codes.name(version, number)))
    handle = handle_names.describe(version, number)
    if handle:
        is_index = handle.startswith(_INDEX)
        found.append(("NV index", handle[len(_INDEX) :].lstrip(": ")) if is_index else ("handle", handle))
    return found


def message_text(message: Message) -> str:
    lines = [_title(message)]
    lines += [f"  {_label(part)}: {part.text}" for part in message.parts]
    return "\n".join(lines)


def _title(message: Message) -> str:
    if message.kind == "command":
        return f"{message.name}: a command of a TPM {message.version}, {message.size} bytes"
    of = f" to {message.name}" if message.name else ""
    return f"response{of} of a TPM {message.version}, {message.size} bytes: return code 0x{message.code:x}, {message.result}"


def _label(part: Part) -> str:
    return " ".join(filter(None, (part.kind, str(part.number or ""), part.name)))


def message_values(message: Message) -> "dict[str, Any]":
    return {
        "version": message.version,
        "kind": message.kind,
        "name": message.name or None,
        "size": message.size,
        "code": message.code,
        "result": message.result or None,
        "parts": [
            {
                "kind": part.kind,
                "number": part.number or None,
                "name": part.name or None,
                "text": part.text,
                "hidden": part.is_hidden,
            }
            for part in message.parts
        ],
    }


def _unusable(cause: str) -> VtpmError:
    # what was given is not repeated: it may have a secret in it
    return VtpmError(Code.USAGE, cause, remedy="give a number or a whole message in hexadecimal: vtpmctl decode 0x921")
