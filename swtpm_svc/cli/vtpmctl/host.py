"""Where an installed system has things."""

from typing import NamedTuple

from swtpm_svc.config import loading


class Places(NamedTuple):
    """Tests have theirs elsewhere."""

    config: str = loading.CONFIG_DIRECTORY
    run: str = "/run/vtpm"
    sysfs: str = "/sys/class/cuse"
