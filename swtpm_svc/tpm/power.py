"""Power states of a TPM (swtpm_ioctl(8)), what was last done to it, why it has failed, and a TPM as a value.

Both kinds of state are tables here, and `Tpm` follows them. Only a RUNNING TPM executes commands: one that is OFF or
STOPPED answers each with TPM_FAIL or TPM_RC_FAILURE, one that has FAILED with TPM_FAILEDSELFTEST or TPM_RC_FAILURE, if
it does not heal first.
"""

from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.wire.enumerations import Enum, unique
from swtpm_svc.wire.values import NamedTuple


@unique
class Power(Enum):
    """OFF: not powered since the start.

    RUNNING. STOPPED: powered off by STOP. FAILED: powered, but answers with failure.
    """

    OFF = "off"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


@unique
class Event(Enum):
    """What changes the power state. STOP comes before each power-on, too: a reset when it was running."""

    POWER_ON = "libtpms has loaded the state, or made a new one"
    STOP = "PTM_STOP"
    SHUT_DOWN = "PTM_SHUTDOWN, or the service ends"
    FAILURE = "it cannot be stored, or libtpms is in failure mode"
    HEALING = "it can be stored again"


#: Where each event leads; what is not here does not happen.
TRANSITIONS = {
    (Power.OFF, Event.POWER_ON): Power.RUNNING,
    (Power.STOPPED, Event.POWER_ON): Power.RUNNING,
    (
        Power.FAILED,
        Event.POWER_ON,
    ): Power.RUNNING,  # on the way back to what was before a command, and then FAILED again
    (Power.OFF, Event.STOP): Power.STOPPED,
    (Power.RUNNING, Event.STOP): Power.STOPPED,
    (Power.STOPPED, Event.STOP): Power.STOPPED,
    (Power.FAILED, Event.STOP): Power.STOPPED,
    (Power.OFF, Event.SHUT_DOWN): Power.OFF,
    (Power.RUNNING, Event.SHUT_DOWN): Power.OFF,
    (Power.STOPPED, Event.SHUT_DOWN): Power.OFF,
    (Power.FAILED, Event.SHUT_DOWN): Power.OFF,
    (Power.OFF, Event.FAILURE): Power.FAILED,  # what was before a command is not accepted any more
    (Power.RUNNING, Event.FAILURE): Power.FAILED,
    (Power.FAILED, Event.FAILURE): Power.FAILED,
    (Power.FAILED, Event.HEALING): Power.RUNNING,
}


@unique
class Last(Enum):
    """What was last done to a TPM that has power; the value is that of the two flags in `Snapshot`.

    It decides whether TPM2_Shutdown is due before the power goes (only after WORK), and whether the service may ask it
    something (not after a shutdown, which any command undoes).
    """

    WORK = (False, False)
    #: The last command was a TPM2_Shutdown that succeeded.
    SHUTDOWN = (True, False)
    #: The volatile state in storage is that of this very moment, and the next power-on goes on from there.
    STORE = (False, True)
    SHUTDOWN_AND_STORE = (True, True)

    @property
    def is_shut_down(self) -> bool:
        return self.value[0]

    @property
    def volatile_is_stored(self) -> bool:
        return self.value[1]


@unique
class Step(Enum):
    """What is done to it."""

    BEGIN = "what may change it is begun: a command, or an operation such as the hash sequence"
    COMMAND = "a command was executed"
    SHUTDOWN = "the command was a TPM2_Shutdown that succeeded"
    STORE = "PTM_STORE_VOLATILE has stored its volatile state, or it goes on from one that stays stored"


#: What was last done, after each step.
STEPS = {
    (Last.WORK, Step.BEGIN): Last.WORK,
    (Last.SHUTDOWN, Step.BEGIN): Last.SHUTDOWN,
    (Last.STORE, Step.BEGIN): Last.WORK,
    (Last.SHUTDOWN_AND_STORE, Step.BEGIN): Last.SHUTDOWN,
    **{(last, Step.COMMAND): Last.WORK for last in Last},
    **{(last, Step.SHUTDOWN): Last.SHUTDOWN for last in Last},
    (Last.WORK, Step.STORE): Last.STORE,
    (Last.SHUTDOWN, Step.STORE): Last.SHUTDOWN_AND_STORE,
    (Last.STORE, Step.STORE): Last.STORE,
    (Last.SHUTDOWN_AND_STORE, Step.STORE): Last.SHUTDOWN_AND_STORE,
}


class Failure(NamedTuple):
    """Why a TPM has failed."""

    cause: VtpmError
    #: Seconds since 1970.
    since: float
    #: It only could not be stored: it runs again as soon as it can be.
    heals: bool


def in_failure_mode() -> VtpmError:
    """The cause of a failure that only a reset ends."""
    return VtpmError(
        Code.TPM_FAILED,
        "libtpms is in failure mode: an internal check of it has failed",
        remedy=f"reset it (vtpmctl reset {NAME}, or its guest); if that does not help, copy its state for a report",
    )


class Snapshot(NamedTuple):
    """A TPM, complete: enough for another process to go on with it. The blobs are empty where it does not run."""

    power: str
    locality: int
    permanent: bytes
    volatile: bytes
    #: The value of `Last`.
    is_shut_down: bool
    volatile_is_stored: bool
    #: State blobs that were set and wait for the next power-on.
    offered: "dict[str, bytes]"
