"""libtpms, typed: one function here for each that the TPM needs, Python bytes in and out, result codes as exceptions.

libtpms keeps its state in globals, so there is one TPM in a process and these are functions, not methods. A function
that may be called from a second thread says so; the others belong to the thread that executes commands. Sources:
libtpms' man pages TPMLIB_*(3) and TPM_IO_*(3).
"""

import os

from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.tpm._libtpms import ffi, lib
from swtpm_svc.wire.hints import Any, Optional, Protocol, Union
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.values import NamedTuple

PERMANENT = lib.TPMLIB_STATE_PERMANENT
VOLATILE = lib.TPMLIB_STATE_VOLATILE
SAVE_STATE = lib.TPMLIB_STATE_SAVE_STATE

#: "no such state": libtpms then makes a new TPM, or goes on without the volatile state (TPMLIB_RegisterCallbacks(3)).

#: Commands and responses of either TPM version are at most this long (TPMLIB_SetBufferSize(3)).
BUFFER_SIZE = 4096


class Storage(Protocol):
    """Where libtpms keeps `permall`, `volatilestate` and `savestate`. Failures are `VtpmError`s."""

    def load(self, name: str) -> Optional[bytes]: ...

    def store(self, name: str, payload: bytes) -> None: ...

    def delete(self, name: str, *, must_exist: bool) -> None: ...


class Callbacks:
    """The storage in use and what it last refused: a callback cannot raise through libtpms."""

    storage: Optional[Storage] = None
    failure: Optional[VtpmError] = None
    is_silent = False


class LibtpmsError(VtpmError):
    """libtpms answered with a TPM return code. `result` is that code."""

    def __init__(self, function: str, result: int) -> None:
        super().__init__(Code.LIBTPMS, f"{function} failed: TPM result {result:#x}")
        self.result = result


class BufferSize(NamedTuple):
    """TPMLIB_SetBufferSize(3): bytes."""

    size: int
    minimum: int
    maximum: int


def _check(function: str, result: int) -> None:
    if result:
        raise take_failure() if Callbacks.failure is not None else LibtpmsError(function, result)


def _remember(failure: VtpmError) -> int:
    Callbacks.failure = failure
    return failure.fault.tpm_result


def _on_fault(_kind: Any, error: Any, _trace: Any) -> int:
    return _remember(error if isinstance(error, VtpmError) else internal("in a storage callback", error))


@ffi.def_extern(onerror=_on_fault, error=TpmResult.FAIL)  # type: ignore[misc, untyped-decorator, unused-ignore]
def vtpm_nvram_load(data: Any, length: Any, name: Any) -> int:
    assert Callbacks.storage is not None
    payload = Callbacks.storage.load(ffi.string(name).decode())
    if payload is None:
        return TpmResult.RETRY
    result: int = lib.TPM_Malloc(data, len(payload))
    if not result:
        ffi.memmove(data[0], payload, len(payload))
        length[0] = len(payload)
    return result


@ffi.def_extern(onerror=_on_fault, error=TpmResult.FAIL)  # type: ignore[misc, untyped-decorator, unused-ignore]
def vtpm_nvram_store(data: Any, length: int, name: Any) -> int:
    assert Callbacks.storage is not None
    Callbacks.storage.store(ffi.string(name).decode(), ffi.buffer(data, length)[:])
    return TpmResult.SUCCESS


@ffi.def_extern(onerror=_on_fault, error=TpmResult.FAIL)  # type: ignore[misc, untyped-decorator, unused-ignore]
def vtpm_nvram_delete(name: Any, must_exist: int) -> int:
    assert Callbacks.storage is not None
    Callbacks.storage.delete(ffi.string(name).decode(), must_exist=bool(must_exist))
    return TpmResult.SUCCESS


def version() -> str:
    """The version of the library that is loaded, e.g. "0.9.2"."""
    number = lib.TPMLIB_GetVersion()
    return f"{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"


def open_library(*, tpm2: bool, storage: Storage) -> None:
    """Choose the TPM version and say where its state lives; before anything else, and once in a process.

    Raises:
        VtpmError INSTALLATION: what libtpms prints cannot be kept from standard error, which is the journal.
    """
    silence()
    Callbacks.storage = storage
    _check("TPMLIB_RegisterCallbacks", lib.vtpm_register())
    _check("TPMLIB_ChooseTPMVersion", lib.vtpm_choose(tpm2))


