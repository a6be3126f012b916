"""Who may do what (decisions/0022): rights from the kernel's word on who calls, and from the system's databases on his
groups.

The databases may be a directory across the network, and slow or silent: only threads ask them, and only the caller in
question waits for the answer.
"""

import os
import pwd
import time

from swtpm_svc.config import loading
from swtpm_svc.config.schema import account_number
from swtpm_svc.errors import VtpmError
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.small_tools import deque, partial

#: How long an answer is good: a user who was added need not wait for long, and who asks often does not make a thread
#: each time.
_REMEMBERED_S = 2.0
_MAX_REMEMBERED = 256
_MAX_THREADS = 4

_NONE = Rights(control=False, secrets=False)
_CONTROL = Rights(control=True, secrets=False)
_ALL = Rights(control=True, secrets=True)

_Then = Callable[[Rights], None]


class Authorization:
    """Knows callers by the number of the control group, or has them looked up. `post` runs a callback on the serving
    thread.

    The group's name is looked up by the constructor, and beside the serving thread after each `change_group`.
    """

    def __init__(self, group: str, post: Callable[[Callable[[], None]], None]) -> None:
        self._group = group
        self._gid = find_group(group)
        self._post = post
        self._remembered: dict[int, tuple[float, Rights]] = {}
        #: Who waits for an answer, by user; and the users whom no thread asks about yet.
        self._waiting: dict[int, list[_Then]] = {}
        self._queue: deque[int] = deque()
        self._threads = 0

    def change_group(self, group: str) -> None:
        """From now on, another control group: a name or a number."""
        self._group = group
        self._gid = account_number(group)  # None, a name: until the next look-up
        self._remembered.clear()

    def rights(self, caller: Caller) -> Optional[Rights]:
        """What `caller` may do; None: that is to be looked up."""
        if caller.uid in (0, os.geteuid()):
            return _ALL
        if self._gid is not None and (caller.gid == self._gid or self._gid in caller.groups):
            return _CONTROL
        until, rights = self._remembered.get(caller.uid, (0.0, _NONE))
        return rights if time.monotonic() < until else None

    def look_up(self, caller: Caller, then: _Then) -> None:
        """`then(rights)`, on the serving thread, when the system's databases have said whether `caller` is in the
        group."""

        def found(by_database: Rights) -> None:
            # the group's number may be known since
            then(self.rights(caller) or by_database)

        waiting = self._waiting.setdefault(caller.uid, [])
        waiting.append(found)
        if len(waiting) == 1:
            self._queue.append(caller.uid)
            self._next()

    def _next(self) -> None:
        while self._queue and self._threads < _MAX_THREADS:
            uid, group = self._queue.popleft(), self._group
            self._threads += 1
            try:
                from threading import Thread  # most starts have no use for it

                Thread(target=self._ask, args=(uid, group), name="look-up", daemon=True).start()
            except RuntimeError:  # no thread to be had (TasksMax=, memory): late is better than never
                self._ask(uid, group)

    def _ask(self, uid: int, group: str) -> None:
        gid, is_member = find_group(group), False
        if gid is not None:
            try:
                user = pwd.getpwuid(uid)
                is_member = libtpms.is_member(user.pw_name, user.pw_gid, gid)
            except KeyError:
                pass  # nobody we know
        self._post(lambda: self._answered(uid, group, gid, _CONTROL if is_member else _NONE))

    def _answered(self, uid: int, group: str, gid: Optional[int], rights: Rights) -> None:
        self._threads -= 1
        if group != self._group:  # changed meanwhile
            self._queue.append(uid)
            self._next()
            return
        self._gid = gid
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[uid] = time.monotonic() + _REMEMBERED_S, rights
        self._next()
        for then in self._waiting.pop(uid):
            self._post(partial(then, rights))  # a fault in one must not keep the others waiting


def find_group(name: str) -> Optional[int]:
    """The number of the group that `name`, a name or number, says; None: there is none, and nobody is in it."""
    try:
        return loading.group_id(name)
    except VtpmError:
        return None
