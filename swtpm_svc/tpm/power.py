"""Power states of a TPM (swtpm_ioctl(8)), why it has failed, and a TPM as a value."""

from enum import Enum, unique
from typing import NamedTuple

from swtpm_svc.errors import VtpmError


@unique
class Power(Enum):
    """OFF: not powered since the start.

    RUNNING. STOPPED: powered off by STOP. FAILED: powered, but answers with failure.
    """

    OFF = "off"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


class Failure(NamedTuple):
    """Why a TPM has failed."""

    cause: VtpmError
    #: Seconds since 1970.
    since: float
    #: It only could not be stored: it runs again as soon as it can be.
    heals: bool


class Snapshot(NamedTuple):
    """A TPM, complete: enough for another process to go on with it. The blobs are empty where it does not run."""

    power: str
    locality: int
    permanent: bytes
    volatile: bytes
    #: The two flags of `Tpm`.
    is_shut_down: bool
    volatile_is_stored: bool
    #: State blobs that were set and wait for the next power-on.
    offered: "dict[str, bytes]"
