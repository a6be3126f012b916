"""`vtpmctl import`: what `vtpmctl export` wrote becomes an instance, whole or not at all."""

import os
from contextlib import AbstractContextManager
from typing import Callable, Optional

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl import new_instance
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.key_places import Place, key_of
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.provisioning import place_of
from swtpm_svc.state import archive, blob, keys, newborn, takeover
from swtpm_svc.state.archive import Archive
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.state.filling import acting_for
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_directory import IDENTITY, file_name
from swtpm_svc.state.takeover import NewState

_NOTHING = "nothing was changed"
#: Whose the states are where root makes them. Tests have another.
USER = "vtpm"


def run(places: Places, *, file: str, name: Optional[str], overwrite: bool, key: Optional[Place]) -> Report:
    """
    Raises:
        VtpmError STATE_CORRUPT, STATE_FOREIGN, STATE_KEY, KEY_UNUSABLE: of the file. ALREADY_PROVISIONED: there is
            a state.
            CONFIG_*, STATE_*, USER_MISSING. Nothing is changed then.
    """
    from swtpm_svc.cli.vtpmctl.inventory import refuse_sharing
    from swtpm_svc.provision import trial

    found = archive.decode(operator_files.read_input(file, archive.MAX_BYTES), file)
    instance = loading.check_instance(name or found.instance)
    path = f"{places.config}/{instance}.toml"
    is_configured = os.path.lexists(path)
    text = _text(found, file)
    loaded = loading.load(path, instance) if is_configured else _parse(text, path, instance, file)
    if loaded.tpm.version != found.version:
        raise VtpmError(
            Code.STATE_FOREIGN,
            f"{file} is a TPM {found.version}, and {path} says {loaded.tpm.version}",
            remedy=f"import it by another name: vtpmctl import FILE NAME; {_NOTHING}",
        )
    if not is_configured:
        refuse_sharing(loaded, places)
    place = place_of(loaded, USER)
    trusted = Trusted((place.owner.uid,), (place.owner.gid,))
    own = keys.load(loaded.state.key, trusted) if loaded.state.key is not None else None
    given = own if key is None else None if key.source is None else key_of(key.source, trusted, "Old")
    payloads = _payloads(found, given, file)
    trial.load(found.version, {PERMALL: payloads[PERMALL]})
    if VOLATILESTATE in payloads:
        trial.load(found.version, {one: payloads[one] for one in (PERMALL, VOLATILESTATE)})
    new = NewState(
        found.version,
        {one: blob.encode_checked(payload, own) for one, payload in payloads.items()},
        None if loaded.state.is_file else found.identity,
    )

    def configure() -> None:
        if not is_configured:
            new_instance.write(path, instance, text)

    if loaded.state.is_file:
        _into_file(loaded, new, overwrite=overwrite)
        configure()
    else:
        _into_directory(loaded, place, new, payloads, own, configure, overwrite=overwrite)
    where = f"{instance}: TPM {found.version} in {loaded.state.place}, configured by {path}"
    values = {"instance": instance, "version": found.version, "config": path, "state": loaded.state.place}
    return Report(f"{where}\n{instance}: start it: systemctl start vtpm@{instance}", values)


def _text(found: Archive, file: str) -> str:
    try:
        return found.configuration.decode()
    except UnicodeDecodeError:
        raise VtpmError(
            Code.STATE_CORRUPT, f"{file}: its configuration is not UTF-8", remedy=f"take another copy of it; {_NOTHING}"
        ) from None


def _parse(text: str, path: str, instance: str, file: str) -> Config:
    try:
        return loading.parse(text, path, instance)
    except VtpmError as error:
        error.remedy = f"{file} has that configuration: write {path} for it, which then counts; {_NOTHING}"
        raise


def _payloads(found: Archive, key: Optional[StateKey], file: str) -> "dict[str, bytes]":
    payloads = {}
    for name, data in found.blobs.items():
        what = f"{archive.BLOB_FILES[name]} in {file}"
        try:
            payloads[name] = unwrap(data, found.version, key, what, remedy=_NOTHING, may_be_clear=True)
        except VtpmError as error:
            if error.code is Code.STATE_KEY:
                error.remedy = f"give the key that it was exported with: --key file=PATH; {_NOTHING}"
            raise
    return payloads


def _into_file(loaded: Config, new: NewState, *, overwrite: bool) -> None:
    from swtpm_svc.state import placed_state

    if not overwrite and placed_state.exists(placed_state.Place(loaded.state.file, is_file=True), new.version):
        raise _refused(loaded.state.file)
    with _acting(loaded.state.file):
        takeover.in_file(loaded.state.file, new)


def _into_directory(
    loaded: Config,
    place: newborn.Place,
    new: NewState,
    payloads: "dict[str, bytes]",
    key: Optional[StateKey],
    configure: "Callable[[], None]",
    *,
    overwrite: bool,
) -> None:
    others = {file_name(new.version, name): data for name, data in new.blobs.items() if name != PERMALL}
    if new.identity is not None:
        others[IDENTITY] = new.identity
    try:
        newborn.install(place, new.version, payloads[PERMALL], key, configure, others)
        return
    except VtpmError as error:
        if error.code is not Code.ALREADY_PROVISIONED:
            raise
        if os.path.lexists(loaded.path) and not overwrite:
            raise _refused(place.path) from None
    with _acting(place.path):
        is_same = _has(place.path, new, payloads, key)
        if not is_same and not overwrite:
            raise _refused(place.path)
        if not is_same:
            takeover.in_directory(place.path, new)
    configure()
    with _acting(place.path):
        takeover.confirm(place.path)


def _acting(path: str) -> "AbstractContextManager[None]":
    return acting_for(os.stat(path if os.path.exists(path) else os.path.dirname(path)))


def _has(path: str, new: NewState, payloads: "dict[str, bytes]", key: Optional[StateKey]) -> bool:
    """Is it there already, as an import that was killed leaves it?"""
    from swtpm_svc.state.inspection import CURRENT, in_directory

    pieces = [one for one in in_directory(path) if one.generation == CURRENT and one.version == new.version]
    try:
        there = {one.name: blob.payload(blob.decode(one.data), Keys(key)) for one in pieces if one.problem is None}
    except blob.BlobError:
        return False
    return there == payloads


def _refused(path: str) -> VtpmError:
    return VtpmError(
        Code.ALREADY_PROVISIONED,
        f"{path} has a TPM already",
        remedy=f"import it by another name; or have it replaced, and kept as the generation before: --overwrite; {_NOTHING}",
    )
