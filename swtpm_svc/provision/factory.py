"""A new TPM, made in this process and in memory: what reaches the disk is only the finished state.

libtpms writes its whole state at each change, some twenty times for a TPM with certificates; on a disk each is two
fsyncs.
"""

import json
from typing import Callable, NamedTuple, Optional, TypeVar

from swtpm_svc.errors import VtpmError, internal
from swtpm_svc.provision.issuer import Issuer
from swtpm_svc.provision.manufacture import Made, Order, manufacture_1_2, manufacture_2_0
from swtpm_svc.provision.memory_storage import MemoryStorage
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.tpm.state_blobs import PERMANENT_STATE
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.dialect import DIALECTS
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import InfoFlag
from swtpm_svc.wire.tpm_header import decode_header

#: These are meant for certificates.
_INFO_FLAGS = InfoFlag.SPECIFICATION | InfoFlag.ATTRIBUTES

Result = TypeVar("Result")


class Ownership(NamedTuple):
    """Of a TPM 1.2: the authorization values of owner and storage root key."""

    owner: bytes
    srk: bytes


class Product(NamedTuple):
    """A finished TPM: its permanent state, and what was made in it."""

    state: bytes
    made: "list[Made]"


def _damaged(name: str, reason: str) -> VtpmError:
    return internal("making a TPM", RuntimeError(f"{name}: {reason}"))


def make(
    version: str,
    order: Order,
    issuer: Optional[Issuer],
    ownership: Optional[Ownership] = None,
    *,
    profile: str = "none",
) -> Product:
    """`profile`: as in profiles.py.

    Raises:
        VtpmError LIBTPMS, TPM_REFUSED, and what manufacture raises.
    """

    def work(tpm: Tpm) -> "list[Made]":
        if issuer is not None:
            issuer.tpm = facts(tpm)
        return _make(tpm, order, issuer, ownership)

    return Product(*operate(version, work, profile=profile))


def operate(
    version: str, work: Callable[[Tpm], Result], *, permanent: Optional[bytes] = None, profile: str = "none"
) -> "tuple[bytes, Result]":
    """Have `work` done on a TPM in memory that was started; its permanent state then, and what `work` returns.

    `permanent`: the state to begin with; None: a new TPM. `profile`: as for make().

    Raises:
        VtpmError LIBTPMS, TPM_REFUSED, STATE_CORRUPT: libtpms does not take `permanent`; and what `work` raises.
    """
    storage = MemoryStorage({}, _damaged)
    if permanent is not None:
        storage.store(PERMANENT_STATE, permanent)
    failures: list[VtpmError] = []
    tpm = Tpm(version, storage, failures.append)
    tpm.profile = profile
    tpm.power_on(delete_volatile=True)
    try:
        started = decode_header(tpm.startup("clear")).code
        if started:
            raise RefusedByTpm(tpm.version, DIALECTS[tpm.version].startup_code, started)
        result = work(tpm)
    except ProtocolError as error:
        raise internal("making a TPM", error) from error
    finally:
        tpm.shut_down()
    if failures:
        raise failures[0]
    state = storage.load(PERMANENT_STATE)
    assert state is not None
    return state, result


def executor(tpm: Tpm) -> Callable[[bytes], bytes]:
    """What executes a command on it, for Tpm2 and Tpm12."""

    def execute(command: bytes) -> bytes:
        return tpm.execute(memoryview(bytearray(command)), decode_header(command).code)

    return execute


def _make(tpm: Tpm, order: Order, issuer: Optional[Issuer], ownership: Optional[Ownership]) -> "list[Made]":
    execute = executor(tpm)
    if tpm.version == "2.0":
        return manufacture_2_0(Tpm2(execute), order, issuer)
    if ownership is None:
        return manufacture_1_2(Tpm12(execute), issuer)
    return manufacture_1_2(Tpm12(execute), issuer, owner=ownership.owner, srk=ownership.srk)


def facts(tpm: Tpm) -> "tuple[str, str, str, str, int, int]":
    """What libtpms says of itself for certificates, in the order of certificates.TpmFacts."""
    found = json.loads(tpm.info(_INFO_FLAGS))
    specification, attributes = found["TPMSpecification"], found["TPMAttributes"]
    return (
        attributes["manufacturer"],
        attributes["model"],
        attributes["version"],
        specification["family"],
        specification["level"],
        specification["revision"],
    )
