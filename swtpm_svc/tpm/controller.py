"""The PTM controller: what each control request does to the TPM, whichever encoding it came in (decisions/0021).

A refusal of the TPM is a result code in the reply, as the classic emulator gives it (measured against swtpm 0.7.1:
TPM_BAD_ORDINAL for what the power state forbids, TPM_BAD_LOCALITY, TPM_BAD_PARAMETER). A refusal of the caller
(decisions/0022) is `VtpmError` NOT_PERMITTED, which the front end turns into EPERM.
"""

import time

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.blob import BlobError, EncryptedBlob, Flag, WrongKey
from swtpm_svc.state.encryption import NO_KEYS, Keys
from swtpm_svc.tpm import dynamic_launch
from swtpm_svc.tpm.libtpms import LibtpmsError
from swtpm_svc.tpm.state_blobs import PERMANENT_STATE, SAVE_STATE, VOLATILE_STATE
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm, state_bundle
from swtpm_svc.wire.hints import Any, Callable, Optional
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.values import NamedTuple

MAX_LOCALITY = 4

BLOB_NAMES = {
    int(ptm.BlobType.PERMANENT): PERMANENT_STATE,
    int(ptm.BlobType.VOLATILE): VOLATILE_STATE,
    int(ptm.BlobType.SAVESTATE): SAVE_STATE,
}


class Rights(NamedTuple):
    """What a caller may do beyond sending TPM commands."""

    #: Control operations: uid 0, the service's user, the control group.
    control: bool
    #: State blobs in clear, which hold the seeds of every key: uid 0 and the service's user.
    secrets: bool


#: Requests that neither change nor wait for the TPM: answered at once, also while a long command runs.
_IMMEDIATE = (ptm.GetCapability, ptm.GetConfig, ptm.GetInfo, ptm.CancelTpmCommand, ptm.SetDataFd)

#: Requests that load, store, remove or lock state, or can.
_STORING = (
    ptm.Init,
    ptm.Stop,
    ptm.Shutdown,
    ptm.StoreVolatile,
    ptm.ResetTpmEstablished,
    ptm.HashStart,
    ptm.HashEnd,
    ptm.SetStateBlob,
    ptm.LockStorage,
)

#: How long each further attempt at the lock waits, as swtpm does.
_LOCK_RETRY_S = 0.01
#: QEMU asks for 300. Whoever asks for more keeps the TPM's worker for a minute.
_LOCK_RETRIES_MAX = 6000
#: What the lock is given up after: the last of these that is asked for is the saved state.
_ALL_BLOBS = frozenset(BLOB_NAMES.values())

#: Requests that anyone may make who may open the device.
_FREE = (ptm.GetCapability, ptm.GetConfig, ptm.GetInfo, ptm.GetTpmEstablished, ptm.SetDataFd)


def is_immediate(request: ptm.Request) -> bool:
    return isinstance(request, _IMMEDIATE) or (isinstance(request, ptm.SetBufferSize) and request.size == 0)


def uses_storage(request: ptm.Request) -> bool:
    """May it take as long as a disk does?"""
    return isinstance(request, _STORING) or (
        isinstance(request, ptm.GetStateBlob) and request.type in (ptm.BlobType.SAVESTATE, ptm.ALL_BLOBS)
    )


def needs_control(request: ptm.Request) -> bool:
    """Does the request change the TPM for everybody, so that opening the device is not enough to make it?"""
    if isinstance(request, _FREE):
        return False
    if isinstance(request, ptm.SetLocality):
        return request.locality != 0
    if isinstance(request, ptm.SetBufferSize):
        return request.size != 0
    return True


