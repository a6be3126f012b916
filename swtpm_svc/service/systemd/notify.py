"""systemd's side of the service: readiness, status, watchdog, and the descriptors that it keeps (sd_notify(3))."""

import os

from systemd._daemon import notify as _sd_notify

from swtpm_svc.wire.hints import Optional

#: What systemd passed, by name.
Descriptors = dict[str, list[int]]

FIRST_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


def passed_descriptors() -> Descriptors:
    """The descriptors that systemd passed, by name (OpenFile=, the descriptor store); close-on-exec from here on."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: Descriptors = {}
    for index in range(count):
        fd = FIRST_FD + index
        os.set_inheritable(fd, False)
        found.setdefault(names[index] if index < len(names) else "", []).append(fd)
    return found


class Notifier:
    """Tells systemd; does nothing where there is none."""

    def __init__(self) -> None:
        self.active = bool(os.environ.get("NOTIFY_SOCKET"))

    def watchdog_period_s(self) -> Optional[float]:
        """How often to say that we live: twice in the time that systemd allows. None: it does not want to know."""
        limit_us = os.environ.get("WATCHDOG_USEC", "")
        if not limit_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        return int(limit_us) / 2e6

    def _send(self, text: str, fds: "Optional[list[int]]" = None) -> None:
        if not self.active:
            return
        try:
            if fds:
                _sd_notify(text, fds=fds)
            else:
                _sd_notify(text)
        except OSError:
            pass  # a socket that is not there, or full, is no reason to leave clients without their TPM

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def reloading(self) -> None:
        import time

        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: int) -> None:
        """Ask for more time, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def park(self, name: str, fd: int) -> None:
        """Have systemd keep `fd` for a successor; FDPOLL=0, or it would drop it when nobody serves it."""
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def unpark(self, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")
