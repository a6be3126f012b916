"""The TPM: power, command execution, locality, the hash sequence and state blobs, over libtpms.

Power states follow the PTM protocol (swtpm_ioctl(8)): INIT powers on or, when running, is a hardware reset; STOP powers
off so that state blobs can be exchanged. Only a running TPM executes commands.

Rule 1: a TPM 2.0 that was started is shut down in order (TPM2_Shutdown) before its power goes, so that the
dictionary-attack counter does not rise (TPM 2.0 Part 1, "Dictionary Attack Protection"), unless its volatile state was
just stored and will be resumed, in which case nothing was interrupted.
Rule 2: a TPM that is resumed from volatile state gets fresh entropy before it serves: libtpms restores its generator
too, and would give the random bytes once more that it gave after the snapshot (measured).
"""

from enum import Enum, unique
from os import urandom
from struct import Struct
from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.libtpms import Left, LibtpmsError, Storage, Stream, Unsent
from swtpm_svc.wire.command_codes import LONG_RUNNING
from swtpm_svc.wire.tpm import (
    HEADER_SIZE,
    ST_NO_SESSIONS,
    TAG_RQU_COMMAND,
    TAG_RSP_COMMAND,
    decode_header,
    encode_command,
    encode_response,
)

VOLATILE_STATE = "volatilestate"
PERMANENT_STATE = "permall"
SAVE_STATE = "savestate"

_KINDS = {PERMANENT_STATE: libtpms.PERMANENT, VOLATILE_STATE: libtpms.VOLATILE, SAVE_STATE: libtpms.SAVE_STATE}
_STIR_BYTES = 48
_SHUTDOWN_CODE = 0x145
#: TPM_Startup, TPM2_Startup.
_STARTUP_CODES = {"1.2": 0x99, "2.0": 0x144}
_SUCCESS = b"\0\0\0\0"


@unique
class Power(Enum):
    """OFF: not powered since the start. RUNNING. STOPPED: powered off by STOP."""

    OFF = "off"
    RUNNING = "running"
    STOPPED = "stopped"


class _Dialect(NamedTuple):
    """What differs on the wire between the two TPM versions."""

    #: What a client gets for a command that the TPM cannot take at all: TPM_FAIL, TPM_RC_FAILURE.
    fatal: bytes
    #: TPM_BAD_LOCALITY, TPM_RC_LOCALITY.
    bad_locality: bytes
    startup: "dict[str, bytes]"
    #: What makes a TPM that goes on give other random bytes than the one before; None: they are not part of its state.
    stir: Optional[bytes]


# TPM Main Part 3 (TPM_Startup) and TPM 2.0 Part 3 (TPM2_Startup, TPM2_StirRandom).
_DIALECTS = {
    "1.2": _Dialect(
        fatal=encode_response(TAG_RSP_COMMAND, 0x09),
        bad_locality=encode_response(TAG_RSP_COMMAND, 0x3D),
        startup={
            "clear": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\1"),
            "state": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\2"),
            "deactivated": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\3"),
        },
        stir=None,  # and any command after TPM_SaveState undoes that
    ),
    "2.0": _Dialect(
        fatal=encode_response(ST_NO_SESSIONS, 0x101),
        bad_locality=encode_response(ST_NO_SESSIONS, 0x907),
        startup={
            "clear": encode_command(ST_NO_SESSIONS, 0x144, b"\0\0"),
            "state": encode_command(ST_NO_SESSIONS, 0x144, b"\0\1"),
        },
        stir=encode_command(ST_NO_SESSIONS, 0x146, _STIR_BYTES.to_bytes(2, "big") + bytes(_STIR_BYTES))[:-_STIR_BYTES],
    ),
}
_SHUTDOWN_CLEAR = encode_command(ST_NO_SESSIONS, _SHUTDOWN_CODE, b"\0\0")

# TPM2_GetCapability(TPM_CAP_PCRS, 0, 1): TPML_PCR_SELECTION after moreData and capability (TPM 2.0 Part 2, 10.9.7, 6.12).
_GET_PCR_BANKS = encode_command(ST_NO_SESSIONS, 0x17A, Struct(">III").pack(5, 0, 1))
_PCR_SELECTIONS = HEADER_SIZE + 5
_PCR_SELECTION = Struct(">HB")
#: TPM_ALG_ID of the hashes (TCG Algorithm Registry).
HASH_NAMES = {0x04: "sha1", 0x0B: "sha256", 0x0C: "sha384", 0x0D: "sha512", 0x12: "sm3_256"}


def _refusal(error: LibtpmsError) -> str:
    return f"libtpms does not accept it (TPM result {error.result:#x})"


