"""Who a caller is, in words for the journal: `lab-member (1000), process 1865`.

The name is looked up beside the serving thread, as the system's database of users may be far away and silent; an entry
waits for it for a second, and then has the number alone. The program's name is there where the kernel shows it: the
unit's ProtectProc= hides the processes of others.
"""

import pwd

from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Protocol

_WAIT_S = 1.0
#: Look-ups at a time, and names that are remembered.
_MAX_THREADS, _MAX_KNOWN = 2, 256

_Then = Callable[[str], None]


class _Serving(Protocol):
    """The serving loop, as far as this knows it."""

    def after(self, delay_s: float, callback: Callable[[], None]) -> None: ...

    def post(self, callback: Callable[[], None]) -> None: ...


class Callers:
    """All methods belong to the serving thread."""

    def __init__(self, loop: _Serving) -> None:
        self._loop = loop
        self._names: dict[int, str] = {}
        #: Who waits for a name, by user.
        self._waiting: dict[int, list[_Then]] = {}

    def name(self, caller: Caller, then: _Then) -> None:
        """`then` is called with the words: now, or soon."""
        process = f"process {caller.pid}{_command(caller.pid)}"

        def tell(name: str) -> None:
            who = f"{name} ({caller.uid})" if name else f"user {caller.uid}"
            then(f"{who}, {process}")

        if caller.uid in self._names:
            tell(self._names[caller.uid])
        elif caller.uid in self._waiting:
            self._waiting[caller.uid].append(tell)
        elif len(self._waiting) >= _MAX_THREADS or not self._look_up(caller.uid):
            tell("")
        else:
            self._waiting[caller.uid] = [tell]

    def _look_up(self, uid: int) -> bool:
        def ask() -> None:
            try:
                name = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                name = ""
            name = name if name.isprintable() else ""
            self._loop.post(lambda: self._found(uid, name))

        from threading import Thread  # not before somebody is to be named

        try:
            Thread(target=ask, name="who", daemon=True).start()
        except RuntimeError:  # no thread to be had (TasksMax=, memory)
            return False
        self._loop.after(_WAIT_S, lambda: self._tell(uid, ""))
        return True

    def _found(self, uid: int, name: str) -> None:
        if len(self._names) >= _MAX_KNOWN:
            self._names.clear()
        self._names[uid] = name
        self._tell(uid, name)

    def _tell(self, uid: int, name: str) -> None:
        for tell in self._waiting.pop(uid, []):
            tell(name)

    def flush(self) -> None:
        """As the service ends: what waits for a name is told without."""
        for uid in list(self._waiting):
            self._tell(uid, "")


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read(64).strip()
    except OSError:
        return ""
    return f" {name}" if name.isprintable() and " " not in name else ""
