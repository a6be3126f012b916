"""Is it still the same TPM? The endorsement keys by which an instance was known, and what has become of them.

When the record of it (service/identity/identity_record.py) is damaged, it is made anew, with a warning.

A TPM 2.0 is asked for the keys that are stored at their standard handles; none is made for this, for that takes up to a
second. Where none was known, what tells it from others is the mark of its storage hierarchy (Tpm2.storage_mark). A TPM
1.2 is not asked: TPM_ReadPubek extends the audit digest, which clients see (measured), and with an owner it is refused.
Its key is read from its permanent state, which does not change it, and works with an owner too.
"""

import os
import time

from swtpm_svc.errors import VtpmError
from swtpm_svc.service.identity import clones
from swtpm_svc.service.identity.identity_record import STORAGE, Record, RecordFile
from swtpm_svc.service.systemd.journal import CLONE_ID, IDENTITY_ID, Journal
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.state_blobs import PERMANENT_STATE
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.hints import Any, Callable, Optional
from swtpm_svc.wire.protocol_error import ProtocolError


class IdentityWatch:
    """Compares a TPM with the record of the one before it. All methods belong to the thread that may use the TPM."""

    def __init__(
        self,
        tpm: Tpm,
        file: RecordFile,
        journal: Journal,
        shown: Optional[str] = None,
        *,
        later: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        """`shown`: the directory that shows to the other instances what this one is known by
        (service/identity/clones.py); `later` does what may take as long as a disk does."""
        self._tpm = tpm
        self._later = later
        self._file = file
        self._journal = journal
        self._shown = shown
        self._record: Optional[Record] = None
        #: The other instances that have the same TPM.
        self._clones: list[str] = []

    def check(self) -> None:
        """Ask the TPM, tell the journal when its keys are others than before, and keep the record. Never raises
        VtpmError.

        Does nothing when the TPM cannot be asked now. What is new, without anything old being gone, is recorded in
        silence. It also tells when another instance that is served has the same keys.
        """
        if not self._tpm.can_be_asked:
            return
        record = self._record if self._record is not None else self._load()
        self._record = record
        found = self._read()
        if found is None:
            return
        if found.storage is None and self._tpm.version == "2.0":
            found = found._replace(storage=record.storage)
        found = found._replace(change=record.change)
        self._look_for_clones(found)
        if found == record:
            return
        lost, now = _lost(record, found)
        if lost:
            found = found._replace(change={"time": int(time.time()), "was": lost, "is": now})
            self._tell(lost, now)
        self._record = found
        self._later(lambda: self._save(found))

    def describe(self) -> "Optional[dict[str, Any]]":
        """For the status: the keys and the last change. None: the TPM could not be asked yet."""
        if self._record is None:
            return None
        return {"keys": self._record.keys, "change": self._record.change, "clones": self._clones}

    def _look_for_clones(self, found: Record) -> None:
        if self._shown is None:
            return
        words = found.words()
        directory, own = os.path.split(self._shown)
        try:
            clones.show(self._shown, words)
        except OSError as error:
            self._journal.log("debug", f"copies of this TPM cannot be noticed: {self._shown}: {error.strerror}")
            return
        others = {name for names in clones.who_has(words, directory).values() for name in names} - {own}
        if others - set(self._clones):
            self._journal.log(
                "warning",
                f"this TPM is that of {', '.join(sorted(others))}, too: one state is a copy of the other, and both are "
                "served."
                " What is sealed to one opens with the other, attestation cannot tell them apart, and what one stores "
                "the other"
                " does not know. Stop the copy, move its state away, and start it with a TPM of its own",
                message_id=CLONE_ID,
            )
        self._clones = sorted(others)

    def _tell(self, lost: "dict[str, str]", now: "dict[str, Optional[str]]") -> None:
        self._journal.log(
            "notice",
            "this is another TPM than before, or it was cleared:"
            f" {'; '.join(_words(name, was, now[name]) for name, was in lost.items())}. What is bound to the TPM that "
            "was here is"
            " about to be locked out: BitLocker will ask for the recovery key, LUKS for the passphrase."
            f" To go back: stop the service and restore the old files of {self._file.state_directory}",
            message_id=IDENTITY_ID,
        )

    def _read(self) -> Optional[Record]:
        """What there is now; None: it cannot be read."""
        try:
            return _read_2_0(self._tpm) if self._tpm.version == "2.0" else Record(_keys_1_2(self._tpm))
        except (VtpmError, ProtocolError) as error:  # not started, no room for one more object, failure mode
            self._journal.log("debug", f"the endorsement keys cannot be read now: {error}")
            return None

    def _load(self) -> Record:
        try:
            return self._file.load()
        except (VtpmError, ValueError) as error:
            what = f"{self._file.path} is made anew, so this start tells no changed endorsement key"
            self._journal.log("warning", f"{what}: it cannot be used ({error})")
            self._save(Record({}))
            return Record({})

    def _save(self, record: Record) -> None:
        try:
            self._file.save(record)
        except VtpmError as error:
            self._journal.error(error, level="warning")


class Chores:
    """Does what a watch wants to be done so that no client waits longer than it must.

    `has_clients` is set at READY: before that nobody waits.
    """

    def __init__(self, executor: Executor) -> None:
        self.has_clients = False
        self._executor = executor

    def with_tpm(self, work: Callable[[], None]) -> None:
        """From the serving thread: `work` now, or on the worker after what has the TPM."""
        if self._executor.busy:
            self._executor.submit(work, _done)
        else:
            work()

    def with_disk(self, work: Callable[[], None]) -> None:
        """From any thread: `work`, which may take as long as a disk does, where nobody waits for it."""
        if self.has_clients and _is_main_thread():
            self._executor.submit(work, _done, is_essential=True)
        else:  # nobody waits yet, or this is the worker, whose job it is a part of
            work()


def _is_main_thread() -> bool:
    from threading import current_thread, main_thread  # a start has no use for it

    return current_thread() is main_thread()


def _done(_result: None) -> None:
    pass


def _lost(record: Record, found: Record) -> "tuple[dict[str, str], dict[str, Optional[str]]]":
    """What was known and has changed, or is gone: what it was, and what it is now."""
    if not record.keys and record.storage is not None and record.storage != found.storage:
        return {STORAGE: record.storage}, {STORAGE: found.storage}
    lost = {name: was for name, was in record.keys.items() if found.keys.get(name) != was}
    return lost, {name: found.keys.get(name) for name in lost}


def _words(name: str, was: str, now: Optional[str]) -> str:
    what, kind = ("its storage hierarchy", "") if name == STORAGE else (f"the endorsement key {name}", "sha256:")
    return f"{what} was {kind}{was}, " + (f"is now {kind}{now}" if now else "is not there any more")


def _read_2_0(tpm: Tpm) -> Record:
    # imported here, as below: a start does not wait for it
    from swtpm_svc.provision import subject_public_key
    from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
    from swtpm_svc.provision.tpm2_owner import Tpm2

    asked = Tpm2(tpm.ask)
    handles = [key.handle for key in ENDORSEMENT_KEYS.values()]
    stored = asked.handles(min(handles), max(handles))
    keys = {name: asked.read_key(key.handle) for name, key in ENDORSEMENT_KEYS.items() if key.handle in stored}
    mark = asked.storage_mark()
    return Record(
        {name: subject_public_key.fingerprint(key) for name, key in keys.items()},
        None if mark is None else f"{mark:016x}",
    )


#: A key in a TPM 1.2's state: TPM_KEY_PARMS of RSA 2048 with OAEP, in it the exponent, which may be left out; the sized
#: modulus.
_KEY_1_2 = (
    rb"\0{3}\x01\0\x03\0\x01\0{3}.\0{2}\x08\0{4}\x02\0{3}(?:\0|\x01(.)|\x02(..)|\x03(...)|\x04(....))"
    rb"\0{2}\x01\0(.{256})"
)


def _keys_1_2(tpm: Tpm) -> "dict[str, str]":
    import re

    from swtpm_svc.provision import subject_public_key
    from swtpm_svc.wire.public_key import DEFAULT_EXPONENT, RsaPublicKey

    # libtpms stores what TPM_PERMANENT_DATA has in the order of TPM Main Part 2 (measured). Of the keys in it the
    # endorsement key comes first, and without it there is no other key.
    found = re.search(_KEY_1_2, tpm.blobs.get(PERMANENT_STATE) or b"", re.DOTALL)
    if found is None:
        return {}
    *exponents, modulus = found.groups(b"")
    exponent = int.from_bytes(b"".join(exponents), "big") or DEFAULT_EXPONENT
    return {"rsa2048": subject_public_key.fingerprint(RsaPublicKey(modulus, exponent))}
