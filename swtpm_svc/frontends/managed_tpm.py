"""The TPM as clients of a managed way in have it: each in a space of its own (docs/decisions/0029).

`ManagedTpm` has the resource manager, and sees to it that nobody else meets what the spaces have loaded: who comes by a
raw way in (`Tpm.give_way`), who takes the TPM's state elsewhere (`Controller.put_away`), and a TPM that had no power
(`Tpm.on_reset`). Imported when the first client comes: most TPMs never have one.
"""

from typing import Optional

from swtpm_svc.resources.manager import ResourceManager
from swtpm_svc.resources.space import Space
from swtpm_svc.resources.tpm_calls import Buffer
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.tpm_header import HEADER, HEADER_SIZE, ST_NO_SESSIONS

_TAG = slice(0, 2)
_PLAIN_TAG = ST_NO_SESSIONS.to_bytes(2, "big")


class ManagedTpm:
    """One for a TPM 2.0; its methods belong to the thread that has the TPM, but for `client`."""

    def __init__(self, tpm: Tpm, controller: Controller) -> None:
        self.tpm = tpm
        self.manager = ResourceManager(self._execute_at_tpm)
        #: Of the command in execution; None: that of the TPM.
        self._locality: Optional[int] = None
        tpm.on_reset = self._reset
        controller.put_away = self.put_away

    def client(self, caller: Caller) -> "Client":
        """For an open file or a connection of `caller`."""
        return Client(self, caller)

    def execute(self, space: Space, command: Buffer, locality: Optional[int]) -> bytes:
        self.tpm.give_way, self._locality = None, locality
        try:
            return self.manager.execute(space, command)
        finally:
            self._settle()

    def close(self, space: Space) -> None:
        self.tpm.give_way, self._locality = None, None
        try:
            self.manager.close(space)
        finally:
            self._settle()

    def put_away(self) -> None:
        """The TPM's state is taken elsewhere, where nobody knows the spaces; or it needs all room that it has."""
        self.tpm.give_way, self._locality = None, None
        try:
            self.manager.put_away()
        finally:
            self._settle()

    def _give_way(self, command: memoryview) -> None:
        self.tpm.give_way, self._locality = None, None
        try:
            self.manager.give_way(command)
        finally:
            self._settle()

    def _settle(self) -> None:
        """While there is nothing to give way with, others do not pay for asking."""
        self.tpm.give_way = None if self.manager.is_idle else self._give_way

    def _reset(self) -> None:
        self.manager.reset()
        self.tpm.give_way = None

    def _execute_at_tpm(self, command: Buffer) -> bytes:
        code = HEADER.unpack_from(command)[2] if len(command) >= HEADER_SIZE else 0
        if self._locality is None:
            return self.tpm.begin(memoryview(command), code)
        return self.tpm.begin_at(self._locality, memoryview(command), code)


class Client:
    """An open file or a connection: executes commands as `Tpm` does, in its space, which there is from the first one
    on."""

    def __init__(self, managed: ManagedTpm, caller: Caller) -> None:
        self.caller = caller
        self._managed = managed
        self._tpm = managed.tpm
        self.space: Optional[Space] = None
        self._is_closed = False

    def begin(self, command: memoryview, code: int) -> bytes:
        if code in self._managed.manager.plain and command[_TAG] == _PLAIN_TAG:
            return self._tpm.begin(command, code)
        return self._execute(command, None)

    def begin_at(self, locality: int, command: memoryview, _code: int) -> bytes:
        return self._execute(command, locality)

    def execute(self, command: memoryview, code: int) -> bytes:
        if not self._tpm.holds_lock():
            return self._tpm.dialect.fatal
        response = self.begin(command, code)
        return self.finish(response) if self._tpm.unstored else response

    def execute_at(self, locality: int, command: memoryview, code: int) -> bytes:
        if not self._tpm.holds_lock():
            return self._tpm.dialect.fatal
        response = self.begin_at(locality, command, code)
        return self.finish(response) if self._tpm.unstored else response

    def finish(self, response: bytes) -> bytes:
        kept = self._tpm.finish(response)
        if kept is not response:
            self._managed.manager.take_back()
        return kept

    def _execute(self, command: memoryview, locality: Optional[int]) -> bytes:
        if self._is_closed:  # it waited for the TPM, and its client has gone meanwhile
            return self._tpm.dialect.fatal
        if self.space is None:
            self.space = self._managed.manager.open(self.caller)
        return self._managed.execute(self.space, command, locality)

    def close(self) -> None:
        """Flush all that it has."""
        self._is_closed = True
        if self.space is not None:
            self._managed.close(self.space)
