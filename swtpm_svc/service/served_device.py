"""The character device of an instance, and the memory that is parked beside it: taken over from a predecessor, or new.

systemd keeps both in its descriptor store. The device lives as long as one of its descriptors does (decisions/0016), so
a successor goes on with it; an instance without a device has only the memory, in which a running TPM is handed over.
"""

import os

from swtpm_svc.config import loading as configuration
from swtpm_svc.config.loading import DeviceConfig
from swtpm_svc.continuity.parking import Park
from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.cuse import handshake
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.systemd.notify import Descriptors, Notifier
from swtpm_svc.wire.hints import Any, Optional

#: Names in systemd's descriptor store. They stay as they are: a running predecessor has left its descriptors under
#: them. The second is that of the parked memory, although it says "journal": here that word means systemd's.
PARKED_DEVICE = "cuse-live"
PARKED_MEMORY = "journal"
#: The name that OpenFile= gives to a new /dev/cuse.
PASSED_DEVICE = "cuse"

#: How long udev may take to give the node its owner and mode.
NODE_TIMEOUT_S = 30


class ServedDevice:
    """`fd` is its /dev/cuse, from `obtain` on; None where the instance has no device."""

    def __init__(self, config: DeviceConfig, notifier: Notifier, journal: Journal) -> None:
        """
        Raises:
            VtpmError USER_MISSING: its owner or group does not exist.
        """
        self.fd: Optional[int] = None
        self._config = config
        self._notifier = notifier
        self._journal = journal
        #: The device that the park is for: a successor with another one does not go on with it.
        self._name = config.name if config.enabled else ""
        if config.enabled:
            owner, group = configuration.user_id(config.owner), configuration.group_id(config.group)
            self._node = handshake.Node(config.name, owner, group, config.mode)

    def adopt(self, passed: Descriptors) -> Optional[Park]:
        """The park of a predecessor, if its device, taken over too, is still the one that is asked for."""
        devices, memories = passed.pop(PARKED_DEVICE, []), passed.pop(PARKED_MEMORY, [])
        if not devices and not memories:
            return None
        if len(memories) == 1 and len(devices) <= 1:
            try:
                park = Park.adopt(memories[0])
                memories = []
                if park.device_name == self._name and self._is_whole(devices):
                    self.fd = devices[0] if devices else None
                    return park
                if park.device_name:
                    what = f"{self._config.node} is made" if self._name else "there is no device any more"
                    self._journal.log("notice", f"/dev/{park.device_name} is given up, {what}: clients open it anew")
                park.close()
            except VtpmError as error:
                memories = []
                self._journal.error(error, level="warning")
        self.unpark()
        for fd in devices + memories:
            os.close(fd)  # the last descriptor: the old device goes
        return None

    def _is_whole(self, devices: "list[int]") -> bool:
        return bool(devices) == bool(self._name) and all(handshake.is_alive(fd) for fd in devices)

    def obtain(self, passed: Descriptors) -> None:
        """Have /dev/cuse: that of a predecessor, or a new one from systemd, or one that we open.

        Raises:
            VtpmError CUSE_MISSING, CUSE_DENIED, DEVICE_NAME_TAKEN, DEVICE_NUMBER_TAKEN
        """
        offered = passed.pop(PASSED_DEVICE, [])
        config = self._config
        if config.enabled and self.fd is None:
            self.fd = offered.pop(0) if offered else handshake.open_cuse()
            handshake.check_free(config.name, config.major, config.minor)
        for spare in offered:  # OpenFile= opens a new one at every start
            os.close(spare)

    def make(self, *, by_hand: bool) -> None:
        """Have the kernel make the device, and udev finish its node; or, `by_hand`, finish it ourselves, which takes
        root.

        Raises:
            VtpmError DEVICE_REJECTED, DEVICE_NOT_READY
        """
        if self.fd is None:
            return
        config = self._config
        handshake.initialise(self.fd, config.name, config.major, config.minor)
        if by_hand:
            handshake.finish_by_hand(self._node)
        handshake.wait_until_finished(self._node, NODE_TIMEOUT_S)

    def park(self) -> Park:
        """Leave the device, and memory beside it, to successors. Only once clients can open it and get answers."""
        park = Park.create(self._name)
        self._notifier.park(PARKED_MEMORY, park.fd)
        if self.fd is not None:
            self._notifier.park(PARKED_DEVICE, self.fd)
        return park

    def unpark(self) -> None:
        """Leave nothing to a successor."""
        for name in (PARKED_DEVICE, PARKED_MEMORY):
            self._notifier.unpark(name)

    def describe(self) -> "Optional[dict[str, Any]]":
        """For the status: None where there is none."""
        if self.fd is None:
            return None
        major, minor = handshake.device_numbers(self._config.name)
        return {"path": self._config.node, "major": major, "minor": minor}
