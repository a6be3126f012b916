"""The one error family, and the one table that says what an error is to each kind of receiver.

A `VtpmError` carries a `Code`, one line of cause and one line of remedy. `TABLE` maps the code to the errno that a
device client gets, the TPM return code that a control reply carries (of TPM 1.2 for both versions), the exit status of a command and the MESSAGE_ID
of the journal entry. Exit statuses are those of sysexits.h where one fits.
"""

import errno

from swtpm_svc.wire.enumerations import Enum, unique
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.values import NamedTuple


@unique
class Code(Enum):
    """What went wrong. The value is the name's lower-case form and appears in `--json` output."""

    USAGE = "usage"
    CONFIG_MISSING = "config-missing"
    CONFIG_UNREADABLE = "config-unreadable"
    CONFIG_INVALID = "config-invalid"
    USER_MISSING = "user-missing"
    CUSE_MISSING = "cuse-missing"
    CUSE_DENIED = "cuse-denied"
    DEVICE_NAME_TAKEN = "device-name-taken"
    DEVICE_NUMBER_TAKEN = "device-number-taken"
    DEVICE_REJECTED = "device-rejected"
    DEVICE_NOT_READY = "device-not-ready"
    STATE_MISSING = "state-missing"
    STATE_UNREADABLE = "state-unreadable"
    STATE_UNWRITABLE = "state-unwritable"
    STATE_FULL = "state-full"
    STATE_LOCKED = "state-locked"
    STATE_CORRUPT = "state-corrupt"
    STATE_FOREIGN = "state-foreign"
    STATE_KEY = "state-key"
    KEY_UNUSABLE = "key-unusable"
    HANDOVER_REFUSED = "handover-refused"
    LIBTPMS = "libtpms"
    PROTOCOL = "protocol"
    NOT_PERMITTED = "not-permitted"
    TPM_NOT_RUNNING = "tpm-not-running"
    TPM_RUNNING = "tpm-running"
    TPM_FAILED = "tpm-failed"
    BAD_LOCALITY = "bad-locality"
    BUSY = "busy"
    TOO_MANY = "too-many"
    TOO_LARGE = "too-large"
    SOCKET_UNAVAILABLE = "socket-unavailable"
    KERNEL_TPM_UNAVAILABLE = "kernel-tpm-unavailable"
    FUSE_UNAVAILABLE = "fuse-unavailable"
    MOUNT_FAILED = "mount-failed"
    DAEMON_UNREACHABLE = "daemon-unreachable"
    CA_EXISTS = "ca-exists"
    CA_UNUSABLE = "ca-unusable"
    CA_SIGNER = "ca-signer"
    TPM_REFUSED = "tpm-refused"
    AUTH_FAILED = "auth-failed"
    ALREADY_PROVISIONED = "already-provisioned"
    INSTALLATION = "installation"
    INTERNAL = "internal"


class Fault(NamedTuple):
    """What one code is to its receivers."""

    errno: int
    tpm_result: int
    exit_status: int
    message_id: str
    meaning: str


