"""One connection of a stream socket: receive without waiting, send without waiting, close once."""

import os

from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable

#: A peer that leaves more than this unread is disconnected. The largest reply is a state blob of less than 300 KiB.
MAX_UNSENT = 2 << 20


class Channel:
    """Owns `sock`. `on_closed(self)` is called once, however it ends."""

    def __init__(
        self, sock: socket.socket, caller: Caller, watcher: Watcher, on_closed: "Callable[[Channel], None]"
    ) -> None:
        self.caller = caller
        self._socket = sock
        self._watcher = watcher
        self._on_closed = on_closed
        self._unsent = bytearray()
        self._open = True
        self._paused = False
        self._is_finishing = False
        self._is_tcp = is_tcp(sock)
        if self._is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        watcher.add(sock.fileno(), self.on_readable)

    @property
    def is_open(self) -> bool:
        return self._open

    def on_readable(self) -> None:
        raise NotImplementedError

    def pause(self) -> None:
        """Receive nothing for a while; the peer's bytes wait in the kernel."""
        if not self._paused:
            self._paused = True
            self._watcher.remove(self._socket.fileno())

    def go_on(self) -> None:
        """After `pause`."""
        if self._open and self._paused:
            self._paused = False
            self._watcher.add(self._socket.fileno(), self.on_readable)
            if self._unsent:
                self._watcher.want_write(self._socket.fileno(), self._flush)

    def take_turns(self, work: Callable[[], None]) -> None:
        """Have `work` done in the loop's next turn, when others had theirs; receive nothing until `go_on`."""
        self.pause()
        self._watcher.post(work)

    def expect_rest(self) -> None:
        """What has come is a piece of a message."""
        if self._is_tcp:
            acknowledge(self._socket)

    def send(self, data: bytes) -> None:
        """Send all of `data`, now or when the peer has room for it."""
        if not self._open:
            return
        if self._unsent:
            self._unsent += data
        else:
            try:
                sent = self._socket.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent < len(data):
                self._unsent += data[sent:]
                if not self._paused:
                    self._watcher.want_write(self._socket.fileno(), self._flush)
        if len(self._unsent) > MAX_UNSENT:
            self.close()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._watcher.want_write(self._socket.fileno(), None)
            if self._is_finishing:
                self.close()

    def finish(self) -> None:
        """Close it when all is sent."""
        if self._unsent:
            self._is_finishing = True
        else:
            self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._watcher.remove(self._socket.fileno())
            self._socket.close()
            self._on_closed(self)


def is_tcp(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def acknowledge(sock: socket.socket) -> None:
    """Have what has come over TCP acknowledged now.

    A peer that writes a message in pieces, without TCP_NODELAY, sends the next piece only then, and the kernel would
    wait for something to send along: 40 ms (tcp(7), TCP_QUICKACK, which does not last).
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    except OSError:
        pass  # the peer has gone, which the next recv() says


def close_all(fds: "list[int]") -> None:
    """Descriptors that came along and that nobody wants."""
    for fd in fds:
        os.close(fd)
