"""A socket that connections arrive on, of any front end or of the status: accepts them, and waits where it cannot."""

import errno

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.wire.hints import Callable

#: The process or the system has no descriptor or memory for one more connection, which stays in the listening socket's
#: queue.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_S = 0.5


class Listener:
    """Owns `sock`.

    `on_connection(connection)` owns what it is given; `failed` hears once when connections have to wait.
    """

    def __init__(
        self,
        sock: socket.socket,
        watcher: Watcher,
        on_connection: Callable[[socket.socket], None],
        failed: Callable[[VtpmError], None],
    ) -> None:
        self.socket = sock
        self._watcher = watcher
        self._on_connection = on_connection
        self._failed = failed
        self._is_open = True
        self._is_waiting = False
        sock.setblocking(False)
        self._watch()

    def _watch(self) -> None:
        if self._is_open:
            self._watcher.add(self.socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _address = self.socket.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._wait(error)
            return  # else the client has gone already
        self._is_waiting = False
        self._on_connection(connection)

    def _wait(self, error: OSError) -> None:
        """Look again after a while: the descriptor stays readable, and would keep a processor busy."""
        self._watcher.remove(self.socket.fileno())
        self._watcher.after(_PAUSE_S, self._watch)
        if not self._is_waiting:
            self._is_waiting = True
            self._failed(
                VtpmError(
                    Code.TOO_MANY,
                    f"connections at {self.socket.getsockname() or 'a socket'} have to wait: {error.strerror}",
                    remedy=(
                        "close connections that nobody needs, or let the service have more descriptors: LimitNOFILE="
                    ),
                )
            )

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._watcher.remove(self.socket.fileno())
            self.socket.close()
