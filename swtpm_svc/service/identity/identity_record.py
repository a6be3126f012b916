"""The record of what an instance's TPM was known by, and the file that it is kept in.

    /var/lib/vtpm-identity/NAME/identity.json   under systemd, which makes the directory: it outlives the state
    STATE/identity.json                         where there is no such directory, as for a daemon that is run by hand

JSON, one object.

    {"format": 1,
     "keys": {"rsa2048": "SHA-256 of the SubjectPublicKeyInfo, hexadecimal", ...},
     "storage": "the mark of a TPM 2.0's storage hierarchy, hexadecimal",  (null: not known)
     "change": {"time": seconds since 1970, "was": {...}, "is": {...}}}    (of keys, or of storage; null: never)

It holds nothing secret, and nothing depends on it.
"""

import os

from swtpm_svc.errors import VtpmError
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.state.files import Directory
from swtpm_svc.state.state_directory import IDENTITY
from swtpm_svc.state.store import Store
from swtpm_svc.wire.hints import Any, Optional, TracebackType
from swtpm_svc.wire.values import NamedTuple

FORMAT = 1
STORAGE = "storage"
#: The directory that the unit's second StateDirectory= is in; a drop-in may add others.
_PARENT = "vtpm-identity"


class Record(NamedTuple):
    """`keys`: fingerprints by algorithm."""

    keys: "dict[str, str]"
    storage: Optional[str] = None
    change: "Optional[dict[str, Any]]" = None

    def words(self) -> "set[str]":
        """All that tells this TPM from others."""
        return {*self.keys.values(), *([self.storage] if self.storage is not None else [])}


class RecordFile:
    """The record's place. A context manager; owns the descriptor of a directory of its own, if there is one."""

    def __init__(self, store: Store, own: Optional[Directory]) -> None:
        self._store = store
        self._own = own

    @classmethod
    def open(cls, store: Store, journal: Journal) -> "RecordFile":
        """Where systemd says, or else beside the state. An older record is taken over. Never raises VtpmError."""
        path = _own_directory()
        if path is None:
            return cls(store, None)
        own = None
        try:
            own = Directory(path)
            own.check_writable()
        except VtpmError as error:
            journal.error(error, level="warning")
            journal.log("warning", f"the record of the TPM's keys is kept in {store.path}, and is lost with it")
            if own is not None:
                own.close()
            return cls(store, None)
        record = cls(store, own)
        try:
            record._take_over(own)
        except VtpmError as error:
            journal.error(error, level="warning")
        return record

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def path(self) -> str:
        return (self._own.path if self._own is not None else self._store.path) + f"/{IDENTITY}"

    @property
    def state_directory(self) -> str:
        """Of the TPM that it is about."""
        return self._store.path

    def load(self) -> Record:
        """Raises: VtpmError STATE_UNREADABLE, STATE_CORRUPT. ValueError: it is not a record, or of a format
        to come."""
        data = self._own.read(IDENTITY) if self._own is not None else None
        if data is None:  # or what could not be taken over
            data = self._store.load_identity()
        return Record({}) if data is None else decode(data)

    def save(self, record: Record) -> None:
        """Raises: VtpmError STATE_FULL, STATE_UNWRITABLE."""
        if self._own is None:
            self._store.store_identity(encode(record))
        else:
            _replace(self._own, encode(record))

    def _take_over(self, own: Directory) -> None:
        data = self._store.load_identity()
        if data is None:
            return
        if own.stat(IDENTITY) is None:
            _replace(own, data)
        # else: somebody has run it by hand since; what the service has known goes first
        self._store.remove_identity()


def _own_directory() -> Optional[str]:
    paths = os.environ.get("STATE_DIRECTORY", "").split(":")
    return next((path for path in paths if os.path.basename(os.path.dirname(path)) == _PARENT), None)


def _replace(own: Directory, data: bytes) -> None:
    own.replace(IDENTITY, f"{IDENTITY}.new", data)


def encode(record: Record) -> bytes:
    import json  # as below: after READY, or never

    return json.dumps({"format": FORMAT, **record._asdict()}, indent=1).encode() + b"\n"


def decode(data: bytes) -> Record:
    """
    Raises:
        ValueError: it is not a record, or of a format to come.
    """
    try:
        import json

        values = json.loads(data)
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, not {FORMAT}")
        keys, storage, change = values["keys"], values[STORAGE], values["change"]
        known = [*keys.values(), storage]
        if change is not None:
            known += [*change["was"].values(), *change["is"].values()]
            change = {"time": int(change["time"]), "was": dict(change["was"]), "is": dict(change["is"])}
        if None in keys.values() or not all(value is None or _is_hexadecimal(value) for value in known):
            raise ValueError("it has something else than fingerprints")
        return Record(dict(keys), storage, change)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("it is not a record of endorsement keys") from error


def _is_hexadecimal(value: object) -> bool:
    return isinstance(value, str) and len(value) in (16, 64) and not set(value) - set("0123456789abcdef")
