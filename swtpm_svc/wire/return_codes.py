"""TPM return codes in words.

Sources: TPM Main Part 2 level 2 revision 116, "Return codes"; TPM 2.0 Library Part 2 revision 1.59, "TPM_RC", and the
codes that revisions 1.83 and 1.84 add. Bits above the lowest 16 name a layer of the TSS, where the code did not come
from the TPM itself (TCG TSS 2.0 Overview and Common Structures).

The control protocol's `tpm_result` is a 1.2 code for both versions of the TPM.
"""

from swtpm_svc.wire.hints import Optional

# fmt: off
CODES_12: dict[int, tuple[str, str]] = {
    0x01: ("AUTHFAIL", "authentication failed"),
    0x02: ("BADINDEX", "no such PCR, DIR or other register"),
    0x03: ("BAD_PARAMETER", "a parameter is wrong"),
    0x04: ("AUDITFAILURE", "the command succeeded, its audit did not"),
    0x05: ("CLEAR_DISABLED", "clearing is disabled and now needs physical access"),
    0x06: ("DEACTIVATED", "the TPM is deactivated"),
    0x07: ("DISABLED", "the TPM is disabled"),
    0x08: ("DISABLED_CMD", "this command is disabled"),
    0x09: ("FAIL", "the operation failed"),
    0x0A: ("BAD_ORDINAL", "the command is unknown, or not possible now"),
    0x0B: ("INSTALL_DISABLED", "installing an owner is disabled"),
    0x0C: ("INVALID_KEYHANDLE", "no such key handle"),
    0x0D: ("KEYNOTFOUND", "the key was not found"),
    0x0E: ("INAPPROPRIATE_ENC", "the encryption scheme is not acceptable"),
    0x0F: ("MIGRATEFAIL", "migration authorization failed"),
    0x10: ("INVALID_PCR_INFO", "the PCR information cannot be understood"),
    0x11: ("NOSPACE", "no room for it"),
    0x12: ("NOSRK", "there is no storage root key"),
    0x13: ("NOTSEALED_BLOB", "the sealed data is invalid, or was not made by this TPM"),
    0x14: ("OWNER_SET", "the TPM has an owner already"),
    0x15: ("RESOURCES", "the TPM lacks the resources for this"),
    0x16: ("SHORTRANDOM", "a random string is too short"),
    0x17: ("SIZE", "the TPM lacks the space for this"),
    0x18: ("WRONGPCRVAL", "a PCR does not have the value that is required"),
    0x19: ("BAD_PARAM_SIZE", "the command's size does not fit its parameters"),
    0x1A: ("SHA_THREAD", "no SHA-1 calculation is going on"),
    0x1B: ("SHA_ERROR", "the SHA-1 calculation met an error and cannot go on"),
    0x1C: ("FAILEDSELFTEST", "the self-test failed and the TPM has shut down"),
    0x1D: ("AUTH2FAIL", "authentication of the second key failed"),
    0x1E: ("BADTAG", "the tag is wrong for this command"),
    0x1F: ("IOERROR", "input or output failed"),
    0x20: ("ENCRYPT_ERROR", "encryption failed"),
    0x21: ("DECRYPT_ERROR", "decryption failed"),
    0x22: ("INVALID_AUTHHANDLE", "no such authorization handle"),
    0x23: ("NO_ENDORSEMENT", "there is no endorsement key"),
    0x24: ("INVALID_KEYUSAGE", "the key may not be used for this"),
    0x25: ("WRONG_ENTITYTYPE", "this entity type is not allowed"),
    0x26: ("INVALID_POSTINIT", "the TPM was not started, or the command comes in the wrong order after start-up"),
    0x27: ("INAPPROPRIATE_SIG", "signed data may not hold more DER"),
    0x28: ("BAD_KEY_PROPERTY", "the key's parameters are not supported"),
    0x29: ("BAD_MIGRATION", "the key's migration properties are wrong"),
    0x2A: ("BAD_SCHEME", "the key's signature or encryption scheme is wrong here"),
    0x2B: ("BAD_DATASIZE", "the data has the wrong size for this key"),
    0x2C: ("BAD_MODE", "a mode parameter is wrong"),
    0x2D: ("BAD_PRESENCE", "the physical presence value is wrong"),
    0x2E: ("BAD_VERSION", "the TPM cannot do this version of the capability"),
    0x2F: ("NO_WRAP_TRANSPORT", "wrapped transport sessions are not allowed"),
    0x30: ("AUDITFAIL_UNSUCCESSFUL", "the audit failed, and so did the command"),
    0x31: ("AUDITFAIL_SUCCESSFUL", "the audit failed, the command succeeded"),
    0x32: ("NOTRESETABLE", "this PCR cannot be reset"),
    0x33: ("NOTLOCAL", "resetting this PCR needs another locality"),
    0x34: ("BAD_TYPE", "the identity blob has the wrong type"),
    0x35: ("INVALID_RESOURCE", "the resource does not have the type that the context says"),
    0x36: ("NOTFIPS", "possible only outside FIPS mode"),
    0x37: ("INVALID_FAMILY", "no such delegation family"),
    0x38: ("NO_NV_PERMISSION", "the NV storage may not be changed"),
    0x39: ("REQUIRES_SIGN", "the command must be signed"),
    0x3A: ("KEY_NOTSUPPORTED", "this is not the way to load an NV key"),
    0x3B: ("AUTH_CONFLICT", "both owner and blob authorization are needed"),
    0x3C: ("AREA_LOCKED", "the NV area is locked"),
    0x3D: ("BAD_LOCALITY", "not allowed from this locality, or no such locality"),
    0x3E: ("READ_ONLY", "the NV area is read-only"),
    0x3F: ("PER_NOWRITE", "the NV area is not protected against writing"),
    0x40: ("FAMILYCOUNT", "the family count does not match"),
    0x41: ("WRITE_LOCKED", "the NV area was written already"),
    0x42: ("BAD_ATTRIBUTES", "the NV area's attributes contradict each other"),
    0x43: ("INVALID_STRUCTURE", "a structure's tag or version is wrong"),
    0x44: ("KEY_OWNER_CONTROL", "the key is under the owner's control, and only the owner may evict it"),
    0x45: ("BAD_COUNTER", "no such counter handle"),
    0x46: ("NOT_FULLWRITE", "the area must be written whole"),
    0x47: ("CONTEXT_GAP", "the saved contexts are too far apart"),
    0x48: ("MAXNVWRITES", "too many NV writes without an owner"),
    0x49: ("NOOPERATOR", "no operator authorization is set"),
    0x4A: ("RESOURCEMISSING", "the context's resource is not loaded"),
    0x4B: ("DELEGATE_LOCK", "delegation administration is locked"),
    0x4C: ("DELEGATE_FAMILY", "this is not the delegated family"),
    0x4D: ("DELEGATE_ADMIN", "delegation table management is not enabled"),
    0x4E: ("TRANSPORT_NOTEXCLUSIVE", "a command ran outside the exclusive transport session"),
    0x4F: ("OWNER_CONTROL", "a key that the owner controls cannot be saved as a context"),
    0x50: ("DAA_RESOURCES", "the TPM lacks the resources for this DAA command"),
    0x51: ("DAA_INPUT_DATA0", "DAA parameter inputData0 is inconsistent"),
    0x52: ("DAA_INPUT_DATA1", "DAA parameter inputData1 is inconsistent"),
    0x53: ("DAA_ISSUER_SETTINGS", "the DAA issuer settings are inconsistent"),
    0x54: ("DAA_TPM_SETTINGS", "the DAA TPM settings are inconsistent"),
    0x55: ("DAA_STAGE", "this is not the DAA stage that comes next"),
    0x56: ("DAA_ISSUER_VALIDITY", "the DAA issuer's validity check failed"),
    0x57: ("DAA_WRONG_W", "the DAA check on w failed"),
    0x58: ("BAD_HANDLE", "no such handle"),
    0x59: ("BAD_DELEGATE", "the delegation is wrong"),
    0x5A: ("BADCONTEXT", "the context blob is invalid"),
    0x5B: ("TOOMANYCONTEXTS", "too many contexts"),
    0x5C: ("MA_TICKET_SIGNATURE", "the migration authority's signature is invalid"),
    0x5D: ("MA_DESTINATION", "the migration destination is not authenticated"),
    0x5E: ("MA_SOURCE", "the migration source is wrong"),
    0x5F: ("MA_AUTHORITY", "the migration authority is wrong"),
    0x61: ("PERMANENTEK", "the endorsement key cannot be revoked"),
    0x62: ("BAD_SIGNATURE", "the CMK ticket's signature is wrong"),
    0x63: ("NOCONTEXTSPACE", "no room in the context list"),
    0x800: ("RETRY", "the TPM is busy, ask again"),
    0x801: ("NEEDS_SELFTEST", "a self-test must run first"),
    0x802: ("DOING_SELFTEST", "a self-test is running"),
    0x803: ("DEFEND_LOCK_RUNNING", "the TPM defends itself against a dictionary attack and is locked for a time"),
}

