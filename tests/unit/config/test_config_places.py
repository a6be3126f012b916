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
    ("text", "message"),
    [
        (
            '[socket]\ncontrol = "/run/a"\ndata = "/run/a"',
            '[socket] control: found "/run/a", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "/run/a"\ndata = "/run//./a"',
            '[socket] control: found "/run/a", which is that of [socket] data',
        ),
        (
            '[socket]\ndata = "/run/vtpm/vtpm0/ctrl.sock"',
            '[socket] control: found "/run/vtpm/vtpm0/ctrl.sock", which is that of [socket] data',
        ),
        (
            '[socket]\ndata = "/run/vtpm/vtpm0/status"',
            '[socket] data: found "/run/vtpm/vtpm0/status", which is that of the status socket',
        ),
        (
            '[socket]\ncontrol = "tcp:2321"\ndata = "tcp:127.0.0.1:2321"',
            '[socket] control: found "tcp:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:localhost:2321"\ndata = "tcp:2321"',
            '[socket] control: found "tcp:localhost:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:0.0.0.0:2321"\ndata = "tcp:10.0.0.1:2321"',
            '[socket] control: found "tcp:0.0.0.0:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::]:2321"\ndata = "tcp:2321"',
            '[socket] control: found "tcp:[::]:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::]:2321"\ndata = "tcp:0.0.0.0:2321"',
            '[socket] control: found "tcp:[::]:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::1]:2321"\ndata = "tcp:[::]:2321"',
            '[socket] control: found "tcp:[::1]:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::ffff:127.0.0.1]:2321"\ndata = "tcp:2321"',
            '[socket] control: found "tcp:[::ffff:127.0.0.1]:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::ffff:0.0.0.0]:2321"\ndata = "tcp:10.0.0.1:2321"',
            '[socket] control: found "tcp:[::ffff:0.0.0.0]:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:host.example:2321"\ndata = "tcp:0.0.0.0:2321"',
            '[socket] control: found "tcp:host.example:2321", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:[::1]:1"\ndata = "tcp:[0:0::0:1]:1"',
            '[socket] control: found "tcp:[::1]:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:Host:1"\ndata = "tcp:host:1"',
            '[socket] control: found "tcp:Host:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "vsock:2:1"\ndata = "vsock:any:1"',
            '[socket] control: found "vsock:2:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "vsock:2:1"\ndata = "vsock:4294967295:1"',
            '[socket] control: found "vsock:2:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "vsock:4294967295:1"\ndata = "vsock:any:1"',
            '[socket] control: found "vsock:4294967295:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "vsock:any:1"\ndata = "vsock:4294967295:1"',
            '[socket] control: found "vsock:any:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "vsock:02:1"\ndata = "vsock:2:01"',
            '[socket] control: found "vsock:02:1", which is that of [socket] data',
        ),
        (
            '[socket]\ncontrol = "tcp:2321"\nmssim = "tcp:2321"',
            '[socket] control: found "tcp:2321", which is that of [socket] mssim',
        ),
        (
            '[socket]\ncontrol = "tcp:2322"\nmssim = "tcp:2321"',
            '[socket] control: found "tcp:2322", which is that of the second port of [socket] mssim',
        ),
        (
            '[socket]\ndata = "tcp:2322"\nmssim = "tcp:0.0.0.0:2321"',
            '[socket] data: found "tcp:2322", which is that of the second port of [socket] mssim',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm0/fs"',
            '[state] directory: found "/var/lib/vtpm/vtpm0", which has within it [fuse] directory',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm0"',
            '[state] directory: found "/var/lib/vtpm/vtpm0", which is that of [fuse] directory',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm"',
            '[state] directory: found "/var/lib/vtpm/vtpm0", which lies within [fuse] directory',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm0"',
            '[socket] control: found "/run/vtpm/vtpm0/ctrl.sock", which lies within [fuse] directory',
        ),
        (
            '[socket]\ncontrol = "none"\n[fuse]\nenabled = true\ndirectory = "/run/vtpm"',
            '[fuse] directory: found "/run/vtpm", which has within it the status socket',
        ),
        ('[socket]\ncontrol = "/"\ndata = "/"', '[socket] control: found "/", which is that of [socket] data'),
    ],
)
def test_two_in_one_place_are_refused(text, message):
    error = refusal(text)
    assert error.message == f"/etc/vtpm.d/vtpm0.toml: {message}"
    assert error.remedy == "give each a place of its own"


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[socket]\ncontrol = "none"\ndata = "none"',
        '[socket]\ncontrol = "tcp:2322"\ndata = "tcp:[::1]:2322"',
        '[socket]\ncontrol = "vsock:1:2322"\ndata = "vsock:2:2322"\nmssim = "tcp:2322"',
        '[socket]\ncontrol = "tcp:0.0.0.0:2322"\ndata = "tcp:[::1]:2322"',
        '[socket]\ncontrol = "vsock:any:2322"\ndata = "vsock:any:2323"\nmssim = "tcp:2322"',
        '[socket]\ncontrol = "tcp:10.0.0.1:2322"\ndata = "tcp:10.0.0.2:2322"',
        '[socket]\ncontrol = "tcp:2323"\nmssim = "tcp:2321"\ndata = "tcp:2320"',
        '[socket]\ndata = "/var/lib/vtpm/vtpm0/data.sock"',
        '[state]\nfile = "/var/lib/vtpm/vtpm0/state"',
        '[state]\nfile = "/var/lib/vtpm/vtpm0/state"\n[socket]\ndata = "/var/lib/vtpm/vtpm0/data.sock"',
        "[fuse]\nenabled = true",
        '[fuse]\ndirectory = "/var/lib/vtpm/vtpm0"',
        '[fuse]\nenabled = true\ndirectory = "/var/lib/vtpm/vtpm01"',
        "[vtpm-proxy]\nenabled = true",
    ],
)
def test_what_can_be(text):
    parse(text)


