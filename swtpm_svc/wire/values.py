"""NamedTuple, as typing has it, for modules with many of them: typing compiles a constructor for each, which a start
waits for.

Measured (Python 3.11): a class takes 6 us instead of 60, a value 0.22 us instead of 0.18. A test compares both. To mypy
it is typing's own, and from Python 3.14 on it is that too, as a class then has its annotations in another place.
"""

import sys

#: To mypy this name is True. typing is not imported for it: that takes as long as the rest of a small program.
TYPE_CHECKING = False

if TYPE_CHECKING or sys.version_info >= (3, 14):
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    _new_tuple = tuple.__new__

    class _Value(tuple):
        """What all of them have, as collections.namedtuple() gives it."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._arrange(values, named)
            return _new_tuple(cls, values)

        @classmethod
        def _arrange(cls, values, named):
            try:
                rest = [
                    named.pop(field) if field in named else cls._field_defaults[field]
                    for field in cls._fields[len(values) :]
                ]
            except KeyError as missing:
                raise TypeError(f"{cls.__name__}() misses the value of {missing}") from None
            if named or len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__}() takes {len(cls._fields)} values: {', '.join(cls._fields)}")
            return (*values, *rest)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **changed):
            fields = {**self._asdict(), **changed}
            if len(fields) != len(self):
                raise ValueError(f"{type(self).__name__} has only: {', '.join(self._fields)}")
            return _new_tuple(type(self), fields.values())

        def _asdict(self):
            return dict(zip(self._fields, self))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            shown = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self))
            return f"{type(self).__name__}({shown})"

    class _Maker(type):
        def __new__(meta, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            body["_fields"] = body["__match_args__"] = fields
            body["_field_defaults"] = {field: body[field] for field in fields if field in body}
            body["__slots__"] = ()
            body.update((field, _tuplegetter(index, "")) for index, field in enumerate(fields))
            return type(name, (_Value,), body)

    #: What classes are derived from, so that _Maker makes them; they are then no more than a _Value.
    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {})
