"""The state that an instance's configuration names, for its daemon."""

from swtpm_svc.config.schema import StateConfig
from swtpm_svc.state.backend import Backend
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.files import MODE
from swtpm_svc.state.state_directory import StateDirectory
from swtpm_svc.state.store import Store
from swtpm_svc.wire.hints import Optional


def open_state(
    state: StateConfig,
    version: str,
    key: Optional[StateKey],
    *,
    is_incoming: bool = False,
    is_classic: bool = False,
    keeps_modes: bool = False,
) -> Store:
    """`is_incoming`: another host may have it still; it is locked later.

    `is_classic`: as swtpm has it, a file without a header is given one, and a directory may have TPMs of both versions.
    `keeps_modes`: what is there keeps its permission bits.

    Raises:
        VtpmError: as Store.of(), and StateFile.open() or StateDirectory.open()
    """
    backend = _backend(state, version, is_classic=is_classic, keeps_modes=keeps_modes)
    return Store.of(backend, version, key, is_incoming=is_incoming)


def _backend(state: StateConfig, version: str, *, is_classic: bool, keeps_modes: bool) -> Backend:
    # of a service's files that have another mode its owner has chosen that, if the configuration says nothing
    mode = None if state.mode == MODE and not is_classic else state.mode
    if state.is_file:
        from swtpm_svc.state.state_file import StateFile  # few have one

        return StateFile.open(
            state.file,
            mode=mode,
            changes_modes=not keeps_modes,
            locks=state.lock,
            syncs=state.fsync,
            formats=is_classic,
        )
    return StateDirectory.open(
        state.directory,
        version,
        mode=mode,
        changes_modes=not keeps_modes,
        locks=state.lock,
        syncs=state.fsync,
        backs_up=state.backup,
        shares=is_classic,
    )