def authorize(request: ptm.Request, rights: Rights, *, in_clear: bool) -> None:
    """`in_clear`: what the request gives out is not encrypted.

    Raises:
        VtpmError NOT_PERMITTED: the caller may not make this request.
    """
    command = ptm.command_of(request).name
    if needs_control(request) and not rights.control:
        raise VtpmError(
            Code.NOT_PERMITTED,
            f"{command} needs the rights of the control group",
            remedy="add the user to the group that [control] group names, or ask root",
        )
    if isinstance(request, ptm.GetStateBlob) and in_clear and not rights.secrets:
        raise VtpmError(
            Code.NOT_PERMITTED,
            f"{command} gives the TPM's secrets in clear, which only root and the service's user may have",
            remedy="save the state as root, or configure a migration key",
        )


class Controller:
    """Executes control requests on one TPM. `on_shutdown` is told once when a client has shut the TPM down.

    `keys` encrypt state blobs: the one for files where a blob is not asked for in clear, the one for migration always.

    `max_locality` is the highest that may be set; `result_of` says which TPM result stands for an error.

    GET_CAPABILITY is not among them: what can be done is a front end's to say.
    """

    def __init__(
        self,
        tpm: Tpm,
        *,
        on_shutdown: Callable[[], None],
        on_error: Callable[[VtpmError], None],
        keys: Keys = NO_KEYS,
        max_locality: int = MAX_LOCALITY,
        result_of: Callable[[VtpmError], int] = lambda error: error.fault.tpm_result,
    ) -> None:
        self._tpm = tpm
        self._max_locality = max_locality
        self._result_of = result_of
        self._keys = keys
        #: The encrypted blob that was given out last, and which it is.
        self._sealed: Optional[tuple[tuple[int, bool], bytes]] = None
        #: Is the lock given up when all blobs were given out?
        self.releases_lock = False
        #: Those that were.
        self._given: set[str] = set()
        #: Called before the TPM's volatile state is given out or stored, and before it needs all its room.
        self.put_away: Callable[[], None] = lambda: None
        #: Called when the TPM was powered on or reset, unless who did that starts it himself.
        self.on_power: Callable[[], None] = lambda: None
        self._on_shutdown = on_shutdown
        self._on_error = on_error

    def handle(self, request: ptm.Request) -> ptm.Reply:
        """Execute a request that was authorized.

        Never raises: what goes wrong is in the reply, and told to `on_error`.
        """
        try:
            return _HANDLERS[type(request)](self, request)
        except LibtpmsError as error:
            return ptm.Result(error.result)
        except VtpmError as error:
            self._on_error(error)
            return ptm.Result(self._result_of(error))

    def gives_clear(self, request: ptm.GetStateBlob) -> bool:
        """Is the state blob that `request` asks for one in clear?"""
        return self._keys.migration is None and (
            self._keys.state is None or bool(request.state_flags & ptm.STATE_FLAG_DECRYPTED)
        )

    def _init(self, request: ptm.Init) -> ptm.Reply:
        self._tpm.power_on(delete_volatile=bool(request.flags & ptm.INIT_FLAG_DELETE_VOLATILE))
        if not request.flags & ptm.INIT_FLAG_NO_STARTUP:
            self.on_power()
        return ptm.Result(TpmResult.SUCCESS)

    def _shutdown(self, _request: ptm.Shutdown) -> ptm.Reply:
        self._tpm.shut_down()
        self._on_shutdown()
        return ptm.Result(TpmResult.SUCCESS)

    def _stop(self, _request: ptm.Stop) -> ptm.Reply:
        self._tpm.stop()
        return ptm.Result(TpmResult.SUCCESS)

    def _get_established(self, _request: ptm.GetTpmEstablished) -> ptm.Reply:
        if not self._tpm.is_powered:
            return ptm.Result(TpmResult.BAD_ORDINAL)
        return ptm.EstablishedReply(TpmResult.SUCCESS, dynamic_launch.get_established(self._tpm))

    def _reset_established(self, request: ptm.ResetTpmEstablished) -> ptm.Reply:
        if not self._tpm.revive():
            return ptm.Result(TpmResult.BAD_ORDINAL)
        if request.locality > MAX_LOCALITY:
            return ptm.Result(TpmResult.BAD_LOCALITY)
        return ptm.Result(dynamic_launch.reset_established(self._tpm, request.locality))

    def _set_locality(self, request: ptm.SetLocality) -> ptm.Reply:
        if request.locality > self._max_locality:
            return ptm.Result(TpmResult.BAD_LOCALITY)
        self._tpm.set_locality(request.locality)
        return ptm.Result(TpmResult.SUCCESS)

    def _hash_start(self, _request: ptm.HashStart) -> ptm.Reply:
        if not self._tpm.revive():
            return ptm.Result(TpmResult.BAD_ORDINAL)
        self.put_away()
        return ptm.Result(dynamic_launch.hash_start(self._tpm))

    def _hash_data(self, request: ptm.HashData) -> ptm.Reply:
        return ptm.Result(
            dynamic_launch.hash_data(self._tpm, request.data) if self._tpm.is_powered else TpmResult.BAD_ORDINAL
        )

    def _hash_end(self, _request: ptm.HashEnd) -> ptm.Reply:
        return ptm.Result(dynamic_launch.hash_end(self._tpm) if self._tpm.revive() else TpmResult.BAD_ORDINAL)

    def _cancel(self, _request: ptm.CancelTpmCommand) -> ptm.Reply:
        if not self._tpm.is_powered:
            return ptm.Result(TpmResult.BAD_ORDINAL)
        self._tpm.cancel()
        return ptm.Result(TpmResult.SUCCESS)

    def _store_volatile(self, _request: ptm.StoreVolatile) -> ptm.Reply:
        if not self._tpm.revive():
            return ptm.Result(TpmResult.BAD_ORDINAL)
        self.put_away()
        self._tpm.store_volatile()
        return ptm.Result(TpmResult.SUCCESS)

    def _get_state_blob(self, request: ptm.GetStateBlob) -> ptm.Reply:
        if not self._tpm.is_powered:
            return ptm.Result(TpmResult.BAD_ORDINAL)
        decrypted = bool(request.state_flags & ptm.STATE_FLAG_DECRYPTED)
        if request.offset and self._sealed is not None and self._sealed[0] == (request.type, decrypted):
            whole = self._sealed[
                1
            ]  # encrypted once more it would be another one, and its end would not fit the beginning
        else:
            is_all = request.type == ptm.ALL_BLOBS
            found = self._all_blobs(decrypted=decrypted) if is_all else self._blob(request.type, decrypted=decrypted)
            if found is None:
                return ptm.Result(TpmResult.RETRY)
            whole = found
            self._sealed = None if self.gives_clear(request) else ((request.type, decrypted), whole)
        # encrypted: with the key for files; that of the migration key is not told (measured)
        is_encrypted = self._keys.state is not None and not decrypted
        return ptm.StateBlobReply(TpmResult.SUCCESS, ptm.STATE_FLAG_ENCRYPTED if is_encrypted else 0, len(whole), whole)

    def _blob(self, kind: int, *, decrypted: bool) -> Optional[bytes]:
        name = BLOB_NAMES.get(kind)
        if name == VOLATILE_STATE:
            self.put_away()
        payload = self._tpm.blobs.get(name) if name else None
        if name:
            self._give(name)
        return None if payload is None else blob.encode_migration(payload, self._keys, decrypted=decrypted)

    def _all_blobs(self, *, decrypted: bool) -> bytes:
        """One request is one moment: no command comes between two blobs. It is not a migration: the lock stays."""
        self.put_away()
        found = {kind: self._tpm.blobs.get(name) for kind, name in BLOB_NAMES.items()}
        return state_bundle.encode(
            {
                kind: blob.encode_migration(payload, self._keys, decrypted=decrypted)
                for kind, payload in found.items()
                if payload is not None
            }
        )

    def _give(self, name: str) -> None:
        self._given.add(name)
        if name == SAVE_STATE and self._given == _ALL_BLOBS and self.releases_lock:
            self._tpm.release()
        if name == SAVE_STATE:
            self._given = set()

    def _set_state_blob(self, request: ptm.SetStateBlob) -> ptm.Reply:
        name = BLOB_NAMES.get(request.type)
        if self._tpm.is_powered or name is None:
            return ptm.Result(TpmResult.BAD_ORDINAL if name else TpmResult.BAD_PARAMETER)
        try:
            decoded = blob.decode(request.data)
            if request.state_flags & ptm.STATE_FLAG_ENCRYPTED:
                decoded = decoded._replace(
                    flags=decoded.flags | Flag.ENCRYPTED
                )  # a blob of which the client says so must be encrypted (measured)
            payload = blob.payload(decoded, self._keys)
        except EncryptedBlob:
            return ptm.Result(TpmResult.KEYNOTFOUND)
        except WrongKey:
            return ptm.Result(TpmResult.DECRYPT_ERROR)
        except BlobError:
            return ptm.Result(TpmResult.BAD_PARAMETER)
        self._tpm.hold()
        self._tpm.blobs.offer(name, payload)
        return ptm.Result(TpmResult.SUCCESS)

    def _get_config(self, _request: ptm.GetConfig) -> ptm.Reply:
        flags = ptm.CONFIG_FLAG_FILE_KEY if self._keys.state else 0
        flags |= ptm.CONFIG_FLAG_MIGRATION_KEY if self._keys.migration else 0
        return ptm.ConfigReply(TpmResult.SUCCESS, flags)

    def _set_data_fd(self, _request: ptm.SetDataFd) -> ptm.Reply:
        return ptm.Result(TpmResult.BAD_ORDINAL)

    def _set_buffer_size(self, request: ptm.SetBufferSize) -> ptm.Reply:
        if request.size and self._tpm.is_powered:
            return ptm.Result(TpmResult.BAD_ORDINAL)
        return ptm.BufferSizeReply(TpmResult.SUCCESS, *self._tpm.buffer_size(request.size))

    def _get_info(self, request: ptm.GetInfo) -> ptm.Reply:
        text = self._tpm.info(request.flags).encode() + b"\0"  # clients print it as it comes
        if request.offset >= len(text):
            return ptm.Result(TpmResult.BAD_PARAMETER)
        return ptm.InfoReply(TpmResult.SUCCESS, len(text), text[request.offset :])

    def _lock_storage(self, request: ptm.LockStorage) -> ptm.Reply:
        for left in range(min(request.retries, _LOCK_RETRIES_MAX), -1, -1):
            try:
                self._tpm.hold()
                break
            except VtpmError as error:
                if not left or error.code is not Code.STATE_LOCKED:
                    raise
            time.sleep(_LOCK_RETRY_S)
        return ptm.Result(TpmResult.SUCCESS)


#: Each handler takes the request type it stands beside, which a dict's type cannot say.
_HANDLERS: "dict[type, Callable[[Controller, Any], ptm.Reply]]" = {
    ptm.Init: Controller._init,
    ptm.Shutdown: Controller._shutdown,
    ptm.GetTpmEstablished: Controller._get_established,
    ptm.SetLocality: Controller._set_locality,
    ptm.HashStart: Controller._hash_start,
    ptm.HashData: Controller._hash_data,
    ptm.HashEnd: Controller._hash_end,
    ptm.CancelTpmCommand: Controller._cancel,
    ptm.StoreVolatile: Controller._store_volatile,
    ptm.ResetTpmEstablished: Controller._reset_established,
    ptm.GetStateBlob: Controller._get_state_blob,
    ptm.SetStateBlob: Controller._set_state_blob,
    ptm.Stop: Controller._stop,
    ptm.GetConfig: Controller._get_config,
    ptm.SetDataFd: Controller._set_data_fd,
    ptm.SetBufferSize: Controller._set_buffer_size,
    ptm.GetInfo: Controller._get_info,
    ptm.LockStorage: Controller._lock_storage,
}