def refuse_shared(config, other, resolve):
    places.refuse_shared(config, places.places(config, resolve), other, places.places(other, resolve))


@pytest.mark.parametrize(
    ("mine", "theirs", "code", "message"),
    [
        (
            '[socket]\ndata = "tcp:2322"',
            '[socket]\nmssim = "tcp:2321"',
            Code.SOCKET_UNAVAILABLE,
            '[socket] data: found "tcp:2322", which is that of the second port of [socket] mssim',
        ),
        (
            '[socket]\nmssim = "tcp:0.0.0.0:2321"',
            '[socket]\nmssim = "tcp:[::]:2322"',
            Code.SOCKET_UNAVAILABLE,
            'the second port of [socket] mssim: found "tcp:0.0.0.0:2322", which is that of [socket] mssim',
        ),
        (
            '[socket]\nmssim = "tcp:2321"',
            '[socket]\ndata = "tcp:127.0.0.1:2322"',
            Code.SOCKET_UNAVAILABLE,
            'the second port of [socket] mssim: found "tcp:127.0.0.1:2322", which is that of [socket] data',
        ),
        (
            '[socket]\ndata = "vsock:any:1"',
            '[socket]\ncontrol = "vsock:4294967295:1"',
            Code.SOCKET_UNAVAILABLE,
            '[socket] data: found "vsock:any:1", which is that of [socket] control',
        ),
        (
            '[socket]\ndata = "/run/vtpm/vtpm1/status"',
            "",
            Code.SOCKET_UNAVAILABLE,
            '[socket] data: found "/run/vtpm/vtpm1/status", which is that of the status socket',
        ),
        (
            '[socket]\ndata = "/var/run/vtpm/vtpm1/ctrl.sock"',
            "",
            Code.SOCKET_UNAVAILABLE,
            '[socket] data: found "/run/vtpm/vtpm1/ctrl.sock", which is that of [socket] control',
        ),
        (
            '[state]\ndirectory = "/var/lib/vtpm/vtpm1"',
            "",
            Code.STATE_LOCKED,
            '[state] directory: found "/var/lib/vtpm/vtpm1", which is that of [state] directory',
        ),
        (
            '[state]\ndirectory = "/var/lib/vtpm"',
            "",
            Code.STATE_LOCKED,
            '[state] directory: found "/var/lib/vtpm", which has within it [state] directory',
        ),
        (
            "",
            '[state]\ndirectory = "/var/lib/vtpm/vtpm0/b"',
            Code.STATE_LOCKED,
            '[state] directory: found "/var/lib/vtpm/vtpm0", which has within it [state] directory',
        ),
        (
            '[state]\nfile = "/var/lib/vtpm/vtpm1/tpm2-00.permall"',
            "",
            Code.STATE_LOCKED,
            '[state] file: found "/var/lib/vtpm/vtpm1/tpm2-00.permall", which lies within [state] directory',
        ),
        (
            "",
            '[state]\nfile = "/var/lib/vtpm/vtpm0/state"',
            Code.STATE_LOCKED,
            '[state] directory: found "/var/lib/vtpm/vtpm0", which has within it [state] file',
        ),
        (
            '[state]\nfile = "/dev/vg/tpm"',
            '[state]\nfile = "/dev/vg/tpm"',
            Code.STATE_LOCKED,
            '[state] file: found "/dev/vg/tpm", which is that of [state] file',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm1/fs"',
            "[fuse]\nenabled = true",
            Code.MOUNT_FAILED,
            '[fuse] directory: found "/run/vtpm/vtpm1/fs", which is that of [fuse] directory',
        ),
        (
            '[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm1"',
            "",
            Code.MOUNT_FAILED,
            '[fuse] directory: found "/run/vtpm/vtpm1", which has within it [socket] control',
        ),
        (
            "",
            '[fuse]\nenabled = true\ndirectory = "/run/vtpm/vtpm0"',
            Code.MOUNT_FAILED,
            '[socket] control: found "/run/vtpm/vtpm0/ctrl.sock", which lies within [fuse] directory',
        ),
    ],
)
def test_two_instances_in_one_place_are_refused(mine, theirs, code, message):
    with pytest.raises(VtpmError) as caught:
        refuse_shared(parse(mine), parse(theirs, "vtpm1"), lambda path: path.replace("/var/run/", "/run/"))
    assert caught.value.code is code
    assert caught.value.message == f"/etc/vtpm.d/vtpm0.toml: {message} in /etc/vtpm.d/vtpm1.toml"
    remedy = "give one of them another place"
    if code is Code.STATE_LOCKED:
        remedy = f"give each TPM a {'place' if 'file' in mine else 'directory'} of its own"
    assert caught.value.remedy == remedy


def test_two_instances_with_nothing_but_defaults():
    text = "[fuse]\nenabled = true\n[vtpm-proxy]\nenabled = true"
    refuse_shared(parse(text), parse(text, "vtpm1"), str)