def silence() -> None:
    """Keep what libtpms prints from standard error; once, and before a change of root at the latest.

    Raises:
        VtpmError INSTALLATION
    """
    if not Callbacks.is_silent:
        error = lib.vtpm_silence()
        if error:
            raise VtpmError(
                Code.INSTALLATION, f"/dev/null cannot be opened: {os.strerror(error)}", remedy="see ls -l /dev/null"
            )
        Callbacks.is_silent = True


def write_log(fd: int, level: int, prefix: str) -> None:
    """Have libtpms write its own log to `fd`, each line behind `prefix`. It shows commands, with what is secret in
    them: only for who asks for it."""
    lib.vtpm_write_log(fd, level, prefix.encode(errors="surrogateescape"))


def supports(version: str) -> bool:
    """Has the library a TPM of this version? Before `open_library`."""
    return not lib.vtpm_choose(version == "2.0")


def take_failure() -> VtpmError:
    """What storage refused, once, while `Callbacks.failure` is set."""
    failure, Callbacks.failure = Callbacks.failure, None
    assert failure is not None
    return failure


def main_init() -> None:
    """Power the TPM on: its state is loaded, or made anew where there is none.

    Raises:
        VtpmError: storage failed, or (`LibtpmsError`) the state was not accepted.
    """
    result = lib.TPMLIB_MainInit()
    if Callbacks.failure is not None:
        raise take_failure()  # whatever libtpms made of it
    _check("TPMLIB_MainInit", result)


def terminate() -> None:
    """Power the TPM off; what it kept in memory is gone."""
    lib.TPMLIB_Terminate()


_process = lib.vtpm_process
_buffer = ffi.buffer
_from_buffer = ffi.from_buffer


def process(command: memoryview) -> bytes:
    """Execute one command and return the response; the global interpreter lock is released meanwhile.

    Raises:
        LibtpmsError: the TPM gave no response at all (it is not powered, or has no memory).
    """
    result = _process(_from_buffer("unsigned char[]", command), len(command))
    if result:
        raise LibtpmsError("TPMLIB_Process", result)
    response: bytes = _buffer(lib.vtpm_response, lib.vtpm_response_size)[:]
    return response


class Unsent(NamedTuple):
    """A command that was executed, its response (empty: libtpms gave none), and how many bytes of that are sent."""

    command: bytes
    response: bytes
    sent: int


#: What `Stream.serve_plain` leaves to do: nothing (None), bytes that were received and are not a plain command
#: (b"": the connection has ended), or a response.
Left = Union[None, bytes, Unsent]


def set_plain(codes: "frozenset[int]") -> None:
    """The codes of commands that are executed in C where it serves clients; none is above 511."""
    _buffer(lib.vtpm_plain_codes)[:] = bytes(code in codes for code in range(len(lib.vtpm_plain_codes)))


class Stream:
    """Plain commands on stream sockets: received, executed and answered in C, without Python (vtpm_serve in
    binding.c)."""

    def __init__(self) -> None:
        self._stream = ffi.new("struct vtpm_stream *")

    @property
    def executed(self) -> int:
        """Commands that the last `serve_plain` has executed."""
        count: int = self._stream.executed
        return count

    def serve_plain(self, fd: int, epoll: int, deadline_s: float) -> Left:
        """Serve the socket `fd`, which can be read, and wait on `epoll` for it, as long as nothing else happens there.

        The wait ends at `deadline_s` of time.monotonic(), which may be infinite.
        """
        stream = self._stream
        left = lib.vtpm_serve(stream, fd, epoll, deadline_s)
        if left == lib.VTPM_NOTHING:
            return None
        received: bytes = _buffer(stream.received, stream.received_size)[:]
        if left == lib.VTPM_RECEIVED:
            return received
        return Unsent(received, _buffer(lib.vtpm_response, lib.vtpm_response_size)[:], stream.sent)


def cancel() -> None:
    """Ask the command that another thread executes to give up. Any thread."""
    lib.TPMLIB_CancelCommand()


def set_locality(locality: int) -> None:
    """The locality, 0 to 4, of the commands that follow."""
    lib.vtpm_locality = locality


