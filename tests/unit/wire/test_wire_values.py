"""Our NamedTuple beside typing's: what the one does, the other does."""

import copy
import pickle
import typing

import pytest

from swtpm_svc.wire import values


class Ours(values.NamedTuple):
    """A point."""

    x: int
    y: "int" = 2
    name: str = ""

    @property
    def sum(self) -> int:
        return self.x + self.y


class Theirs(typing.NamedTuple):
    """A point."""

    x: int
    y: "int" = 2
    name: str = ""

    @property
    def sum(self) -> int:
        return self.x + self.y


class Empty(values.NamedTuple):
    pass


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_values(kind):
    one = kind(1)
    assert one == (1, 2, "") == kind(x=1) == kind(1, name="") == kind(1, 2, "") == kind._make([1, 2, ""])
    assert (one.x, one.y, one.name, one.sum, len(one)) == (1, 2, "", 3, 3)
    assert isinstance(one, tuple)
    assert hash(one) == hash((1, 2, ""))
    assert repr(one) == f"{kind.__name__}(x=1, y=2, name='')"
    assert one._asdict() == {"x": 1, "y": 2, "name": ""}
    assert one._replace(x=7, name="n") == kind(7, 2, "n")
    assert type(one._replace(x=7)) is kind
    assert type(copy.copy(one)) is type(copy.deepcopy(one)) is type(pickle.loads(pickle.dumps(one))) is kind
    assert kind._fields == ("x", "y", "name")
    assert kind._field_defaults == {"y": 2, "name": ""}
    assert kind.__doc__ == "A point."
    assert typing.get_type_hints(kind) == {"x": int, "y": int, "name": str}


@BOTH
@pytest.mark.parametrize(("given", "named"), [((), {}), ((1, 2, "", 4), {}), ((1,), {"z": 1}), ((1,), {"x": 1})])
def test_what_is_no_value(kind, given, named):
    with pytest.raises(TypeError):
        kind(*given, **named)


@BOTH
def test_what_is_no_change(kind):
    one = kind(1)
    with pytest.raises((ValueError, TypeError)):
        one._replace(z=1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(one, name, 2)


def test_without_fields():
    assert Empty() == ()
    assert repr(Empty()) == "Empty()"
