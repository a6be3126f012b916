"""What cannot both be: addresses, mounts and directories of one instance, and of two."""

import pytest

from swtpm_svc.config import loading, places
from swtpm_svc.errors import Code, VtpmError


def parse(text: str, instance: str = "vtpm0") -> loading.Config:
    return loading.parse(text, f"/etc/vtpm.d/{instance}.toml", instance)


def refusal(text: str) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        parse(text)
    assert caught.value.code is Code.CONFIG_INVALID
    assert caught.value.remedy == "give each a place of its own"
    return caught.value


@pytest.mark.parametrize(
    ("text", "found", "other"),
    [
        ('[socket]\ncontrol = "/run/a"\ndata = "/run/a"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "/run/a"\ndata = "/run//./a"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ndata = "/run/vtpm/vtpm0/ctrl.sock"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ndata = "/run/vtpm/vtpm0/status"', "[socket] data", "is that of the status socket"),
        ('[socket]\ncontrol = "tcp:2321"\ndata = "tcp:127.0.0.1:2321"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:localhost:2321"\ndata = "tcp:2321"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:0.0.0.0:2321"\ndata = "tcp:10.0.0.1:2321"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:[::]:2321"\ndata = "tcp:2321"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:[::1]:1"\ndata = "tcp:[0:0::0:1]:1"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:Host:1"\ndata = "tcp:host:1"', "[socket] control", "is that of [socket] data"),
        ('[socket]\ncontrol = "tcp:2321"\nmssim = "tcp:2321"', "[socket] control", "is that of [socket] mssim"),
        ('[socket]\ncontrol = "tcp:2322"\nmssim = "tcp:2321"', "[socket] control", "the second port of [socket] mssim"),
        ('[socket]\ndata = "tcp:2322"\nmssim = "tcp:0.0.0.0:2321"', "[socket] data", "the second port of [socket] mssim"),
        ('[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm0/fs"', "[state] directory", "has within it [fuse] directory"),
        ('[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm0"', "[state] directory", "is that of [fuse] directory"),
        ('[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm"', "[state] directory", "lies within [fuse] directory"),
        ('[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm0"', "[socket] control", "lies within [fuse] directory"),
        ('[socket]\ncontrol = "none"\n[fuse]\nenabled = true\ndirectory = "/run/vtpm"', "[fuse] directory", "the status socket"),
        ('[socket]\ncontrol = "/"\ndata = "/"', "[socket] control", "is that of [socket] data"),
    ],
)  # fmt: skip
def test_two_in_one_place_are_refused(text, found, other):
    message = refusal(text).message
    assert message.startswith(f"/etc/vtpm.d/vtpm0.toml: {found}: found ")
    assert message.endswith(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[socket]\ncontrol = "none"\ndata = "none"',
        '[socket]\ncontrol = "tcp:2322"\ndata = "tcp:[::1]:2322"',
        '[socket]\ncontrol = "tcp:10.0.0.1:2322"\ndata = "tcp:10.0.0.2:2322"',
        '[socket]\ncontrol = "tcp:2323"\nmssim = "tcp:2321"\ndata = "tcp:2320"',
        '[socket]\ndata = "/var/lib/vtpm/vtpm0/data.sock"',
        "[fuse]\nenabled = true",
        '[fuse]\ndirectory = "/var/lib/vtpm/vtpm0"',
        '[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm01"',
        "[vtpm-proxy]\nenabled = true",
    ],
)
def test_what_can_be(text):
    parse(text)


@pytest.mark.parametrize(
    ("mine", "theirs", "code"),
    [
        ('[socket]\ndata = "tcp:2322"', '[socket]\nmssim = "tcp:2321"', Code.SOCKET_UNAVAILABLE),
        ('[socket]\ndata = "/run/vtpm/vtpm1/status"', "", Code.SOCKET_UNAVAILABLE),
        ('[socket]\ndata = "/var/run/vtpm/vtpm1/ctrl.sock"', "", Code.SOCKET_UNAVAILABLE),
        ('[state]\ndirectory = "/var/lib/vtpm/vtpm1"', "", Code.STATE_LOCKED),
        ('[state]\ndirectory = "/var/lib/vtpm"', "", Code.STATE_LOCKED),
        ("", '[state]\ndirectory = "/var/lib/vtpm/vtpm0/b"', Code.STATE_LOCKED),
        ('[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm1/fs"', "[fuse]\nenabled = true", Code.MOUNT_FAILED),
        ('[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm1"', "", Code.MOUNT_FAILED),
        ("", '[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm0"', Code.MOUNT_FAILED),
    ],
)
def test_two_instances_in_one_place_are_refused(mine, theirs, code):
    with pytest.raises(VtpmError) as caught:
        places.refuse_shared(parse(mine), parse(theirs, "vtpm1"), lambda path: path.replace("/var/run/", "/run/"))
    assert caught.value.code is code
    assert caught.value.message.endswith(" in /etc/vtpm.d/vtpm1.toml")


def test_two_instances_with_nothing_but_defaults():
    text = "[fuse]\nenabled = true\n[vtpm-proxy]\nenabled = true"
    places.refuse_shared(parse(text), parse(text, "vtpm1"), str)