def set_buffer_size(wanted: int) -> BufferSize:
    """Set the size (bytes) of commands and responses, or ask for it with 0. Settable only while powered off."""
    minimum, maximum = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    size = lib.TPMLIB_SetBufferSize(wanted, minimum, maximum)
    return BufferSize(size, minimum[0], maximum[0])


def validate_state(kinds: int) -> None:
    """Raise unless the state that storage or `set_state` offers would be accepted. Powered off only."""
    _check("TPMLIB_ValidateState", lib.TPMLIB_ValidateState(kinds, 0))


def set_state(kind: int, payload: Optional[bytes]) -> None:
    """Offer a state for the next `main_init`, in place of what storage has; None hides what storage has."""
    if payload is None:
        _check("TPMLIB_SetState", lib.TPMLIB_SetState(kind, ffi.NULL, 0))
    else:
        _check("TPMLIB_SetState", lib.TPMLIB_SetState(kind, payload, len(payload)))


def get_state(kind: int) -> bytes:
    """The state of the running TPM, or what is stored while it is off; empty where there is none."""
    return _owned("TPMLIB_GetState", lambda buffer, length: lib.TPMLIB_GetState(kind, buffer, length))


def volatile_state() -> bytes:
    """Everything the running TPM has in memory only: PCRs, sessions, loaded objects."""
    return _owned("TPMLIB_VolatileAll_Store", lib.TPMLIB_VolatileAll_Store)


def _owned(function: str, call: Any) -> bytes:
    buffer, length = ffi.new("unsigned char **"), ffi.new("uint32_t *")
    _check(function, call(buffer, length))
    try:
        payload: bytes = _buffer(buffer[0], length[0])[:] if buffer[0] else b""
        return payload
    finally:
        lib.TPM_Free(buffer[0])


def info(flags: int) -> str:
    """TPMLIB_GetInfo(3): JSON about the implementation."""
    text = lib.vtpm_get_info(flags)
    if not text:
        raise LibtpmsError("TPMLIB_GetInfo", TpmResult.FAIL)
    try:
        decoded: str = ffi.string(text).decode()
        return decoded
    finally:
        lib.vtpm_free_info(text)


def hash_start() -> int:
    """Begin the hash sequence of a dynamic launch or an H-CRTM event. Returns the TPM result code."""
    result: int = lib.TPM_IO_Hash_Start()
    return result


def hash_data(data: bytes) -> int:
    result: int = lib.TPM_IO_Hash_Data(data, len(data))
    return result


def hash_end() -> int:
    result: int = lib.TPM_IO_Hash_End()
    return result


def get_established() -> bool:
    """The tpmEstablished flag."""
    flag = ffi.new("TPM_BOOL *")
    _check("TPM_IO_TpmEstablished_Get", lib.TPM_IO_TpmEstablished_Get(flag))
    return bool(flag[0])


def reset_established() -> int:
    """Clear tpmEstablished; returns the TPM result code (localities 3 and 4 only)."""
    result: int = lib.TPM_IO_TpmEstablished_Reset()
    return result


def has_profiles() -> bool:
    """libtpms >= 0.10: a TPM 2.0 can be made with a profile."""
    return bool(lib.vtpm_has_profiles())


def set_profile(profile: str) -> None:
    """The profile (JSON, TPMLIB_SetProfile(3)) of the TPM 2.0 that `main_init` makes next; only if `has_profiles`.

    Raises:
        LibtpmsError: this library does not have it.
    """
    _check("TPMLIB_SetProfile", lib.vtpm_set_profile(profile.encode()))


def is_member(user: str, primary: int, group: int) -> bool:
    """Is `user`, whose own group is `primary`, in `group`, by the system's databases? Other threads go on meanwhile."""
    return bool(lib.vtpm_is_member(user.encode(errors="surrogateescape"), primary, group))


def hide_process() -> None:
    """Processes of the same user, such as other TPMs, no longer reach this one through /proc (proc(5), "dumpable")."""
    lib.vtpm_hide_process()


def deny_system_calls(action: str) -> int:
    """From here on a system call that a TPM has no use for ends the process ("kill"), or is logged ("log").

    For good (system_calls.c); 0, or the errno.
    """
    return int(lib.vtpm_deny_system_calls(action == "log"))


def confine() -> int:
    """From here on this process signals no other one, nor changes its limits (confinement.c).

    For good; 0, or the errno.
    """
    return int(lib.vtpm_confine())
