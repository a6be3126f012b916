"""The files that the FUSE front end shows, and what the kernel asks about them. Imported only where [fuse] is
configured.

    tpm                     a TPM device: one write is a command, reads give its response
    control                 the control protocol, as on a control socket
    tpm_version_major       1 or 2
    pcr-sha256/0 ... /23    the PCRs of each bank, as the kernel's sysfs has them
    status                  what the service tells about itself, JSON

Inode numbers are fixed: those of a bank follow from its hash's TPM_ALG_ID, so nothing has to be remembered for the
kernel.
"""

import errno
import functools
import json
import os
import stat
import time
from typing import Any, Callable, NamedTuple, NoReturn, Optional, TypeVar, cast

import pyfuse3
from pyfuse3 import ROOT_INODE, EntryAttributes, FileInfo, FUSEError, RequestContext

from swtpm_svc.continuity.handover import MAX_OPENERS
from swtpm_svc.errors import VtpmError, internal
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.fuse.open_files import ControlFile, Fact, File, TpmFile, Waiting, when_free
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.frontends.shares import Shares, too_many
from swtpm_svc.tpm.pcr import pcr_banks, read_pcr
from swtpm_svc.wire.algorithms import hash_of
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.pcr_banks import PCR_COUNT

_TPM, _CONTROL, _VERSION, _STATUS = 2, 3, 4, 5
#: Files that may be open at a time, by kind (_STATUS: all facts), so that users who may only look cannot keep others
#: from the TPM. Of all users, and of one (Shares).
_LIMITS = {_TPM: (MAX_OPENERS, MAX_OPENERS_OF_ONE), _CONTROL: (256, 64), _STATUS: (256, 64)}
_NAMES = {"tpm": _TPM, "control": _CONTROL, "tpm_version_major": _VERSION, "status": _STATUS}
#: A bank's directory has inode number TPM_ALG_ID << 8, PCR n the n + 1st after it.
_BANK_SHIFT = 8

_FOREVER_S = 1e6


class _Open(NamedTuple):
    """An open file, of which kind, and who opened it."""

    kind: int
    uid: int
    file: File


Handler = TypeVar("Handler", bound=Callable[..., Any])


class Access(NamedTuple):
    """Whom the files belong to. `control_group`: None if only the owner may use `control`."""

    owner: int
    group: int
    mode: int
    control_group: Optional[int]


def _guarded(handler: Handler) -> Handler:
    """A handler whose faults cost one client one EIO: what it lets through would end the service for all."""

    @functools.wraps(handler)
    async def guarded(self: "TpmFiles", *arguments: Any) -> Any:
        try:
            return await handler(self, *arguments)
        except FUSEError:
            raise
        except VtpmError as error:
            raise FUSEError(error.errno) from error
        except Exception as error:
            self.dispatcher.events.failed(internal("while serving a file", error))
            raise FUSEError(errno.EIO) from error

    return cast(Handler, guarded)


