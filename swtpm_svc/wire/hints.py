"""What annotations name of typing, for modules that a start imports: typing itself takes half as long as the bare
interpreter's start.

Measured (Python 3.11): importing typing, with what that imports, takes 7 ms, this 0.1. To mypy the names are typing's
own. When it runs, nobody asks an annotation what it means, so one object stands for all of them.
"""

TYPE_CHECKING = False  # to mypy it is True

if TYPE_CHECKING:
    from collections.abc import Hashable as Hashable
    from collections.abc import Iterator as Iterator
    from types import FrameType as FrameType
    from types import TracebackType as TracebackType
    from typing import Any as Any
    from typing import Callable as Callable
    from typing import NoReturn as NoReturn
    from typing import Optional as Optional
    from typing import Protocol as Protocol
    from typing import Union as Union
else:

    class _Hint:
        def __getitem__(self, _arguments):
            return self

        def __or__(self, _other):
            return self

        __ror__ = __or__

        def __call__(self):
            """Never called: typing before 3.11 takes for a type what could be."""
            return self

    Any = Callable = FrameType = Hashable = Iterator = NoReturn = Optional = TracebackType = Union = _Hint()

    class Protocol:
        """What a class is derived from that says what another one must have."""
