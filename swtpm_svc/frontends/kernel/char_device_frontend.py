"""A character device of the caller's, such as a terminal: TPM commands are read from it, responses written to it.

Unlike the kernel's driver it may give a command in pieces; its size is in its header.
"""

import os
from typing import Callable

from swtpm_svc.frontends.dispatch import ALL_RIGHTS, Dispatcher
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import MAX_LOCALITY
from swtpm_svc.tpm.libtpms import BUFFER_SIZE
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import VTPM_PROXY_SET_LOCALITY
from swtpm_svc.wire.tpm_header import ERROR_TAG, HEADER, HEADER_SIZE, encode_response

#: Who is behind it is not told; whoever passed it has let him in.
_CALLER = Caller(uid=0, gid=0, pid=0)


class CharDeviceFrontend:
    """Answers on `fd`, which it owns. `on_gone` is called once when it hangs up."""

    def __init__(
        self,
        watcher: Watcher,
        dispatcher: Dispatcher,
        fd: int,
        on_gone: Callable[[], None],
        *,
        obeys_set_locality: bool = False,
    ) -> None:
        self._fd = fd
        self._watcher = watcher
        self._dispatcher = dispatcher
        self._on_gone = on_gone
        self._obeys_set_locality = obeys_set_locality
        self._received = bytearray()
        self._is_open = True
        self._is_waiting = False
        watcher.add(fd, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, BUFFER_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_gone()
            return
        self._received += data
        if len(self._received) < HEADER_SIZE:
            return
        _tag, size, code = HEADER.unpack_from(self._received)
        if len(self._received) < min(size, BUFFER_SIZE):
            return
        command, self._received = self._received, bytearray()
        if self._obeys_set_locality and code == VTPM_PROXY_SET_LOCALITY:
            self._write(self._set_locality(command))
            return
        self._is_waiting = not self._dispatcher.run(_CALLER, command, self._answer, rights=ALL_RIGHTS)
        if self._is_waiting:
            self._watcher.remove(self._fd)

    def _answer(self, response: bytes) -> None:
        self._write(response)
        if self._is_waiting and self._is_open:
            self._is_waiting = False
            self._watcher.add(self._fd, self._on_readable)

    def _set_locality(self, command: bytearray) -> bytes:
        tpm = self._dispatcher.tpm
        locality = command[HEADER_SIZE] if len(command) > HEADER_SIZE else 0
        if locality > MAX_LOCALITY:
            return tpm.dialect.bad_locality
        tpm.set_locality(locality)
        return encode_response(ERROR_TAG[tpm.version], 0)

    def _write(self, response: bytes) -> None:
        try:
            while response and self._is_open:
                response = response[os.write(self._fd, response) :]
        except OSError:
            pass  # that it hung up is what the next read says

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._watcher.remove(self._fd)
            os.close(self._fd)