#: Format 0: bits 0-6 of the code.
ERRORS_20: dict[int, tuple[str, str]] = {
    0x00: ("INITIALIZE", "the TPM was not started with TPM2_Startup, or was started already"),
    0x01: ("FAILURE", "the TPM is in failure mode and takes no commands"),
    0x03: ("SEQUENCE", "a sequence handle is used wrongly"),
    0x0B: ("PRIVATE", "reserved"),
    0x19: ("HMAC", "reserved"),
    0x20: ("DISABLED", "the command is disabled"),
    0x21: ("EXCLUSIVE", "the audit sequence requires exclusivity"),
    0x24: ("AUTH_TYPE", "the authorization handle is wrong for this command"),
    0x25: ("AUTH_MISSING", "a handle needs an authorization session, and there is none"),
    0x26: ("POLICY", "the policy failed, or an authPolicy is invalid"),
    0x27: ("PCR", "the PCR check failed"),
    0x28: ("PCR_CHANGED", "the PCRs have changed since they were checked"),
    0x2D: ("UPGRADE", "a firmware upgrade is going on, or is needed for this command"),
    0x2E: ("TOO_MANY_CONTEXTS", "the context counter is at its maximum"),
    0x2F: ("AUTH_UNAVAILABLE", "the entity's authValue or authPolicy is not available"),
    0x30: ("REBOOT", "the TPM must be reset and started (CLEAR) before it can go on"),
    0x31: ("UNBALANCED", "hash and symmetric algorithm are of too different strength"),
    0x42: ("COMMAND_SIZE", "the command's size does not fit its contents"),
    0x43: ("COMMAND_CODE", "the command is not supported"),
    0x44: ("AUTHSIZE", "the authorization area has the wrong size"),
    0x45: ("AUTH_CONTEXT", "this command takes no authorization session"),
    0x46: ("NV_RANGE", "offset and size are outside the NV index"),
    0x47: ("NV_SIZE", "the NV index would be too large"),
    0x48: ("NV_LOCKED", "the NV index is locked"),
    0x49: ("NV_AUTHORIZATION", "the authorization is not valid for this NV index"),
    0x4A: ("NV_UNINITIALIZED", "the NV index was never written, or the saved state could not be restored"),
    0x4B: ("NV_SPACE", "no room in NV storage"),
    0x4C: ("NV_DEFINED", "the NV index or persistent object exists already"),
    0x50: ("BAD_CONTEXT", "the context is invalid"),
    0x51: ("CPHASH", "cpHash is set already, or wrong for this use"),
    0x52: ("PARENT", "the parent's handle is not that of a parent"),
    0x53: ("NEEDS_TEST", "a function must be tested first"),
    0x54: ("NO_RESULT", "the TPM could not work the request out, most often because of an odd parameter"),
    0x55: ("SENSITIVE", "the sensitive area is not well-formed after decryption"),
    0x56: ("READ_ONLY", "the TPM is in read-only mode"),
}

