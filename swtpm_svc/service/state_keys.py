"""The keys that an instance's configuration names, for its daemon."""

from swtpm_svc.config.schema import StateConfig
from swtpm_svc.state import keys
from swtpm_svc.state.encryption import Keys


def load(state: StateConfig) -> Keys:
    """
    Raises:
        VtpmError KEY_UNUSABLE
    """
    return Keys(
        state=keys.load(state.key) if state.key else None,
        migration=keys.load(state.migration_key) if state.migration_key else None,
    )
