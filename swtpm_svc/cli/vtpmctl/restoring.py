"""`vtpmctl restore`: the generation before, in the place of the current state."""

import os
from typing import Optional

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.key_places import owner_of
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import keys, takeover
from swtpm_svc.state.backend import PERMALL
from swtpm_svc.state.filling import acting_for
from swtpm_svc.state.inspection import GENERATIONS
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_directory import file_name


def run(places: Places, *, name: str, generation: Optional[str]) -> Report:
    """
    Raises:
        VtpmError STATE_MISSING, STATE_CORRUPT, STATE_KEY: of the generation; STATE_LOCKED: it is running. USAGE, CONFIG_*,
            KEY_UNUSABLE, STATE_*. Nothing is changed then.
    """
    from swtpm_svc.provision import trial

    loaded = loading.load(f"{places.config}/{name}.toml", name)
    if loaded.state.is_file:
        raise VtpmError(
            Code.USAGE,
            f"{loaded.state.file} has all of a TPM, and no generation before",
            remedy=f"take a file of vtpmctl export: vtpmctl import FILE {name} --overwrite",
        )
    version, directory = loaded.tpm.version, loaded.state.directory
    owner = owner_of(directory)
    trusted = Trusted((owner.st_uid,), (owner.st_gid,))
    key = keys.load(loaded.state.key, trusted) if loaded.state.key is not None else None

    def is_good(data: bytes) -> None:
        remedy = f"see which one is good: vtpmctl verify {name}; nothing was changed"
        try:
            trial.load(version, {PERMALL: unwrap(data, version, key, f"the {chosen} generation", remedy=remedy)})
        except VtpmError as error:
            error.remedy = remedy if error.code is Code.STATE_CORRUPT else error.remedy
            raise

    with acting_for(owner):
        permanent = os.path.join(directory, file_name(version, PERMALL))
        there = [one for one, ending in GENERATIONS.items() if os.path.lexists(permanent + ending)]
        chosen = generation or (there or ["previous"])[0]
        takeover.go_back(directory, version, GENERATIONS[chosen], is_good)
    text = f"{name}: the {chosen} generation is the current one now, and what was current is in its place"
    return Report(text, {"instance": name, "generation": chosen})