#: Format 0 with the warning bit: bits 0-6 of the code.
WARNINGS_20: dict[int, tuple[str, str]] = {
    0x01: ("CONTEXT_GAP", "the saved contexts are too far apart"),
    0x02: ("OBJECT_MEMORY", "no room for another loaded object: flush one"),
    0x03: ("SESSION_MEMORY", "no room for another loaded session: flush or save one"),
    0x04: ("MEMORY", "no room for objects, sessions or the work itself"),
    0x05: ("SESSION_HANDLES", "no session handle is left: flush a session"),
    0x06: ("OBJECT_HANDLES", "no object handle is left: a restart is needed"),
    0x07: ("LOCALITY", "not allowed from this locality"),
    0x08: ("YIELDED", "the command was suspended and may be sent again"),
    0x09: ("CANCELED", "the command was cancelled"),
    0x0A: ("TESTING", "a self-test is running"),
    **{0x10 + n: (f"REFERENCE_H{n}", f"handle {n + 1} refers to an object or session that is not loaded") for n in range(7)},
    **{0x18 + n: (f"REFERENCE_S{n}", f"session handle {n + 1} refers to a session that is not loaded") for n in range(7)},
    0x20: ("NV_RATE", "NV storage is written too often: the TPM slows it down"),
    0x21: ("LOCKOUT", "the TPM is in dictionary-attack lockout"),
    0x22: ("RETRY", "the TPM could not start the command, send it again"),
    0x23: ("NV_UNAVAILABLE", "NV storage cannot be written now"),
    0x7F: ("NOT_USED", "reserved"),
}

