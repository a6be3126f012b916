"""The comma lists of swtpm's options: `dir=/var/lib/tpm,mode=0600,lock`."""

from swtpm_svc.wire.hints import Optional

_DIGITS_MAX = 20
_OCTAL_DIGITS = frozenset("01234567")


class CommaListError(Exception):
    """The list is wrong; the message is swtpm's."""


def parse(text: str, what: str, names: "tuple[str, ...]") -> "dict[str, str]":
    """The values by name; the first one counts where a name stands twice. A bare name has the value "true".

    `what` is the list's name in messages, `names` what may stand in it.

    Raises:
        CommaListError: a word that is unknown or empty, a name with nothing behind it, or JSON that does not end.
    """
    values: dict[str, str] = {}
    position = 0
    while position <= len(text):
        word, position = _word(text, position)
        name, separator, value = word.partition("=")
        if name not in names or (separator and not value):
            raise CommaListError(f"Error parsing {what} options: Unknown option '{word}'")
        values.setdefault(name, value if separator else "true")
    return values


def _word(text: str, start: int) -> "tuple[str, int]":
    """The word that begins at `start`, and where the next one does."""
    end = text.find(",", start)
    end = len(text) if end < 0 else end
    value = text.find("=", start, end) + 1
    if value and text.startswith("{", value):
        end = _end_of_json(text, value)
        if end < len(text) and text[end] != ",":
            raise CommaListError("Unexpected character following JSON map.")
    return text[start:end], end + 1


def _end_of_json(text: str, start: int) -> int:
    """Behind the brace that closes the one at `start`; braces in strings count, too, as swtpm has it."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return position + 1
    raise CommaListError("Unterminated JSON map.")


def boolean(values: "dict[str, str]", name: str, *, default: bool = False) -> bool:
    """ "true" (in any case) and "1" are true, anything else is false; what is not there is as `default` says."""
    value: Optional[str] = values.get(name)
    return default if value is None else value == "1" or value.lower() == "true"


def number(text: str) -> int:
    """
    Raises:
        CommaListError: not a number in decimal.
    """
    digits = text[1:] if text.startswith("-") else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _DIGITS_MAX:
        raise CommaListError(f"invalid number '{text}'")
    return int(text)


def mode(text: str) -> int:
    """
    Raises:
        CommaListError: not permission bits in octal.
    """
    if not text or len(text) > _DIGITS_MAX or not _OCTAL_DIGITS.issuperset(text):
        raise CommaListError(f"invalid mode type '{text}'")
    if int(text, 8) > 0o777:
        raise CommaListError(f"mode {text} is invalid")
    return int(text, 8)
