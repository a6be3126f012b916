"""The daemon's log: structured entries in systemd's journal, or lines on standard error where there is none.

Fields of an entry beside the usual ones: VTPM_INSTANCE, VTPM_TPM_VERSION; TPM_CC and TPM_RC (hexadecimal) and
CLIENT_PID, CLIENT_UID where a client's command or request is concerned; MESSAGE_ID, which `journalctl -x` explains.
"""

import os
import sys
import time

from swtpm_svc.errors import VtpmError, selinux_remedy
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.small_tools import suppress

#: syslog(3)
LEVELS = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}

JOURNAL_SOCKET = "/run/systemd/journal/socket"
#: How long a process that ends waits for journald. Longer than one that is well takes under any load that was measured.
TAKEN_S = 5.0
_LOOK_S = 0.002

# Entries that are not errors.
READY_ID = "abc243b06b7441b79c5c927b6acb9fcb"
STOPPED_ID = "97029c94206f4e89967377c05278e3b1"
RESUMED_ID = "c2d821af64dc42f6b1e1b079c73d5d2f"
RECOVERED_ID = "399a440610134df59cb023859d348f01"
LOCK_ID = "a00757ae6ee643cfbf875899faa5ea70"
RELOADED_ID = "108612b1bb5e4e7ea3bd29e6d17370dc"
IDENTITY_ID = "312890bbb9f7428d9c8d313e541cea59"
CLONE_ID = "d3db2203414343a19e773ab24f71830a"
HEALED_ID = "915b4fccb0e74e5c975b27a1cb1c0a0e"
STALLED_ID = "ad0d215e6f1849809f12c5d16300eb3f"
STALL_OVER_ID = "e36aa9491d684be598275a461f6de9c3"
COMMAND_ID = "7bcbfcd852604427b3ef1ffcaca9060f"
COUNT_ID = "839241c7196343dd8d809a1111446943"


class Journal:
    """Where the daemon says what it does. `level` may be changed at any time."""

    def __init__(self, instance: str, tpm_version: str, level: str, *, to_stderr: bool) -> None:
        self.level = LEVELS[level]
        self._instance = instance
        self._common = (
            f"VTPM_INSTANCE={instance}",
            f"VTPM_TPM_VERSION={tpm_version}",
            f"SYSLOG_IDENTIFIER=vtpmd-{instance}",
        )
        self._to_stderr = to_stderr or not os.path.exists(JOURNAL_SOCKET)
        self._is_taken = True

    def log(self, level: str, message: str, *, message_id: Optional[str] = None, **fields: object) -> None:
        """One entry. `fields` are journal fields in capitals; None leaves one out."""
        priority = LEVELS[level]
        if priority > self.level:
            return
        if self._to_stderr:
            self._print(level, message, fields)
            return
        from systemd._journal import sendv

        self._is_taken = False
        extra = [f"{name}={value}" for name, value in fields.items() if value is not None]
        if message_id:
            extra.append(f"MESSAGE_ID={message_id}")
        try:
            sendv(f"MESSAGE={message}", f"PRIORITY={priority}", *self._common, *extra)
        except OSError:
            self._print(level, message, fields)  # systemd catches this too, without the fields

    def _print(self, level: str, message: str, fields: "dict[str, object]") -> None:
        shown = "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
        try:
            print(f"vtpmd[{self._instance}] {level}: {message}{shown}", file=sys.stderr, flush=True)
        except OSError:
            pass  # nobody reads it; the TPM goes on

    def wait_until_taken(self, limit_s: float = TAKEN_S) -> None:
        """For a process that ends now: wait until journald has taken all entries, or for `limit_s`.

        journald takes the unit of an entry from /proc/PID/cgroup when it reads the entry. If the process is gone by
        then, the entry belongs to no unit, and `journalctl -u` does not show it.
        """
        if self._is_taken:
            return
        import fcntl
        import socket
        import termios

        deadline = time.monotonic() + limit_s
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as mark, suppress(OSError):
            mark.settimeout(limit_s)
            mark.connect(JOURNAL_SOCKET)
            # Without a byte it makes no entry (journald-server.c: server_process_datagram). journald is done with each
            # datagram before it reads the next: when it has read this one, it knows the units of those before.
            mark.send(b"")
            unread = bytearray(4)
            while time.monotonic() < deadline:
                fcntl.ioctl(mark, termios.TIOCOUTQ, unread, True)  # SIOCOUTQ: what the receiver has still to read
                if not any(unread):
                    break
                time.sleep(_LOOK_S)
        self._is_taken = True

    def error(self, error: VtpmError, *, level: str = "error", **fields: object) -> None:
        """A failure, with its remedy."""
        error = error.of(self._instance)
        remedy = "; ".join(part for part in (error.remedy, selinux_remedy(error)) if part)
        message = f"{error.message}; remedy: {remedy}" if remedy else error.message
        self.log(level, message, message_id=error.fault.message_id, VTPM_ERROR=error.code.value, **fields)