#: Format 1: bits 0-5 of the code. The other bits say which handle, session or parameter it is about.
FORMAT_1: dict[int, tuple[str, str]] = {
    0x01: ("ASYMMETRIC", "the asymmetric algorithm is not supported or not right"),
    0x02: ("ATTRIBUTES", "the attributes contradict each other"),
    0x03: ("HASH", "the hash algorithm is not supported or not right"),
    0x04: ("VALUE", "the value is out of range or wrong in this context"),
    0x05: ("HIERARCHY", "the hierarchy is not enabled, or wrong for this use"),
    0x07: ("KEY_SIZE", "the key size is not supported"),
    0x08: ("MGF", "the mask generation function is not supported"),
    0x09: ("MODE", "the mode of operation is not supported"),
    0x0A: ("TYPE", "the type is wrong for this use"),
    0x0B: ("HANDLE", "the handle is wrong for this use"),
    0x0C: ("KDF", "the key derivation function is not supported or not right"),
    0x0D: ("RANGE", "the value is outside the allowed range"),
    0x0E: ("AUTH_FAIL", "the authorization failed, and the dictionary-attack counter went up"),
    0x0F: ("NONCE", "the nonce has the wrong size or value"),
    0x10: ("PP", "physical presence is needed"),
    0x12: ("SCHEME", "the scheme is not supported or not compatible"),
    0x15: ("SIZE", "the structure has the wrong size"),
    0x16: ("SYMMETRIC", "the symmetric algorithm or key size is not supported or not right"),
    0x17: ("TAG", "the structure's tag is wrong"),
    0x18: ("SELECTOR", "the union's selector is wrong"),
    0x1A: ("INSUFFICIENT", "the command ends before the value does"),
    0x1B: ("SIGNATURE", "the signature is not valid"),
    0x1C: ("KEY", "the key is not compatible with this use"),
    0x1D: ("POLICY_FAIL", "the policy check failed"),
    0x1F: ("INTEGRITY", "the integrity check failed"),
    0x20: ("TICKET", "the ticket is invalid"),
    0x21: ("RESERVED_BITS", "reserved bits are not zero"),
    0x22: ("BAD_AUTH", "the authorization failed (not counted as a dictionary attack)"),
    0x23: ("EXPIRED", "the policy has expired"),
    0x24: ("POLICY_CC", "the policy is for another command, or for one that does not exist"),
    0x25: ("BINDING", "the object's public and sensitive parts do not belong together"),
    0x26: ("CURVE", "the curve is not supported"),
    0x27: ("ECC_POINT", "the point is not on the curve"),
    0x28: ("FW_LIMITED", "the hierarchy is bound to the firmware, whose secret is not available"),
    0x29: ("SVN_LIMITED", "the hierarchy is bound to a firmware security version, whose secret is not available"),
}

LAYERS = {6: "FAPI", 7: "ESAPI", 8: "SAPI", 9: "MU", 10: "TCTI", 11: "resource manager", 12: "resource manager, from the TPM"}

