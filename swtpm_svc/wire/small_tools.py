"""What a start needs of collections, contextlib, functools, heapq and signal, without all else that they make.

To mypy all of it is the standard library's own, and but for `suppress` it is that in fact: the part in C.
"""

TYPE_CHECKING = False  # to mypy it is True

if TYPE_CHECKING:
    import signal as signal
    from collections import deque as deque
    from contextlib import suppress as suppress
    from functools import partial as partial
    from heapq import heappop as heappop
    from heapq import heappush as heappush
else:
    import _signal
    from _collections import deque as deque
    from _functools import partial as partial
    from _heapq import heappop as heappop
    from _heapq import heappush as heappush

    signal = _signal

    class suppress:
        """Go on behind the with statement after one of these exceptions."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, _error, _traceback):
            return kind is not None and issubclass(kind, self._kinds)
