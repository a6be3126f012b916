"""Numbers as the C library's strtoull() reads them, which callers of the classic tools rely on.

0x10 and 010 are numbers where the base may be any, a minus wraps around.
"""

LARGEST = (1 << 64) - 1
#: No number up to LARGEST has more, in any base; int() refuses thousands of them.
_DIGITS_MAX = 22

_DIGITS = {8: "01234567", 10: "0123456789", 16: "0123456789abcdef"}


def unsigned(text: str, base: int = 0) -> "tuple[int, str]":
    """The number that `text` begins with, and what stands behind it; all of `text` stands there if there is none.

    `base`: 10, or 0 for what 0x and 0 say. What is larger than LARGEST is given as some number above it.
    """
    rest = text.lstrip(" \t\n\v\f\r")
    negative = rest[:1] == "-"
    rest = rest[1:] if rest[:1] in ("-", "+") else rest
    if base == 0:
        base = 10
        if rest[:2].lower() == "0x" and rest[2:3] and rest[2].lower() in _DIGITS[16]:
            base, rest = 16, rest[2:]
        elif rest[:1] == "0":
            base = 8
    digits = 0
    while digits < len(rest) and rest[digits].lower() in _DIGITS[base]:
        digits += 1
    if not digits:
        return 0, text
    significant = rest[:digits].lstrip("0")
    number = int(significant or "0", base) if len(significant) <= _DIGITS_MAX else LARGEST + 1
    return -number & LARGEST if negative and number <= LARGEST else number, rest[digits:]


def number32(text: str) -> "int | None":
    """The decimal number that `text` begins with, in 32 bits, whatever follows it; None: it begins with none."""
    number, rest = unsigned(text, 10)
    return None if rest == text else min(number, LARGEST) & 0xFFFFFFFF
