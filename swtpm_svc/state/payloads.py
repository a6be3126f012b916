"""What is in a state blob that someone else may have written: the payload, or the error that a person can act on."""

from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.wire.hints import Callable, Optional, Union

UNTOUCHED = "nothing was changed"
_KEY_REMEDY = (
    f"configure the key that it was encrypted with ([state]); to go over to another: vtpmctl rekey {NAME}; {UNTOUCHED}"
)
#: One where a directory should be, or a state file.
LINEAR_REMEDY = f"name it in [state] file, and no directory beside it (vtpm.d(5)); {UNTOUCHED}"


def unwrap(
    data: bytes,
    version: str,
    key: Optional[StateKey],
    what: str,
    *,
    remedy: Union[str, Callable[[], str]],
    may_be_clear: bool = False,
) -> bytes:
    """The payload of a blob, `what` being its name in an error, `remedy` what to do if it is damaged.

    `may_be_clear`: under a key too, as what a TPM takes from another one (swtpm does so).

    Raises:
        VtpmError: STATE_CORRUPT, STATE_FOREIGN, STATE_KEY
    """
    try:
        decoded = blob.decode(data)
        payload = blob.payload(decoded, Keys(state=key))
    except (blob.EncryptedBlob, blob.WrongKey) as error:
        raise VtpmError(Code.STATE_KEY, f"{what}: {error}", remedy=_KEY_REMEDY) from None
    except blob.LinearFile as error:
        raise VtpmError(Code.STATE_FOREIGN, f"{what}: {error}", remedy=LINEAR_REMEDY) from None
    except blob.NewerBlob as error:
        raise VtpmError(
            Code.STATE_FOREIGN, f"{what}: {error}", remedy=f"serve it with the program that wrote it; {UNTOUCHED}"
        ) from None
    except blob.BlobError as error:
        words = remedy if isinstance(remedy, str) else remedy()
        raise VtpmError(Code.STATE_CORRUPT, f"{what} is damaged: {error}", remedy=words) from None
    found = blob.payload_version(payload)
    if found not in (None, version):
        raise VtpmError(
            Code.STATE_FOREIGN,
            f"{what} is the state of a TPM {found}, not of a TPM {version}",
            remedy=f'set version = "{found}" in [tpm]; {UNTOUCHED}',
        )
    if key is not None and not blob.is_encrypted(decoded) and not may_be_clear:
        raise VtpmError(
            Code.STATE_KEY,
            f"{what} is not encrypted, but a key is configured",
            remedy=f"encrypt it with that key: vtpmctl rekey {NAME}; {UNTOUCHED}",
        )
    return payload
