"""The profile of a TPM 2.0, which says what it can do. It is given to a TPM that is made, and stays that one's.

It is said as the name of one of libtpms' own, as one JSON object (TPMLIB_SetProfile(3)), or as the absolute path of a
file that has one.
"""

import json
import os
import stat

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.libtpms import LibtpmsError

#: No profile comes near this many bytes.
PROFILE_MAX = 64 * 1024


def set_profile(profile: str) -> None:
    """What `main_init` makes next has this profile.

    Raises:
        VtpmError TPM_REFUSED: libtpms does not know it, or has none; STATE_UNREADABLE, CONFIG_INVALID: of a file.
    """
    text = _text(profile)
    if not libtpms.has_profiles():
        cause = f"libtpms {libtpms.version()} has no profiles"
        raise VtpmError(Code.TPM_REFUSED, cause, remedy="install libtpms 0.10 or later, or leave the profile out")
    try:
        libtpms.set_profile(text)
    except LibtpmsError as error:
        cause = (
            f"libtpms {libtpms.version()} does not accept the profile {_named(profile)} (TPM result {error.result:#x})"
        )
        raise VtpmError(
            Code.TPM_REFUSED,
            cause,
            remedy="give one that it has: vtpmctl info --flags profiles lists them, of any TPM 2.0 that is served",
        ) from error


def _read(path: str) -> str:
    remedy = (
        'name a file with one JSON object, such as {"Name": "default-v1"}, or one of libtpms\' profiles by its name'
    )
    try:
        # O_NONBLOCK: a FIFO in the way is an error, and root's helper does not wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            content = file.read(PROFILE_MAX + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError as error:
        raise VtpmError(
            Code.STATE_UNREADABLE, f"the profile {path} cannot be read: {error.strerror}", remedy=remedy
        ) from error
    try:
        is_object = len(content) <= PROFILE_MAX and b"\0" not in content and isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise VtpmError(Code.CONFIG_INVALID, f"the profile {path} is not a JSON object", remedy=remedy)
    return content.decode()


def _text(profile: str) -> str:
    if profile.startswith("{"):
        return profile
    return _read(profile) if profile.startswith("/") else json.dumps({"Name": profile})


def _named(profile: str) -> str:
    return "that is given as JSON" if profile.startswith("{") else profile