class TpmFiles(pyfuse3.Operations):
    """The file system. `describe` gives the content of `status`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        describe: "Callable[[], dict[str, Any]]",
        access: Access,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__()
        self.dispatcher = dispatcher
        self.waiting = Waiting(post)
        #: The kernel has said hello, and has been answered.
        self.is_initialised = False
        self._describe = describe
        self._access = access
        self._user, self._group = os.geteuid(), os.getegid()
        self._time_ns = time.time_ns()
        self._files: dict[int, _Open] = {}
        self._shares = {kind: Shares(*limits) for kind, limits in _LIMITS.items()}
        self._last_handle = 0
        self._banks: list[str] = []

    @property
    def openers(self) -> int:
        """How many have the TPM open."""
        return len(self._shares[_TPM])

    @property
    def is_settled(self) -> bool:
        """Nobody waits for an answer, or has one that he may still want to read."""
        unread = (isinstance(each.file, ControlFile) and each.file.has_unread for each in self._files.values())
        return not len(self.waiting) and not any(unread)

    def set_control_group(self, group: Optional[int]) -> None:
        """Whose `control` is from now on; who has it open keeps it."""
        self._access = self._access._replace(control_group=group)

    # --- the tree ------------------------------------------------------------------------------------------------

    def init(self) -> None:
        self.is_initialised = True

    def _children(self, inode: int) -> "dict[str, int]":
        if inode == ROOT_INODE:
            if not self.dispatcher.executor.busy:
                self._banks = pcr_banks(self.dispatcher.tpm)
            return {**_NAMES, **{f"pcr-{bank}": hash_of(bank) << _BANK_SHIFT for bank in self._banks}}
        return {str(index): inode + 1 + index for index in range(PCR_COUNT)}

    def _attributes(self, inode: int) -> EntryAttributes:
        access, entry = self._access, EntryAttributes()
        entry.st_ino = inode
        is_bank = inode > ROOT_INODE and not inode % (1 << _BANK_SHIFT)
        # The kernel may remember all but which banks there are, which changes with the TPM's power, and the root, which
        # would else look alive after we are dead; and whose `control` is, which a reload of the configuration changes.
        entry.entry_timeout = 0 if is_bank else _FOREVER_S
        entry.attr_timeout = 0 if inode in (ROOT_INODE, _CONTROL) else _FOREVER_S
        entry.st_uid, entry.st_gid, entry.st_nlink = self._user, self._group, 1
        if inode == _TPM:
            entry.st_uid, entry.st_gid, entry.st_mode = access.owner, access.group, stat.S_IFREG | access.mode
        elif inode == _CONTROL:
            entry.st_mode = stat.S_IFREG | (0o600 if access.control_group is None else 0o660)
            if access.control_group is not None:
                entry.st_gid = access.control_group
        elif inode == ROOT_INODE or is_bank:
            entry.st_mode, entry.st_nlink = stat.S_IFDIR | 0o755, 2
        else:
            entry.st_mode = stat.S_IFREG | 0o444
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._time_ns
        return entry

    @_guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        inode = self._children(parent_inode).get(os.fsdecode(name))
        if inode is None:
            raise FUSEError(errno.ENOENT)
        return self._attributes(inode)

    @_guarded
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(inode)

    @_guarded
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: Optional[int], ctx: RequestContext
    ) -> EntryAttributes:
        changes = fields.update_mode or fields.update_uid or fields.update_gid
        if changes or inode not in (_TPM, _CONTROL):
            raise FUSEError(errno.EPERM)
        return self._attributes(inode)  # open() with O_TRUNC, as a shell's redirection does, means nothing to a device

    async def forget(self, inode_list: object) -> None:
        pass

    @_guarded
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @_guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for number, (name, inode) in enumerate(self._children(fh).items(), 1):
            if number > start_id and not pyfuse3.readdir_reply(token, name.encode(), self._attributes(inode), number):
                break

    async def releasedir(self, fh: int) -> None:
        pass

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    async def _refuse(self, *_arguments: object) -> NoReturn:
        raise FUSEError(errno.EPERM)

    _refused: Any = _refuse
    create = mkdir = mknod = symlink = link = unlink = rmdir = rename = _refused

    def stacktrace(self) -> None:
        """Anybody could ask for it by an extended attribute; what the service prints is not theirs to decide."""

    # --- open files ----------------------------------------------------------------------------------------------

    @_guarded
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        kind = inode if inode in (_TPM, _CONTROL) else _STATUS
        caller, shares = Caller(ctx.uid, ctx.gid, ctx.pid), self._shares[kind]
        if not shares.has_room(caller.uid):
            error = too_many("open files", shares, caller.uid)
            self.dispatcher.events.refused(caller, error)
            raise error
        shares.add(caller.uid)
        try:
            file = await self._make_file(inode, flags, caller)
        except BaseException:
            shares.remove(caller.uid)
            raise
        self._last_handle += 1
        self._files[self._last_handle] = _Open(kind, caller.uid, file)
        # past the page cache: each read() is one of ours, whatever the size in stat()
        return FileInfo(fh=self._last_handle, direct_io=True, nonseekable=not isinstance(file, Fact))

    async def _make_file(self, inode: int, flags: int, caller: Caller) -> File:
        if self.waiting.is_over:
            raise FUSEError(errno.ENODEV)
        if inode in (_TPM, _CONTROL):
            kind = TpmFile if inode == _TPM else ControlFile
            return kind(self.dispatcher, caller, flags, self.waiting)
        if flags & os.O_ACCMODE != os.O_RDONLY:  # root is not kept from it by the mode
            raise FUSEError(errno.EACCES)
        return Fact(await self._fact(inode, caller.uid) + "\n")

    async def _fact(self, inode: int, uid: int) -> str:
        if inode == _VERSION:
            return self.dispatcher.tpm.version[0]
        if inode == _STATUS:
            return json.dumps(self._describe())
        algorithm, number = divmod(inode, 1 << _BANK_SHIFT)
        tpm = self.dispatcher.tpm
        digest = await when_free(self.dispatcher, self.waiting, lambda: read_pcr(tpm, algorithm, number - 1), uid)
        if digest is None:
            raise FUSEError(errno.EIO)
        return digest.hex().upper()

    def _file(self, handle: int) -> File:
        return self._files[handle].file  # the kernel's own word: we gave it

    @_guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._file(fh).read(off, size)

    @_guarded
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._file(fh).write(buf)

    @_guarded
    async def poll(self, inode: int, fh: int, poll_handle: Optional[object], ctx: RequestContext) -> int:
        return self._file(fh).poll(poll_handle)

    @_guarded
    async def release(self, fh: int) -> None:
        kind, uid, file = self._files.pop(fh)
        self._shares[kind].remove(uid)
        file.close()
