"""`vtpmctl export`: a TPM with all that belongs to it, in one file."""

import os
import time
from typing import TYPE_CHECKING, Optional

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.key_places import Place, key_of, owner_of
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import archive, blob, keys
from swtpm_svc.state.archive import Archive
from swtpm_svc.state.backend import NAMES, PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.encryption import Keys
from swtpm_svc.state.files import Directory
from swtpm_svc.state.filling import acting_for
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_directory import IDENTITY

if TYPE_CHECKING:
    from swtpm_svc.state.backend import Backend

#: Where systemd has the records of what TPMs are known by. Tests have others.
IDENTITIES = "/var/lib/vtpm-identity"
_CONFIGURATION_MAX_BYTES = 1 << 20


def run(places: Places, *, name: str, file: str, volatile: bool, key: Optional[Place]) -> Report:
    """
    Raises:
        VtpmError CONFIG_*, KEY_UNUSABLE, STATE_*, NOT_PERMITTED, PROTOCOL, DAEMON_UNREACHABLE. The file is then as it was.
    """
    from swtpm_svc.provision import trial
    from swtpm_svc.tpm import libtpms

    loaded = loading.load(f"{places.config}/{name}.toml", name)
    owner = owner_of(loaded.state.place)
    trusted = Trusted((owner.st_uid,), (owner.st_gid,))
    own = keys.load(loaded.state.key, trusted) if loaded.state.key is not None else None
    migration = keys.load(loaded.state.migration_key, trusted) if loaded.state.migration_key is not None else None
    given = own if key is None else None if key.source is None else key_of(key.source, trusted, "New")
    payloads = _take(loaded, owner, Keys(own, migration), places)
    if PERMALL not in payloads:
        remedy = "start it once, then export it: a new TPM is made at the start"
        raise VtpmError(Code.STATE_MISSING, f"there is no state of a TPM in {loaded.state.place}", remedy=remedy)
    trial.load(loaded.tpm.version, {PERMALL: payloads[PERMALL]})
    if not volatile:
        payloads.pop(VOLATILESTATE, None)
    content = archive.encode(
        Archive(
            instance=name,
            version=loaded.tpm.version,
            libtpms=libtpms.version(),
            made=int(time.time()),
            is_encrypted=given is not None,
            blobs={one: blob.encode_checked(payload, given) for one, payload in payloads.items()},
            configuration=operator_files.read_input(loaded.path, _CONFIGURATION_MAX_BYTES),
            identity=_identity(loaded, owner),
        )
    )
    operator_files.write_whole(file, content)
    form = f"encrypted with {given.mode}" if given is not None else "in clear: who can read it has the TPM's keys"
    types = [one for one in ("permanent", "volatile", "savestate") if _name(one) in payloads]
    text = f"{name}: {file}: {', '.join(types)} state, {len(content)} bytes, {form}"
    values = {"instance": name, "file": file, "types": types, "bytes": len(content), "encrypted": given is not None}
    return Report(text, values)


def _name(word: str) -> str:
    return {"permanent": PERMALL, "volatile": VOLATILESTATE, "savestate": SAVESTATE}[word]


def _take(loaded: Config, owner: os.stat_result, known: Keys, places: Places) -> "dict[str, bytes]":
    """The payloads, of one moment: under the state's lock, or from the service that has it."""
    if not loaded.state.lock:
        try:
            return _running(loaded, known, places)
        except VtpmError as error:
            if error.code is not Code.DAEMON_UNREACHABLE:
                raise
    try:
        return _stopped(loaded, owner, known)
    except VtpmError as error:
        if error.code is not Code.STATE_LOCKED:
            raise
        try:
            return _running(loaded, known, places)
        except VtpmError as refusal:
            if refusal.code is Code.DAEMON_UNREACHABLE:  # another program has it
                raise error from None
            raise


def _stopped(loaded: Config, owner: os.stat_result, known: Keys) -> "dict[str, bytes]":
    from swtpm_svc.state.state_directory import StateDirectory
    from swtpm_svc.state.state_file import StateFile

    with acting_for(owner):
        backend: Backend = (
            StateFile.open(loaded.state.file, locks=loaded.state.lock)
            if loaded.state.is_file
            else StateDirectory.open(loaded.state.directory, loaded.tpm.version, locks=loaded.state.lock)
        )
        try:
            backend.lock()
            found = {name: (backend.read(name), backend.path_of(name)) for name in NAMES}
        finally:
            backend.close()
    remedy = f"see which generation is good: vtpmctl verify {loaded.instance}"
    return {
        name: unwrap(data, loaded.tpm.version, known.state, path, remedy=remedy)
        for name, (data, path) in found.items()
        if data is not None
    }


def _running(loaded: Config, known: Keys, places: Places) -> "dict[str, bytes]":
    from swtpm_svc.cli.tpm_control import open_device, resolve
    from swtpm_svc.cli.vtpmctl.operations import download
    from swtpm_svc.wire import ptm, state_bundle
    from swtpm_svc.wire.protocol_error import ProtocolError

    with open_device(resolve(loaded.instance, places.config)) as device:
        data, _flags = download(device, ptm.ALL_BLOBS, "whole")
    try:
        bundle = state_bundle.decode(data)
        return {_name(kind.name.lower()): blob.payload(blob.decode(one), known) for kind, one in bundle.items()}
    except ProtocolError as error:
        raise VtpmError(
            Code.PROTOCOL, f"{loaded.instance}: {error}", remedy=f"see what it has said: vtpmctl logs {loaded.instance}"
        ) from error
    except blob.BlobError as error:
        remedy = f"restart it, if its keys were changed since: vtpmctl restart {loaded.instance}"
        raise VtpmError(
            Code.STATE_KEY, f"{loaded.instance}: the state that it gives: {error}", remedy=remedy
        ) from error


def _identity(loaded: Config, owner: os.stat_result) -> Optional[bytes]:
    """What the TPM was known by, if that is known; nothing depends on it."""
    folders = [f"{IDENTITIES}/{loaded.instance}"] + ([] if loaded.state.is_file else [loaded.state.directory])
    for folder in folders:
        try:
            with acting_for(owner), Directory(folder) as directory:
                found = directory.read(IDENTITY)
        except VtpmError:
            continue
        if found:
            return found
    return None
