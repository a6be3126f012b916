"""Handles, capabilities and properties of a TPM 2.0: those that this program uses. Others stay plain numbers.

Source: TPM 2.0 Library Part 2, revision 1.59; section numbers are this part's. Quick to import.
"""

from swtpm_svc.wire.enumerations import IntEnum, unique


@unique
class Rh(IntEnum):
    """TPM_RH (7.4): the permanent handles that this program uses; TPM_RS_PW, the password session, is one."""

    OWNER = 0x40000001
    NULL = 0x40000007
    PW = 0x40000009
    LOCKOUT = 0x4000000A
    ENDORSEMENT = 0x4000000B
    PLATFORM = 0x4000000C


@unique
class Ht(IntEnum):
    """TPM_HT (7.2): the first byte of a handle. In lists of handles, POLICY_SESSION stands for sessions that are saved,
    and HMAC_SESSION for those that are loaded, of either kind."""

    HMAC_SESSION = 0x02
    POLICY_SESSION = 0x03
    TRANSIENT = 0x80
    PERSISTENT = 0x81


@unique
class Hc(IntEnum):
    """TPM_HC (7.5): persistent objects, those in the owner's name before those in the platform's."""

    PERSISTENT_FIRST = 0x81000000
    PLATFORM_PERSISTENT = 0x81800000


@unique
class Cap(IntEnum):
    """TPM_CAP (6.12): what this program asks for."""

    HANDLES = 1
    COMMANDS = 2
    PCRS = 5
    TPM_PROPERTIES = 6


@unique
class Pt(IntEnum):
    """TPM_PT (6.13): the properties that this program asks for."""

    ACTIVE_SESSIONS_MAX = 0x111
    CONTEXT_GAP_MAX = 0x114
    NV_BUFFER_MAX = 0x12C
    PERMANENT = 0x200