class Snapshot(NamedTuple):
    """A TPM, complete: enough for another process to go on with it. The blobs are empty where it does not run."""

    power: str
    locality: int
    permanent: bytes
    volatile: bytes
    #: The two flags of `Tpm`.
    is_shut_down: bool
    volatile_is_stored: bool
    #: State blobs that were set and wait for the next power-on.
    offered: "dict[str, bytes]"


class _Overlay:
    """Storage with state blobs laid over it that come from memory, or (None) are hidden."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.blobs: dict[str, Optional[bytes]] = {}

    def load(self, name: str) -> Optional[bytes]:
        return self.blobs[name] if name in self.blobs else self.storage.load(name)

    def store(self, name: str, payload: bytes) -> None:
        self.storage.store(name, payload)

    def delete(self, name: str, *, must_exist: bool) -> None:
        self.storage.delete(name, must_exist=must_exist)

    def damaged(self, name: str, reason: str) -> VtpmError:
        if self.blobs.get(name) is None:
            return self.storage.damaged(name, reason)
        return VtpmError(
            Code.HANDOVER_REFUSED,
            f"the {name} that a predecessor left in memory cannot be used: {reason}; the state on disk is untouched",
            remedy="nothing is to be done: the TPM is powered on from the state on disk, as after a power cut",
        )


class Tpm:
    """The process's one TPM. All methods but `cancel` belong to one thread at a time.

    A client only gets a TPM return code when its command could not be stored; `on_storage_failure` hears the cause.
    """

    def __init__(self, version: str, storage: Storage, on_storage_failure: Callable[[VtpmError], None]) -> None:
        self.version = version
        self._on_storage_failure = on_storage_failure
        self.power = Power.OFF
        self.locality = 0
        self._storage = _Overlay(storage)
        self._dialect = _DIALECTS[version]
        self._startup_code = _STARTUP_CODES[version]
        #: Called when a TPM can answer from now on: it was started, or goes on with its volatile state. From any thread.
        self.on_started: Callable[[], None] = lambda: None
        #: The volatile state in storage is that of this very moment: nothing ran since it was stored.
        self._volatile_is_stored = False
        #: The last command was a TPM2_Shutdown that succeeded.
        self._is_shut_down = False
        #: State blobs that were set and wait for the next power-on.
        self._offered: dict[str, bytes] = {}
        self._stream = Stream(others=LONG_RUNNING[version] | {_SHUTDOWN_CODE, self._startup_code})
        libtpms.open_library(tpm2=version == "2.0", storage=self._storage)

    @property
    def is_running(self) -> bool:
        return self.power is Power.RUNNING

    @property
    def can_be_asked(self) -> bool:
        """It runs, and the last command was no TPM2_Shutdown: what follows one undoes it (TPM 2.0 Part 3, "TPM2_Shutdown")."""
        return self.is_running and not self._is_shut_down

    # --- power ---------------------------------------------------------------------------------------------------

    def power_on(self, *, delete_volatile: bool) -> None:
        """PTM_INIT: power on, or reset when running. Goes on with the stored volatile state where there is one.

        `delete_volatile` removes the stored volatile state once it has been read, so that it is resumed from once.

        Raises:
            VtpmError: the state cannot be read or was not accepted; the TPM is then off and storage untouched.
        """
        self._power_off(Power.STOPPED)
        offered, self._offered = self._offered, {}
        if PERMANENT_STATE in offered:
            # what else is stored belongs to the TPM that the new permanent state replaces
            self._storage.blobs = {VOLATILE_STATE: None, SAVE_STATE: None}
        try:
            volatile = offered.get(VOLATILE_STATE) or self._storage.load(VOLATILE_STATE)
            self._main_init(offered)
        finally:
            self._storage.blobs = {}
        if offered:
            self._settle(offered)
        if volatile is not None:
            self._stir()
            if delete_volatile:
                self._storage.delete(VOLATILE_STATE, must_exist=False)
        self._volatile_is_stored = volatile is not None and not delete_volatile
        if volatile is not None:
            self.on_started()

    def _settle(self, offered: "dict[str, bytes]") -> None:
        """Make storage say what the TPM was powered on with; libtpms itself has stored the permanent state."""
        for name in (VOLATILE_STATE, SAVE_STATE):
            if name in offered:
                self._storage.store(name, offered[name])
            elif PERMANENT_STATE in offered:
                self._storage.delete(name, must_exist=False)

    def startup(self, kind: str) -> bytes:
        """Send TPM_Startup / TPM2_Startup: `kind` is clear, state, or (1.2) deactivated. Returns the response."""
        return self._execute_own(self._dialect.startup[kind])

    def stop(self) -> None:
        """PTM_STOP: power off; state blobs can then be set."""
        self._power_off(Power.STOPPED)

    def shut_down(self) -> None:
        """Power off for good, in order."""
        self._power_off(Power.OFF)

    def snapshot(self) -> Snapshot:
        """The TPM for `resume` in another process."""
        runs = self.is_running
        return Snapshot(
            power=self.power.value,
            locality=self.locality,
            permanent=libtpms.get_state(libtpms.PERMANENT) if runs else b"",
            volatile=libtpms.volatile_state() if runs else b"",
            is_shut_down=self._is_shut_down,
            volatile_is_stored=self._volatile_is_stored,
            offered=self._offered,
        )

    def resume(self, snapshot: Snapshot) -> None:
        """Go on with a TPM as it was at `snapshot`, whatever storage has meanwhile.

        Raises:
            VtpmError: the snapshot was not accepted, or not stored; the TPM is then off.
        """
        self.set_locality(snapshot.locality)
        for name in (PERMANENT_STATE, VOLATILE_STATE, SAVE_STATE):  # the permanent state comes first
            if name in snapshot.offered:
                self.set_state(name, snapshot.offered[name])
        if snapshot.power != Power.RUNNING.value:
            self.power = Power(snapshot.power)
            return
        self._storage.blobs = {PERMANENT_STATE: snapshot.permanent, VOLATILE_STATE: snapshot.volatile}
        try:
            self._main_init({})
        finally:
            self._storage.blobs = {}
        try:
            # Storage has what a shutdown left, which says that all was in order; from here on it no longer is, and
            # libtpms, which was not shut down in its own view, would not write that by itself.
            if self._storage.load(PERMANENT_STATE) != snapshot.permanent:
                self._storage.store(PERMANENT_STATE, snapshot.permanent)
        except VtpmError:
            libtpms.terminate()
            self.power = Power.OFF
            raise
        self._stir()
        self._is_shut_down, self._volatile_is_stored = snapshot.is_shut_down, snapshot.volatile_is_stored
        self.on_started()

    def _main_init(self, offered: "dict[str, bytes]") -> None:
        # libtpms must see a wrong state here, where storage is still as it was, and not half-way through its start. What was
        # offered it has seen already, and must not again: in a TPM 1.2 it is then used up, and what is stored starts (measured).
        for name, kind in ((PERMANENT_STATE, libtpms.PERMANENT), (VOLATILE_STATE, libtpms.VOLATILE)):
            if name not in offered and self._storage.load(name) is not None:
                self._validate(name, kind)
        try:
            libtpms.main_init()
        except LibtpmsError as error:
            libtpms.terminate()
            raise self._storage.damaged(PERMANENT_STATE, _refusal(error)) from error
        except VtpmError:
            libtpms.terminate()
            raise
        self.power = Power.RUNNING
        self._is_shut_down = False

    def _validate(self, name: str, kind: int) -> None:
        try:
            libtpms.validate_state(kind)
        except LibtpmsError as error:
            raise self._storage.damaged(name, _refusal(error)) from error

    def _power_off(self, power: Power) -> None:
        if self.is_running:
            if self.version == "2.0" and not self._is_shut_down and not self._volatile_is_stored:
                # a TPM that was not started answers TPM_RC_INITIALIZE, which is as good
                self._execute_own(_SHUTDOWN_CLEAR)
            libtpms.terminate()
        self.power = power

    def _stir(self) -> None:
        if self._dialect.stir is not None:
            libtpms.process(memoryview(bytearray(self._dialect.stir + urandom(_STIR_BYTES))))

    # --- commands ------------------------------------------------------------------------------------------------

    def execute(self, command: memoryview, code: int) -> bytes:
        """Execute a command, whose header has `code`; always gives a response, if only "the TPM failed"."""
        if self.power is not Power.RUNNING:
            return self._dialect.fatal
        self._volatile_is_stored = False
        try:
            response = libtpms.process(command)
        except LibtpmsError:
            return self._dialect.fatal
        self._is_shut_down = code == _SHUTDOWN_CODE and response[6:10] == _SUCCESS
        if code == self._startup_code and response[6:10] == _SUCCESS:
            self.on_started()
        if libtpms.Callbacks.failure is not None:
            self._on_storage_failure(libtpms.take_failure())
        return response

    def execute_at(self, locality: int, command: memoryview, code: int) -> bytes:
        """Execute one command at another locality than that of the others."""
        libtpms.set_locality(locality)
        try:
            return self.execute(command, code)
        finally:
            libtpms.set_locality(self.locality)

    def serve(self, fd: int, epoll: int, deadline_s: float) -> "tuple[int, Left]":
        """Execute the plain commands that come on a stream socket, while the TPM runs: `libtpms.Stream.serve`.

        Returns how many were executed, and what is left to do.
        """
        left = self._stream.serve(fd, epoll, deadline_s)
        executed = self._stream.executed
        if executed:
            self._volatile_is_stored = self._is_shut_down = False
            if libtpms.Callbacks.failure is not None:
                self._on_storage_failure(libtpms.take_failure())
        if isinstance(left, Unsent) and not left.response:
            left = left._replace(response=self._dialect.fatal)
        return executed, left

    def fatal(self) -> bytes:
        """The response to a command that the TPM cannot take at all."""
        return self._dialect.fatal

    def bad_locality(self) -> bytes:
        """The response to a command from a locality that its sender may not use."""
        return self._dialect.bad_locality

    def _execute_own(self, command: bytes) -> bytes:
        """Execute a command of the service's own."""
        return self.execute(memoryview(bytearray(command)), decode_header(command).code)

    def ask(self, command: bytes) -> bytes:
        """Execute a command of the service's own that only asks; see `can_be_asked`.

        Not by `execute`: what a client did last must stay what the client did last.
        """
        try:
            return libtpms.process(memoryview(bytearray(command))) if self.is_running else self._dialect.fatal
        except LibtpmsError:
            return self._dialect.fatal

    def cancel(self) -> None:
        """Ask the command in execution to give up; any thread. It answers TPM_RC_CANCELED if it does."""
        libtpms.cancel()

    def set_locality(self, locality: int) -> None:
        """The locality of the commands that follow, 0 to 4."""
        self.locality = locality
        libtpms.set_locality(locality)

    def pcr_banks(self) -> "list[str]":
        """The hash algorithms of the PCR banks that hold PCRs; empty while the TPM is not started (TPM2_GetCapability)."""
        if not self.can_be_asked:
            return []
        if self.version == "1.2":
            return ["sha1"]
        response = self.ask(_GET_PCR_BANKS)
        if response[6:10] != _SUCCESS:
            return []
        banks, position = [], _PCR_SELECTIONS + 4
        for _ in range(int.from_bytes(response[_PCR_SELECTIONS:position], "big")):
            algorithm, size = _PCR_SELECTION.unpack_from(response, position)
            position += _PCR_SELECTION.size
            if any(response[position : position + size]):
                banks.append(HASH_NAMES.get(algorithm, f"{algorithm:#x}"))
            position += size
        return banks

    # --- the control operations that need libtpms ----------------------------------------------------------------

    def hash_start(self) -> int:
        self._volatile_is_stored = False
        return libtpms.hash_start()

    def hash_data(self, data: bytes) -> int:
        return libtpms.hash_data(data)

    def hash_end(self) -> int:
        self._volatile_is_stored = False
        return libtpms.hash_end()

    def get_established(self) -> bool:
        return libtpms.get_established()

    def reset_established(self, locality: int) -> int:
        """Clear tpmEstablished as `locality`; returns the TPM result code."""
        self._volatile_is_stored = False
        libtpms.set_locality(locality)
        try:
            return libtpms.reset_established()
        finally:
            libtpms.set_locality(self.locality)

    def store_volatile(self) -> None:
        """PTM_STORE_VOLATILE: the next power-on goes on from here."""
        self._storage.store(VOLATILE_STATE, libtpms.volatile_state())
        self._volatile_is_stored = True

    def state(self, name: str) -> Optional[bytes]:
        """The payload of a state blob of the running TPM; None where there is none (a savestate that was not made)."""
        if name == SAVE_STATE:
            return self._storage.load(SAVE_STATE)
        return libtpms.get_state(_KINDS[name]) or None

    def set_state(self, name: str, payload: bytes) -> None:
        """Offer a state blob to the next power-on. Only while stopped; the permanent state comes first.

        Raises:
            VtpmError: libtpms did not accept it; what is stored is as before.
        """
        try:
            libtpms.set_state(_KINDS[name], payload)
        except LibtpmsError:
            self._offered = {}  # libtpms forgets all of them when it refuses one (TPMLIB_SetState(3))
            raise
        self._offered[name] = payload

    def buffer_size(self, wanted: int) -> libtpms.BufferSize:
        """Set (only while off) or, with 0, ask for the buffer size in bytes."""
        return libtpms.set_buffer_size(wanted)

    def info(self, flags: int) -> str:
        return libtpms.info(flags)