# fmt: off
TABLE = {
    Code.USAGE: Fault(errno.EINVAL, TpmResult.BAD_PARAMETER, 64, "0ba7caaa767b41c48fdff358ce2f4e9d", "the command line is wrong"),
    Code.CONFIG_MISSING: Fault(errno.ENOENT, TpmResult.FAIL, 78, "487d022c2dd845e3b2deadc907130485", "there is no configuration file for this instance"),
    Code.CONFIG_UNREADABLE: Fault(errno.EACCES, TpmResult.FAIL, 78, "77ce424b12c440ddb2ca641a572bf083", "the configuration file cannot be read"),
    Code.CONFIG_INVALID: Fault(errno.EINVAL, TpmResult.FAIL, 78, "4e4426d591c948648a1d82bde8ccdd49", "the configuration file says something it may not"),
    Code.USER_MISSING: Fault(errno.ENOENT, TpmResult.FAIL, 67, "dda047b431a6421980cd42e6569ebfb4", "a user or group that is named does not exist"),
    Code.CUSE_MISSING: Fault(errno.ENOENT, TpmResult.FAIL, 69, "a58ed3ac60f94fd6a79a13628b807802", "the kernel has no /dev/cuse"),
    Code.CUSE_DENIED: Fault(errno.EACCES, TpmResult.FAIL, 77, "c57666ad12454fc6bdf52d4d7d0a700b", "/dev/cuse may not be opened"),
    Code.DEVICE_NAME_TAKEN: Fault(errno.EEXIST, TpmResult.FAIL, 73, "b9cd8876ecf54dbea8f4d196a23d007b", "another device has the name already"),
    Code.DEVICE_NUMBER_TAKEN: Fault(errno.EEXIST, TpmResult.FAIL, 73, "153065680a24492a8492132ef2419f46", "another device has the major and minor number already"),
    Code.DEVICE_REJECTED: Fault(errno.ENODEV, TpmResult.FAIL, 73, "1242c9f29a424461bb7a9026de177a74", "the kernel refused to make the device"),
    Code.DEVICE_NOT_READY: Fault(errno.ETIMEDOUT, TpmResult.FAIL, 75, "130287fff98348968b9acfb33f31e6de", "the device node did not get its owner and mode in time"),
    Code.STATE_MISSING: Fault(errno.ENOENT, TpmResult.FAIL, 66, "1dd246c7b2af407a800edc3493020a4d", "the state directory does not exist"),
    Code.STATE_UNREADABLE: Fault(errno.EACCES, TpmResult.FAIL, 74, "715f3a15b8b246418d40e5a8ecf32de1", "a state file cannot be read"),
    Code.STATE_UNWRITABLE: Fault(errno.EROFS, TpmResult.FAIL, 74, "03d13c812ef14c63a8c3f9331aa554e2", "the state directory cannot be written"),
    Code.STATE_FULL: Fault(errno.ENOSPC, TpmResult.NOSPACE, 74, "e504d8e3039f40aaa52a837d0cea6121", "the file system that holds the state is full"),
    Code.STATE_LOCKED: Fault(errno.EBUSY, TpmResult.FAIL, 75, "41e6389e7eba415ca44ec30f78e76872", "another process holds the state"),
    Code.STATE_CORRUPT: Fault(errno.EBADMSG, TpmResult.FAIL, 65, "2063d94a2fc54939b9f6d74bb85feebf", "a state file is damaged"),
    Code.STATE_FOREIGN: Fault(errno.EPROTONOSUPPORT, TpmResult.FAIL, 65, "f2d9ddc33bea4c1f8ddfef8e0c6ef274", "a state file is for another kind of TPM, or newer"),
    Code.STATE_KEY: Fault(errno.EACCES, TpmResult.DECRYPT_ERROR, 65, "25d0346a0b2c4efd824448e597e64510", "the state is encrypted with another key than what is configured, or is not encrypted"),
    Code.KEY_UNUSABLE: Fault(errno.EACCES, TpmResult.FAIL, 78, "4abd0b67444447a1b9dbd79faf85b2e5", "the key for the state cannot be read, is not a key, or is not secret"),
    Code.HANDOVER_REFUSED: Fault(errno.EIO, TpmResult.FAIL, 70, "d544ae9c577448deb0d367639a6857a5", "what was kept in memory of a TPM cannot be used"),
    Code.LIBTPMS: Fault(errno.EIO, TpmResult.FAIL, 70, "c94e40864ad846fa9019e8947601e921", "libtpms reported a failure"),
    Code.PROTOCOL: Fault(errno.EBADMSG, TpmResult.BAD_PARAMETER, 76, "80f1b1f95ad744a58a6ed34463175517", "a peer broke the protocol"),
    Code.NOT_PERMITTED: Fault(errno.EPERM, TpmResult.FAIL, 77, "7489009100d34faf989cbae03b0689f9", "the caller may not do this"),
    Code.TPM_NOT_RUNNING: Fault(errno.EIO, TpmResult.INVALID_POSTINIT, 69, "622853b8d2334893ad85eab4d1250e13", "the TPM is not powered"),
    Code.TPM_RUNNING: Fault(errno.EBUSY, TpmResult.BAD_ORDINAL, 69, "eb17ec33ef7e4e7ea171e361e9e3db5d", "the TPM must be stopped first"),
    Code.TPM_FAILED: Fault(errno.EIO, TpmResult.FAIL, 70, "ff37e3df739c4d61b1c494c75619fafb", "the TPM has failed"),
    Code.BAD_LOCALITY: Fault(errno.EINVAL, TpmResult.BAD_LOCALITY, 64, "4980a6959c2345a6a80bb2fb02559a3e", "there is no such locality, or it may not do this"),
    Code.BUSY: Fault(errno.EBUSY, TpmResult.FAIL, 75, "93450f052a564c2187f9e42a3983c5fd", "a response is waiting to be read"),
    Code.TOO_MANY: Fault(errno.EMFILE, TpmResult.FAIL, 75, "967a9072ff6840e680bb454897f232a1", "more is open at a time than one user may have, or than there is"),
    Code.TOO_LARGE: Fault(errno.E2BIG, TpmResult.BAD_PARAMETER, 65, "1dde730c2286490599ede696bc7af0d1", "more bytes than the TPM takes"),
    Code.SOCKET_UNAVAILABLE: Fault(errno.EADDRINUSE, TpmResult.FAIL, 75, "5007b8a3e6854e949b4f7112c90915fd", "a socket's address cannot be listened on"),
    Code.KERNEL_TPM_UNAVAILABLE: Fault(errno.ENODEV, TpmResult.FAIL, 69, "ae8d6bb14e03432ebe3d22499213a7e1", "the kernel makes no TPM of its own for the instance"),
    Code.FUSE_UNAVAILABLE: Fault(errno.ENODEV, TpmResult.FAIL, 69, "5e51cfdc8d6449f085d99609be81e021", "there is no FUSE on this machine, or no pyfuse3"),
    Code.MOUNT_FAILED: Fault(errno.EBUSY, TpmResult.FAIL, 73, "e529237451ca4c6ebe5b67964de5285a", "the FUSE file system cannot be mounted, or is gone"),
    Code.DAEMON_UNREACHABLE: Fault(errno.ECONNREFUSED, TpmResult.FAIL, 69, "77fd3786820242f4bdc9109144fdc2ea", "the daemon of this instance does not answer"),
    Code.CA_EXISTS: Fault(errno.EEXIST, TpmResult.FAIL, 73, "970569cb94924c4c945b569dbd4ce283", "there is a certification authority already"),
    Code.CA_UNUSABLE: Fault(errno.EBADMSG, TpmResult.FAIL, 65, "4d667253770e4aef89e7b07995b73207", "the certification authority is damaged, incomplete or expired"),
    Code.CA_SIGNER: Fault(errno.EIO, TpmResult.FAIL, 75, "07363f7927c842d1805ef867b1d3e5e4", "the certification authority's external signer failed"),
    Code.TPM_REFUSED: Fault(errno.EIO, TpmResult.FAIL, 70, "c85730157b9e462db026ec296c5a260b", "the TPM answered a command with an error"),
    Code.AUTH_FAILED: Fault(errno.EACCES, TpmResult.FAIL, 77, "840b95a912cc4d219213424b12a9d63b", "the TPM does not take the password"),
    Code.ALREADY_PROVISIONED: Fault(errno.EEXIST, TpmResult.FAIL, 73, "834b9832c61445b99e41c0996405cb75", "the TPM has already what was to be made"),
    Code.INSTALLATION: Fault(errno.ENOENT, TpmResult.FAIL, 69, "2209ec4cfd3543d199547210f573b67f", "a part of the program is missing"),
    Code.INTERNAL: Fault(errno.EIO, TpmResult.FAIL, 70, "e0b3e538b709431789f29898b82e953c", "a fault of this program"),
}
# fmt: on