#: What the layers above the TPM say themselves (TCG TSS 2.0 Overview and Common Structures, TSS2_BASE_RC), tpm2-tss's own
#: from 28 on.
TSS_ERRORS: dict[int, str] = {
    1: "an error for which there is no other code", 2: "this is not implemented", 3: "a context is bad",
    4: "the ABI's version does not match", 5: "a pointer is NULL that may not be", 6: "a buffer is too small",
    7: "functions were called in the wrong order", 8: "the layer below cannot be reached", 9: "not yet: call it again",
    10: "input or output failed", 11: "a parameter has a bad value", 12: "this is not permitted",
    13: "the command does not take these sessions, or not so many", 14: "the command's parameter cannot be decrypted",
    15: "the response's parameter cannot be encrypted", 16: "a parameter has a bad size", 17: "the response is malformed",
    18: "the context is too small", 19: "the response is too short", 20: "the TCTI is unknown or cannot be used",
    21: "this is not supported", 22: "the TCTI's context is bad", 23: "there is no memory", 24: "an ESYS_TR is bad",
    25: "more than one session is to decrypt", 26: "more than one session is to encrypt",
    27: "the response's authorization is wrong", 28: "there is no configuration", 29: "the path is bad",
    30: "the object cannot be deleted", 31: "the path exists already", 32: "the key was not found",
    33: "the signature is wrong", 34: "the hashes differ", 35: "the key cannot be duplicated", 36: "the path was not found",
    37: "there is no certificate", 38: "there is no PCR", 39: "the PCR cannot be reset", 40: "the template is bad",
    41: "the authorization failed", 42: "the authorization is unknown", 43: "the NV index cannot be read",
    44: "the NV index is too small", 45: "the NV index cannot be written", 46: "the policy is unknown",
    47: "the NV index is of the wrong type", 48: "the name exists already", 49: "there is no TPM", 50: "the key is bad",
    51: "there is no handle", 52: "nothing was provisioned yet", 53: "all was provisioned already",
}
# fmt: on

SUCCESS = "success"

_FORMAT_1 = 0x080
_VERSION_2 = 0x100
_VENDOR = 0x400
_WARNING = 0x800
_RESERVED_20 = 0xF000


def describe(version: str, rc: int) -> str:
    """Return code `rc` of a TPM of `version` ("1.2" or "2.0") in one line: its name, what it means, what it is
    about."""
    if rc == 0:
        return SUCCESS
    if version == "1.2":
        return _describe_12(rc)
    layer = rc >> 16
    if not layer:
        return _describe_20(rc)
    text, code = f"layer {layer} of the TSS ({LAYERS.get(layer, 'unknown')}): ", rc & 0xFFFF
    # a resource manager passes on what the TPM says, and says in the TPM's words what it has no room for; tpm2-tss and
    # tpm2-abrmd do not agree on which of the two layers is for what
    if layer == 12 or (layer == 11 and code & (_VERSION_2 | _FORMAT_1)):
        return text + _describe_20(code)
    known = f" ({TSS_ERRORS[code]})" if layer in LAYERS and code in TSS_ERRORS else ""
    return f"{text}error 0x{code:04x}{known}"


def is_unknown(version: str, rc: int) -> bool:
    """Is there no name and no meaning for it?"""
    return "unknown" in describe(version, rc) or "vendor" in describe(version, rc)


def _describe_12(rc: int) -> str:
    found = CODES_12.get(rc)
    if found is not None:
        return f"TPM_{found[0]}: {found[1]}"
    return f"{'vendor' if rc & _VENDOR else 'unknown'} TPM 1.2 return code 0x{rc:x}"


def _describe_20(rc: int) -> str:
    if rc & _RESERVED_20:
        return f"unknown TPM 2.0 return code 0x{rc:x}"
    if rc & _FORMAT_1:
        return _describe_format_1(rc)
    if rc & _VENDOR:
        return f"vendor TPM 2.0 return code 0x{rc:x}"
    if not rc & _VERSION_2:
        return _describe_12(rc) if rc else SUCCESS
    found = (WARNINGS_20 if rc & _WARNING else ERRORS_20).get(rc & 0x27F)
    if found is None:
        return f"unknown TPM 2.0 return code 0x{rc:x}"
    return f"TPM_RC_{found[0]}: {found[1]}{' (warning)' if rc & _WARNING else ''}"


def _describe_format_1(rc: int) -> str:
    found = FORMAT_1.get(rc & 0x3F)
    text = f"TPM_RC_{found[0]}: {found[1]}" if found else f"unknown TPM 2.0 return code 0x{rc:x}"
    about = subject(rc)
    return f"{text} ({about[0]} {about[1]})" if about else text


def subject(rc: int) -> "Optional[tuple[str, int]]":
    """What a return code of a TPM 2.0 is about, counted from 1: ("parameter", 2); None: it does not say."""
    if rc & _RESERVED_20 or rc >> 16 or not rc & _FORMAT_1:
        return None
    if rc & 0x040:
        kind, number = "parameter", rc >> 8 & 0xF
    else:
        kind, number = "session" if rc & 0x800 else "handle", rc >> 8 & 0x7
    return (kind, number) if number else None
