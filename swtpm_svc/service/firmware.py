"""What the firmware of a machine does for its TPM, where there is none: the Startup command after each power-on.

A client that brings a data channel of its own to the control socket is a machine, whose firmware does it
(frontends/sockets/control_channel.py), as are those of the protocol of Microsoft's simulator.
"""

from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import return_codes
from swtpm_svc.wire.hints import Callable
from swtpm_svc.wire.tpm_header import decode_header


def starter(tpm: Tpm, kind: str, journal: Journal) -> Callable[[], None]:
    """What starts the TPM as [tpm] startup says, after a power-on."""

    def start() -> None:
        if kind == "none" or not tpm.is_running or tpm.is_started():  # as when it goes on with its volatile state
            return
        result = decode_header(tpm.startup(kind)).code
        if result and tpm.failure is None:
            words = return_codes.describe(tpm.version, result)
            journal.log("warning", f"startup {kind}: {words}", TPM_RC=f"{result:#x}")

    return start
