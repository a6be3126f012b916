"""udev, as far as the daemon asks: does it run, and is it done with a device?"""

import os


def is_running() -> bool:
    return os.path.exists("/run/udev/control")


def has_finished(status: os.stat_result) -> bool:
    """Is udev done with this device? Its word on that is the entry in its database
    (sd_device_get_is_initialized(3))."""
    return os.path.exists(f"/run/udev/data/c{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
