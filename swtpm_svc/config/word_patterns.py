"""What words of the configuration consist of.

Regular expressions would say the same, but re and what it compiles are what a start would wait for longest.
"""

_DIGITS = "0123456789"
ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + _DIGITS
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_HEX_DIGITS = frozenset("abcdefABCDEF" + _DIGITS)


class WordPattern:
    """Up to `length_max` characters of `others`, the first of them of `first`."""

    def __init__(self, first: str, others: str, length_max: int, *, may_be_empty: bool = False) -> None:
        self._first = frozenset(first)
        self._others = frozenset(others)
        self._length_max = length_max
        self._may_be_empty = may_be_empty

    def fullmatch(self, text: str) -> bool:
        if not text:
            return self._may_be_empty
        return len(text) <= self._length_max and text[0] in self._first and self._others.issuperset(text)


def looks_like_key(text: str) -> bool:
    """Whether it may be a key, written where its place should be named: such a word is in no error."""
    digits = text[2:] if text.startswith("0x") else text
    return len(digits) in (32, 64) and _HEX_DIGITS.issuperset(digits)
