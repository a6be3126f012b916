"""What the daemon tells about itself: one JSON object for each connection to a UNIX socket, `vtpmctl status` reads
it."""

import os

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends import socket_file
from swtpm_svc.frontends.sockets.listener import Listener
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.service.identity import clones
from swtpm_svc.wire.hints import Any, Callable, Optional

#: Listed one by one; more are only counted.
OPENERS_SHOWN = 64


def runtime_path(instance: str, name: str) -> str:
    """A file in the runtime directory that systemd made, or where it would be."""
    paths = [path for path in os.environ.get("RUNTIME_DIRECTORY", "").split(":") if path != clones.own_directory()]
    directory = next(filter(None, paths), f"/run/vtpm/{instance}")
    return f"{directory}/{name}"


class StatusServer:
    """Listens on `path`, from `open` to `close`; `describe` is asked at each connection. Owns the socket and its
    file."""

    def __init__(
        self, path: str, describe: "Callable[[], dict[str, Any]]", watcher: Watcher, failed: Callable[[VtpmError], None]
    ) -> None:
        self.path = path
        self._describe = describe
        self._watcher = watcher
        self._failed = failed
        self._listener: Optional[Listener] = None

    def open(self) -> None:
        """Start to listen.

        Raises:
            OSError: the directory is not there or not ours.
        """
        try:
            os.unlink(self.path)  # of a predecessor; the state's lock says that it is gone
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            socket_file.bind(listener, self.path, 0o666)  # nothing secret is told, and nothing is listened to
            listener.listen(16)
        except OSError:
            listener.close()
            raise
        self._listener = Listener(listener, self._watcher, self._answer, self._failed)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            try:
                os.unlink(self.path)
            except OSError:
                pass

    def _answer(self, client: socket.socket) -> None:
        import json

        with client:
            client.setblocking(False)
            try:
                client.sendall(json.dumps(self._describe()).encode() + b"\n")
            except (OSError, VtpmError):
                pass  # no waiting for a client that does not read; one that asks for what cannot be read gets nothing
