"""Our enumerations beside enum's: what the one does, the other does."""

import copy
import enum
import pickle
import re

import pytest

from swtpm_svc.wire import enumerations


def make(module):
    """The same three classes, of one module or the other."""

    @module.unique
    class Colour(module.Enum):
        """What it looks like."""

        RED = "red"
        GREEN = ("gre", "en")

        @property
        def length(self):
            return len(self.value)

        def is_red(self):
            return self is Colour.RED

    @module.unique
    class Number(module.IntEnum):
        ONE = 1
        TWO = 2

    class Bits(module.IntFlag):
        A = 1
        B = 2
        C = 4
        AB = A | B
        ALSO_A = 1

    return Colour, Number, Bits


OURS, THEIRS = make(enumerations), make(enum)
BOTH = pytest.mark.parametrize(("Colour", "Number", "Bits"), [OURS, THEIRS], ids=["ours", "enum's"])


class Pickled(enumerations.Enum):
    """Where pickle finds it."""

    MEMBER = "member"


@BOTH
def test_members(Colour, Number, Bits):
    assert list(Colour) == [Colour.RED, Colour.GREEN]
    assert len(Colour) == 2
    assert Colour.RED is Colour("red") is Colour["RED"] is Colour(Colour.RED)
    assert Colour(("gre", "en")) is Colour.GREEN
    assert (Colour.GREEN.name, Colour.GREEN.value, Colour.GREEN.length) == ("GREEN", ("gre", "en"), 2)
    assert (Colour.RED.is_red(), Colour.GREEN.is_red()) == (True, False)
    assert Colour.RED != Colour.GREEN
    assert Colour.RED != "red"
    assert Colour.RED in Colour
    assert Number.ONE not in Colour
    assert isinstance(Colour.RED, Colour)
    assert {Colour.RED: 1, Colour.GREEN: 2}[Colour.RED] == 1
    assert list(Colour.__members__) == ["RED", "GREEN"]
    assert Colour.__members__["GREEN"] is Colour.GREEN
    assert str(Colour.RED) == f"{Colour.RED}" == "Colour.RED"
    assert repr(Colour.RED) == "<Colour.RED: 'red'>"
    assert Colour.__doc__ == "What it looks like."
    assert copy.copy(Colour.RED) is copy.deepcopy(Colour.RED) is Colour.RED


@BOTH
def test_numbers(Colour, Number, Bits):
    assert Number.ONE == 1
    assert Number.ONE + Number.TWO == 3
    assert sorted([Number.TWO, Number.ONE]) == [1, 2]
    assert Number(2) is Number.TWO
    assert hash(Number.TWO) == hash(2)
    assert {2: "two"}[Number.TWO] == "two"
    assert Number.TWO.to_bytes(2, "big") == b"\0\2"
    assert f"{Number.TWO:#04x}" == "0x02"
    assert repr(Number.TWO) == "<Number.TWO: 2>"
    assert (Number.TWO.name, Number.TWO.value, type(Number.TWO.value)) == ("TWO", 2, int)
    assert copy.deepcopy(Number.TWO) is Number.TWO


@BOTH
def test_bits(Colour, Number, Bits):
    assert Bits.A | Bits.C == 5
    assert isinstance(Bits.A | Bits.C, Bits)
    assert isinstance(8 | Bits.A, Bits)
    assert 8 | Bits.A == 9 == Bits(9)
    assert (Bits.AB & Bits.B) == Bits.B
    assert Bits.AB ^ Bits.B == Bits.A
    assert 7 & ~Bits.B == 5
    assert Bits(3) is Bits.AB
    assert Bits.ALSO_A is Bits.A
    assert bool(Bits.A & Bits.B) is False
    assert Bits.AB == 3
    assert (Bits.A.name, Bits.AB.name) == ("A", "AB")


@BOTH
@pytest.mark.parametrize("value", ["blue", 7, None, []])
def test_what_is_no_member(Colour, Number, Bits, value):
    for kind in (Colour, Number):
        with pytest.raises(ValueError, match=re.escape(f"{value!r} is not a valid {kind.__qualname__}")):
            kind(value)
    with pytest.raises(KeyError):
        Colour["BLUE"]
    with pytest.raises(AttributeError):
        Colour.BLUE  # noqa: B018
    with pytest.raises(AttributeError):
        Colour.RED = "blue"


@pytest.mark.parametrize("module", [enumerations, enum], ids=["ours", "enum's"])
def test_a_second_name_is_refused_where_names_are_to_be_unique(module):
    class Twice(module.IntEnum):
        ONCE = 1
        AGAIN = 1

    assert Twice.AGAIN is Twice.ONCE
    with pytest.raises(ValueError, match="AGAIN"):
        module.unique(Twice)


def test_pickled():
    assert pickle.loads(pickle.dumps(Pickled.MEMBER)) is Pickled.MEMBER
