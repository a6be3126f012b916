"""Values of every request and reply of the control protocol, for the tests of both encodings."""

from swtpm_svc.wire import ptm
from swtpm_svc.wire.ptm import Capability

REQUESTS = [
    ptm.GetCapability(),
    ptm.Init(),
    ptm.Init(0xFFFFFFFF),
    ptm.Shutdown(),
    ptm.GetTpmEstablished(),
    ptm.SetLocality(0),
    ptm.SetLocality(255),
    ptm.HashStart(),
    ptm.HashData(b""),
    ptm.HashData(b"\0\0\0\1"),
    ptm.HashData(bytes(range(256)) * 16),
    ptm.HashEnd(),
    ptm.CancelTpmCommand(),
    ptm.StoreVolatile(),
    ptm.ResetTpmEstablished(3),
    ptm.GetStateBlob(1, 2),
    ptm.GetStateBlob(0, 0xFFFFFFFF, 0xFFFFFFFE),
    ptm.SetStateBlob(2, 3, b""),
    ptm.SetStateBlob(0, 1, b"\0\0\0\5" * 768),
    ptm.Stop(),
    ptm.GetConfig(),
    ptm.SetDataFd(),
    ptm.SetBufferSize(4096),
    ptm.GetInfo(0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF),
    ptm.GetInfo(1),
    ptm.LockStorage(300),
]
REPLIES = [
    ptm.Result(0),
    ptm.Result(0x800),
    ptm.CapabilityReply(Capability(0)),
    ptm.CapabilityReply(Capability.ALL),
    ptm.EstablishedReply(0, 1),
    ptm.StateBlobReply(0, 2, 3072, bytes(range(256)) * 12),
    ptm.StateBlobReply(0, 0, 0, b""),
    ptm.ConfigReply(0, 3),
    ptm.BufferSizeReply(0, 4096, 2808, 4096),
    ptm.InfoReply(0, 3000, b'{"a":1}\0'),
    ptm.InfoReply(0, 0, b""),
]


def replies_to(request):
    """Those of REPLIES that may answer `request`."""
    command = ptm.command_of(request)
    failures = [] if command is ptm.Command.GET_CAPABILITY else [ptm.Result(0x3D)]
    return failures + [reply for reply in REPLIES if type(reply) is ptm.REPLY_OF[command]]
