"""`vtpmctl rekey`: the state of an instance that is not running, from one key to another.

No key is ever an argument.
"""

import os
from typing import Optional

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.key_places import Place, key_of, owner_of
from swtpm_svc.config import loading
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.rekeying import CLEAR, rekey, rekey_file


def run(places: Places, *, name: str, old: Optional[Place], new: Optional[Place]) -> Report:
    """
    Raises:
        VtpmError KEY_UNUSABLE, STATE_LOCKED (it is running) and all that state.rekeying.rekey() raises; CONFIG_*,
        USAGE.
    """
    loaded = loading.load(f"{places.config}/{loading.check_instance(name)}.toml", name)
    owner = owner_of(loaded.state.place)
    trusted = Trusted((owner.st_uid,), (owner.st_gid,))
    source = new.source if new is not None else loaded.state.key
    old_key = key_of(old.source, trusted, "Old") if old is not None and old.source is not None else None
    new_key = key_of(source, trusted, "New") if source is not None else None
    import json  # noqa: F401 - the report's, before who this runs as may not be allowed to read it (nor any other module)

    _become(owner)
    change = rekey_file if loaded.state.is_file else rekey
    done = change(loaded.state.place, loaded.tpm.version, old_key, new_key)
    form = f"encrypted with {new_key.mode}" if new_key is not None else CLEAR
    lines = [f"{name}: {file}: was {before}, is now {form}" for file, before in done.files.items()]
    lines += [f"{name}: {file}: is {form} already" for file in done.unchanged]
    lines += [f"{name}: {file}: is damaged and stays as it is; remove it when nobody needs it" for file in done.left]
    if new is not None:
        which = "this key" if source is not None else "no key"
        lines.append(f"{name}: before it is started, [state] in {loaded.path} must name {which}")
    values = {
        "instance": name,
        "files": done.files,
        "unchanged": list(done.unchanged),
        "left": list(done.left),
        "mode": new_key.mode if new_key is not None else None,
    }
    return Report("\n".join(lines), values)


def _become(owner: os.stat_result) -> None:
    """From root to who owns the state, for good: the files that are written are then the service's, and no path leads
    astray."""
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
