"""Where a TPM's state is kept, as `Store` sees it: whole blobs by libtpms' names, whatever is below them.

There are two: a directory with a file for each (state_directory.py), and all in one file or block device
(state_file.py). A back end knows what is durable and who has the lock; it does not know what is in a blob.
"""

from swtpm_svc.wire.hints import Callable, Optional, Protocol

PERMALL = "permall"
VOLATILESTATE = "volatilestate"
SAVESTATE = "savestate"
NAMES = (PERMALL, VOLATILESTATE, SAVESTATE)

#: Is that a blob that the TPM could go on with?
IsGood = Callable[[bytes], bool]


class Backend(Protocol):
    """Owns its descriptors and the lock. Failures are VtpmErrors, with STATE_ codes."""

    @property
    def path(self) -> str:
        """What a person knows it by."""

    def close(self) -> None:
        """Give everything up, the lock too."""

    #: What was done that a person should hear of.
    remarks: "list[str]"

    @property
    def is_locked(self) -> bool: ...

    def lock(self) -> None:
        """Take the lock, if it is not taken yet, and bring to its end what a crash has left. Does not wait.

        Raises: VtpmError STATE_LOCKED, STATE_UNWRITABLE.
        """

    def unlock(self) -> None:
        """Let others have the state: it may still be read, but as of any moment."""

    def check(self, is_good: IsGood) -> bool:
        """Is there a permanent state? Raises: VtpmError: it is gone, and must not be made anew; or it cannot be
        written to."""

    def go_back(self, is_good: IsGood) -> bool:
        """The permanent state is no good: have the one before it in its place, where that is wanted and it is good."""

    def tidy(self) -> None:
        """Remove what a crash has left; what there is was found to be good."""

    def generation(self) -> str:
        """As Store.generation."""

    def size(self, name: str) -> Optional[int]:
        """In bytes; None when there is none."""

    def read(self, name: str) -> Optional[bytes]:
        """None when there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Durable on return; after a failure the old content is there still."""

    def remove(self, name: str) -> bool:
        """Durably. False when there was none."""

    def probe(self) -> None:
        """As Store.probe, but for reading."""

    def path_of(self, name: str) -> str:
        """What an error calls it."""

    def remedy(self, name: str, is_good: IsGood) -> str:
        """What to do about a damaged one."""

    def read_identity(self) -> Optional[bytes]: ...

    def write_identity(self, data: bytes) -> None: ...

    def remove_identity(self) -> None: ...