#: In a remedy: the instance, and where tpm2-tools find its TPM (without -T they go to the host's own). The code that
#: reports an error knows both (VtpmError.of); the code that raises it often does not.
NAME, TCTI = "<NAME>", "<TCTI>"


class VtpmError(Exception):
    """Something a person or a client must be told.

    `message` is one line of cause, `remedy` one line that says what to do about it: root is going to type it as it is. So it
    names what is really there, takes nothing away that cannot be had again, and gives nobody more rights than he is to
    have.
    """

    def __init__(self, code: Code, message: str, *, remedy: Optional[str] = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    @property
    def fault(self) -> Fault:
        return TABLE[self.code]

    @property
    def errno(self) -> int:
        return TABLE[self.code].errno

    def __str__(self) -> str:
        return self.message

    def of(self, name: str, tcti: str = "TCTI") -> "VtpmError":
        """The same, about this instance, or what else the TPM was named by."""
        for placeholder, known in ((NAME, name), (TCTI, tcti)):
            if self.remedy is not None and placeholder in self.remedy:
                self.remedy = self.remedy.replace(placeholder, quote(known))
        return self

    def report(self, prefix: str) -> str:
        """The two lines a person sees: `prefix: cause`, and the remedy below it."""
        text = f"{prefix}: {self.message}"
        return f"{text}\n  remedy: {self.remedy}" if self.remedy else text


#: What no shell gives a meaning to.
_UNQUOTED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./_-")


def quote(word: str) -> str:
    """A path or name in a command of a remedy, as a shell takes it: it is going to be typed or pasted."""
    # not with shlex: a process whose user cannot read an interpreter in /root can import nothing any more, but has to
    # say this
    return word if word and _UNQUOTED.issuperset(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def selinux_remedy(error: BaseException, enforce_path: str = "/sys/fs/selinux/enforce") -> Optional[str]:
    """What to try when the kernel said EACCES, here or below, on a machine where SELinux can be the reason."""
    cause: Optional[BaseException] = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.EACCES:
            break
        cause = cause.__cause__ or cause.__context__
    else:
        return None
    try:
        with open(enforce_path, "rb") as file:
            enforcing = file.read(1) == b"1"
    except PermissionError:
        enforcing = True  # everybody may read this file, so it is SELinux itself that refuses
    except OSError:
        return None
    return "permission denied by SELinux? try: ausearch -m avc -ts recent -c vtpmd" if enforcing else None


def internal(doing: str, error: BaseException) -> VtpmError:
    """A fault of this program as an error: what it was doing, and in which line, for a bug report."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename.rpartition('swtpm_svc/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return VtpmError(Code.INTERNAL, f"{doing}: {error!r}{place}", remedy="report this line as a bug")
