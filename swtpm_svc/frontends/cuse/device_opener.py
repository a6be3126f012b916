"""One open file of the device: what it waits for, who is to be woken, and the state blob in transfer.

A blob is longer than what an ioctl can carry: the first piece is the ioctl's, the others are read() or written.
"""

import errno

from swtpm_svc.continuity.handover import OpenerRecord
from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.blob_transfer import Download, Upload
from swtpm_svc.frontends.opener import Opener
from swtpm_svc.tpm.device import Place
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Optional, Union
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm_header import HEADER, HEADER_SIZE


class DeviceOpener(Opener):
    __slots__ = (
        "caller",
        "control",
        "download",
        "handle",
        "lost",
        "place",
        "poll_handle",
        "reader",
        "torn",
        "upload",
    )

    #: The errno of an ioctl that is none of ours.
    unknown_ioctl = errno.ENOTTY

    def __init__(self, handle: int, caller: Caller, place: Place) -> None:
        self.place = place
        super().__init__()
        self.handle = handle
        self.caller = caller
        #: The control request that waits; 0: none.
        self.control = 0
        #: The read that waits for the response: its unique and size.
        self.reader: Optional[tuple[int, int]] = None
        #: Whom to wake when the file becomes readable or writable; 0: nobody polls.
        self.poll_handle = 0
        self.download: Optional[Download] = None
        self.upload: Optional[Upload] = None
        #: A predecessor was killed, perhaps with a response for this file: the next read, if it comes first, is an EIO.
        self.lost = False
        #: A predecessor stopped in the middle of a blob: the next read or write is an EIO, so that none is torn.
        self.torn = False

    @property
    def response(self) -> Optional[bytes]:
        return self.place.response

    @response.setter
    def response(self, response: Optional[bytes]) -> None:
        self.place.response = response

    @property
    def position(self) -> int:
        return self.place.position

    @position.setter
    def position(self, position: int) -> None:
        self.place.position = position

    def lend(self) -> None:
        """Have it served in C, if its response is all that its next request has to know of it."""
        waits = self.command or self.control or self.poll_handle or self.reader is not None
        has_blob = self.download is not None or self.upload is not None
        self.place.is_lent = not (waits or has_blob or self.lost or self.torn)

    def get_state_blob(self, request: ptm.GetStateBlob, handle: Callable[[ptm.Request], ptm.Reply]) -> ptm.Reply:
        """A piece of the blob that `handle`, the controller, gives whole."""
        download = self.download
        if self.torn and request.offset:
            return ptm.Result(TpmResult.FAIL)
        self.torn = False
        if request.offset == 0 or download is None or download.blob_type != request.type:
            self.download = None
            reply = handle(request)
            if not isinstance(reply, ptm.StateBlobReply):
                return reply
            self.download = download = Download(request.type, reply.data, reply.state_flags)
        # the total is that of the whole blob here, as swtpm_ioctl counts on; on a socket it is what is left
        chunk = download.chunk(request.offset, ptm.STATE_BLOB_CHUNK)
        return ptm.StateBlobReply(TpmResult.SUCCESS, download.state_flags, len(download), chunk)

    def set_state_blob(self, request: ptm.SetStateBlob, handle: Callable[[ptm.Request], ptm.Reply]) -> ptm.Reply:
        """Take a piece of a blob; `handle`, the controller, gets it when it is whole."""
        if self.upload is None or self.upload.blob_type != request.type:
            self.upload = Upload(request.type)
        try:
            whole = self.upload.add(request)
        except VtpmError as error:
            self.upload = None
            return ptm.Result(error.fault.tpm_result)
        if whole is None:
            return ptm.Result(TpmResult.SUCCESS)
        self.upload = None
        return handle(whole)

    def record(self) -> OpenerRecord:
        """The open file for a successor."""
        in_transfer = self.upload is not None or (self.download is not None and not self.download.finished) or self.torn
        uid, gid, pid, *_groups = self.caller
        return OpenerRecord(self.handle, uid, gid, pid, in_transfer, self.response or b"", self.position)

    def resume(self, record: OpenerRecord) -> None:
        """Go on with the open file of a predecessor."""
        self.response = record.response or None
        self.position = record.position
        self.lost = False
        self.torn = record.in_transfer


class LenientOpener(DeviceOpener):
    """An open file of swtpm_cuse's device (measured): a command takes the place of a response that nobody has read, and
    what is wrong with a command the TPM says."""

    __slots__ = ()

    unknown_ioctl = errno.EINVAL

    def admit(self, data: Union[bytes, memoryview]) -> int:
        if self.command:
            return -errno.EBUSY
        self.response = None
        return int(HEADER.unpack_from(data)[2]) if len(data) >= HEADER_SIZE else 0
