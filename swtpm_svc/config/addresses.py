"""Addresses of sockets as a configuration and a command line have them: text -> values. No I/O."""

import os

from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

#: sun_path of struct sockaddr_un without its terminating zero (unix(7)), in bytes.
UNIX_PATH_MAX = 107
PORT_MAX = 65535
#: vsock(7): ports and context identifiers (CID) have 32 bits, and the highest of each means any.
VSOCK_ANY = (1 << 32) - 1
_TCP_PATTERN = r"tcp:(?:([A-Za-z0-9.-]{1,253}):|\[([0-9A-Fa-f:.]{2,45})\]:)?([0-9]{1,5})"
_VSOCK_PATTERN = r"vsock:(any|[0-9]{1,10}):([0-9]{1,10})"


class Address(NamedTuple):
    """Where to listen: a UNIX path, or (path empty) a TCP host and port, or a port of vsock(7), where `cid` is one."""

    path: str
    host: str
    port: int
    cid: Optional[int] = None

    @property
    def next_port(self) -> "Address":
        """Of the mssim protocol: where `mssim-platform` is, if `mssim` is here."""
        return self._replace(port=self.port + 1)

    def __str__(self) -> str:
        if self.cid is not None:
            return f"vsock:{'any' if self.cid == VSOCK_ANY else self.cid}:{self.port}"
        return self.path or f"tcp:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str) -> Optional[Address]:
    """`none`, an absolute path, tcp:[HOST:]PORT, where HOST is 127.0.0.1 if it is left out, or vsock:CID:PORT.

    Raises:
        ValueError: the text has none of these forms, or the path is too long for a socket.
    """
    if text == "none":
        return None
    if text.startswith("tcp:"):
        import re  # which a start without such an address does not wait for

        match = re.fullmatch(_TCP_PATTERN, text)
        if match is None or not 0 < int(match[3]) <= PORT_MAX:
            raise ValueError(f"no host and port in {text!r}")
        return Address("", match[1] or match[2] or "127.0.0.1", int(match[3]))
    if text.startswith("vsock:"):
        import re

        match = re.fullmatch(_VSOCK_PATTERN, text)
        cid = VSOCK_ANY if match and match[1] == "any" else int(match[1]) if match else VSOCK_ANY + 1
        if match is None or cid > VSOCK_ANY or not 0 < int(match[2]) < VSOCK_ANY:
            raise ValueError(f"no context identifier and port in {text!r}")
        return Address("", "", int(match[2]), cid)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"neither a path nor tcp: nor vsock: {text!r}")
    if len(os.fsencode(text)) > UNIX_PATH_MAX:
        raise ValueError(f"a socket's path has at most {UNIX_PATH_MAX} bytes")
    return Address(text, "", 0)
