"""Is it still the same TPM? The endorsement keys by which an instance was known, and what has become of them.

The record is a file beside the state (state/store.py): JSON, one object.

    {"format": 1,
     "keys": {"rsa2048": "SHA-256 of the SubjectPublicKeyInfo, hexadecimal", ...},
     "change": {"time": seconds since 1970, "was": {...}, "is": {...}}}  (of keys; null: never)

It holds nothing secret, and nothing depends on it: when it is damaged, it is made anew, with a warning.

A TPM 2.0 is asked for the keys that are stored at their standard handles; none is made for this, for that takes up to a second.
A TPM 1.2 is not asked: TPM_ReadPubek extends the audit digest, which clients see (measured), and with an owner it is refused. Its
key is read from its permanent state, which does not change it, and works with an owner too.
"""

import json
import time
from typing import Any, NamedTuple, Optional

from swtpm_svc.errors import VtpmError
from swtpm_svc.service.journal import IDENTITY_ID, Journal
from swtpm_svc.state.store import IDENTITY, Store
from swtpm_svc.tpm.tpm import PERMANENT_STATE, Tpm
from swtpm_svc.wire.protocol_error import ProtocolError

FORMAT = 1


class Record(NamedTuple):
    """The file. `keys`: fingerprints by algorithm."""

    keys: "dict[str, str]"
    change: "Optional[dict[str, Any]]" = None


class IdentityWatch:
    """Compares a TPM with the record of the one before it. All methods belong to the thread that may use the TPM."""

    def __init__(self, tpm: Tpm, store: Store, journal: Journal) -> None:
        self._tpm = tpm
        self._store = store
        self._journal = journal
        self._record: Optional[Record] = None

    def check(self) -> None:
        """Ask the TPM, tell the journal when its keys are others than before, and keep the record. Never raises VtpmError.

        Does nothing when the TPM cannot be asked now. What is new, without anything old being gone, is recorded in silence.
        """
        if not self._tpm.can_be_asked:
            return
        record = self._record if self._record is not None else self._load()
        self._record = record
        keys = self._read_keys()
        if keys is None or keys == record.keys:
            return
        lost = {name: was for name, was in record.keys.items() if keys.get(name) != was}
        change = record.change
        if lost:
            now = {name: keys.get(name) for name in lost}
            change = {"time": int(time.time()), "was": lost, "is": now}
            self._tell(lost, now)
        self._record = Record(keys, change)
        self._save(self._record)

    def describe(self) -> "Optional[dict[str, Any]]":
        """For the status: the keys and the last change. None: the TPM could not be asked yet."""
        return None if self._record is None else {"keys": self._record.keys, "change": self._record.change}

    def _tell(self, lost: "dict[str, str]", now: "dict[str, Optional[str]]") -> None:
        words = [
            f"{name} was sha256:{was}, " + (f"is now sha256:{now[name]}" if now[name] else "is not there any more")
            for name, was in lost.items()
        ]
        self._journal.log(
            "notice",
            f"this is another TPM than before: the endorsement key {'; '.join(words)}. What is bound to the TPM that was here is"
            " about to be locked out: BitLocker will ask for the recovery key, LUKS for the passphrase."
            f" To go back: stop the service and restore the old files of {self._store.directory}",
            message_id=IDENTITY_ID,
        )

    def _read_keys(self) -> "Optional[dict[str, str]]":
        """The fingerprints that there are now; None: they cannot be read."""
        try:
            return _keys_2_0(self._tpm) if self._tpm.version == "2.0" else _keys_1_2(self._tpm)
        except (VtpmError, ProtocolError) as error:  # not started, no room for one more object, failure mode
            self._journal.log("debug", f"the endorsement keys cannot be read now: {error}")
            return None

    def _load(self) -> Record:
        try:
            data = self._store.load_identity()
            return Record({}) if data is None else decode(data)
        except (VtpmError, ValueError) as error:
            path = f"{self._store.directory}/{IDENTITY}"
            self._journal.log(
                "warning", f"{path} is made anew, so this start tells no changed endorsement key: it cannot be used ({error})"
            )
            return Record({})

    def _save(self, record: Record) -> None:
        try:
            self._store.store_identity(encode(record))
        except VtpmError as error:
            self._journal.error(error, level="warning")


def encode(record: Record) -> bytes:
    return json.dumps({"format": FORMAT, **record._asdict()}, indent=1).encode() + b"\n"


def decode(data: bytes) -> Record:
    """
    Raises:
        ValueError: it is no record, or one of a format to come.
    """
    try:
        values = json.loads(data)
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, not {FORMAT}")
        keys, change = values["keys"], values["change"]
        known = [keys] if change is None else [keys, change["was"], {k: v for k, v in change["is"].items() if v is not None}]
        if not all(_is_fingerprint(value) for some in known for value in some.values()):
            raise ValueError("it has something else than fingerprints")
        if change is not None:
            change = {"time": int(change["time"]), "was": dict(change["was"]), "is": dict(change["is"])}
        return Record(dict(keys), change)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("it is no record of endorsement keys") from error


def _is_fingerprint(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def _keys_2_0(tpm: Tpm) -> "dict[str, str]":
    # imported here, as below: a start does not wait for it
    from swtpm_svc.provision import public_key
    from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
    from swtpm_svc.provision.tpm2 import Tpm2

    asked = Tpm2(tpm.ask)
    handles = [key.handle for key in ENDORSEMENT_KEYS.values()]
    stored = asked.handles(min(handles), max(handles))
    keys = {name: asked.read_key(key.handle) for name, key in ENDORSEMENT_KEYS.items() if key.handle in stored}
    return {name: public_key.fingerprint(key) for name, key in keys.items()}


#: A key in a TPM 1.2's state: TPM_KEY_PARMS of RSA 2048 with OAEP, in it the exponent, which may be left out; the sized modulus.
_KEY_1_2 = (
    rb"\0{3}\x01\0\x03\0\x01\0{3}.\0{2}\x08\0{4}\x02\0{3}(?:\0|\x01(.)|\x02(..)|\x03(...)|\x04(....))"
    rb"\0{2}\x01\0(.{256})"
)


def _keys_1_2(tpm: Tpm) -> "dict[str, str]":
    import re

    from swtpm_svc.provision import public_key
    from swtpm_svc.wire.public_key import DEFAULT_EXPONENT, RsaPublicKey

    # libtpms stores what TPM_PERMANENT_DATA has in the order of TPM Main Part 2 (measured). Of the keys in it the endorsement key
    # comes first, and there is no other one without it.
    found = re.search(_KEY_1_2, tpm.state(PERMANENT_STATE) or b"", re.DOTALL)
    if found is None:
        return {}
    *exponents, modulus = found.groups(b"")
    exponent = int.from_bytes(b"".join(exponents), "big") or DEFAULT_EXPONENT
    return {"rsa2048": public_key.fingerprint(RsaPublicKey(modulus, exponent))}
