"""What an instance says of itself: a line to systemd, and one JSON object to whoever asks (`vtpmctl status`)."""

import os

from swtpm_svc import __version__
from swtpm_svc.config.loading import Config
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service.events import EventLog
from swtpm_svc.service.identity.identity_watch import IdentityWatch
from swtpm_svc.service.served_device import ServedDevice
from swtpm_svc.service.stall import StallWatch
from swtpm_svc.service.status_socket import OPENERS_SHOWN
from swtpm_svc.service.systemd.notify import Notifier
from swtpm_svc.service.ways_in import WaysIn
from swtpm_svc.state.encryption import Keys
from swtpm_svc.state.store import Store
from swtpm_svc.tpm.pcr import pcr_banks
from swtpm_svc.tpm.power import Power
from swtpm_svc.tpm.self_report import self_report
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.hints import Any, Callable, Optional
from swtpm_svc.wire.values import NamedTuple


class Parts(NamedTuple):
    """What an instance that is served consists of: made when all of it is there, and handed on from then."""

    #: As it was at the start: a reload tells those whom it concerns (service/reload.py).
    config: Config
    keys: Keys
    store: Store
    tpm: Tpm
    identity: IdentityWatch
    dispatcher: Dispatcher
    device: ServedDevice
    #: None: the instance has no device.
    cuse: Optional[CuseFrontend]
    ways_in: WaysIn
    events: EventLog
    stall: StallWatch
    #: When the process was started, and how many before it went on with this TPM's clients.
    started: float
    restarts: int


class StatusLine:
    """The line that systemd shows. `words` gives it, from the time on when there is an instance to speak of."""

    def __init__(self, notifier: Notifier) -> None:
        self.words: Callable[[], str] = _nothing_yet
        self._notifier = notifier
        self._shown = ""

    def ready(self) -> None:
        """Tell systemd that the service is usable, with the line of now."""
        self._shown = self.words()
        self._notifier.ready(self._shown)

    def show(self) -> None:
        """Tell systemd, if the line has changed."""
        words = self.words()
        if words != self._shown:
            self._shown = words
            self._notifier.status(words)


def _nothing_yet() -> str:
    return ""


def line(parts: Parts) -> str:
    """For systemd: which TPM it is, where, and in what state."""
    tpm, failure = parts.tpm, parts.tpm.failure
    power = tpm.power.value if failure is None else f"{Power.FAILED.value}: {failure.cause.message}"
    places = [parts.config.device.node] if parts.config.device.enabled else parts.ways_in.places
    where = f" at {places[0]}" if places else ""
    stalled = ", its storage does not answer" if parts.stall.stalled else ""
    return f"TPM {tpm.version}{where}, {power}{stalled}"


def describe(parts: Parts) -> "dict[str, Any]":
    """For the status: the keys are what `vtpmctl --json status` shows."""
    config, tpm = parts.config, parts.tpm
    generation, sizes = parts.store.seen  # what was stored last: a disk may keep everybody waiting who looks at it
    openers = parts.cuse.openers() if parts.cuse is not None else []
    is_busy = parts.dispatcher.executor.busy
    return {
        "instance": config.instance,
        "version": __version__,
        "pid": os.getpid(),
        "tpm": {
            "version": tpm.version,
            "power": tpm.power.value,
            "failure": _describe_failure(parts),
            "healed": tpm.healed,
            "locality": tpm.locality,
            "buffer_size": tpm.buffer_size(0).size,
            "pcr_banks": [] if is_busy else pcr_banks(tpm),
            "says": None if is_busy else self_report(tpm),
        },
        "device": parts.device.describe(),
        "state": {
            "directory": config.state.place,
            "locked": parts.store.is_locked,
            "generation": generation,
            "bytes": sizes,
            "stalled": parts.stall.stalled,
            "encryption": parts.keys.state.mode if parts.keys.state else None,
        },
        "identity": parts.identity.describe(),
        "openers": [
            {
                "handle": record.handle,
                "pid": record.pid,
                "uid": record.uid,
                "pending": pending or bool(record.response),
            }
            for record, pending in openers[:OPENERS_SHOWN]
        ],
        "opener_count": len(openers),
        **parts.ways_in.describe(),
        "commands": parts.dispatcher.commands,
        "restarts": parts.restarts,
        "started": parts.started,
        "last_error": parts.events.last_error,
    }


def _describe_failure(parts: Parts) -> "Optional[dict[str, Any]]":
    failure = parts.tpm.failure
    if failure is None:
        return None
    cause = failure.cause
    return {
        "code": cause.code.value,
        "message": cause.message,
        "remedy": cause.of(parts.config.instance).remedy,
        "since": failure.since,
        "heals": failure.heals,
    }
