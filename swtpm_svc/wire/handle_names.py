"""Handles and NV indices in words, for both versions of the TPM.

Sources: TPM 2.0 Library Part 2 revision 1.59, sections 7.2 (TPM_HT), 7.4 (TPM_RH) and 7.5 (TPM_HC); TCG Registry of
Reserved TPM 2.0 Handles and Localities; TCG EK Credential Profile for TPM Family 2.0, version 2.3 (the indices of keys'
certificates and templates). TPM Main Part 2 level 2 revision 116, sections 4.4.1 (reserved key handles) and 19.1 (NV
storage indices).
"""

#: TPM_RH.
PERMANENT_20 = {
    0x40000000: ("TPM_RH_SRK", "not used"),
    0x40000001: ("TPM_RH_OWNER", "the owner's hierarchy"),
    0x40000002: ("TPM_RH_REVOKE", "not used"),
    0x40000003: ("TPM_RH_TRANSPORT", "not used"),
    0x40000004: ("TPM_RH_OPERATOR", "not used"),
    0x40000005: ("TPM_RH_ADMIN", "not used"),
    0x40000006: ("TPM_RH_EK", "not used"),
    0x40000007: ("TPM_RH_NULL", "the null hierarchy, or nothing"),
    0x40000008: ("TPM_RH_UNASSIGNED", "no value yet"),
    0x40000009: ("TPM_RS_PW", "a password in place of a session"),
    0x4000000A: ("TPM_RH_LOCKOUT", "lockout, against dictionary attacks"),
    0x4000000B: ("TPM_RH_ENDORSEMENT", "the endorsement hierarchy"),
    0x4000000C: ("TPM_RH_PLATFORM", "the platform's hierarchy"),
    0x4000000D: ("TPM_RH_PLATFORM_NV", "the platform's NV storage"),
}

#: From the first to the last of each range; of two that fit, the first in this list is said.
_RANGES_20 = (
    (0x00000000, 0x00000017, "PCR {offset}"),
    (0x01C00002, 0x01C00002, "NV index: certificate of the endorsement key, RSA 2048"),
    (0x01C00003, 0x01C00003, "NV index: nonce of the endorsement key's template, RSA 2048"),
    (0x01C00004, 0x01C00004, "NV index: template of the endorsement key, RSA 2048"),
    (0x01C0000A, 0x01C0000A, "NV index: certificate of the endorsement key, NIST P-256"),
    (0x01C0000B, 0x01C0000B, "NV index: nonce of the endorsement key's template, NIST P-256"),
    (0x01C0000C, 0x01C0000C, "NV index: template of the endorsement key, NIST P-256"),
    *(
        range_
        for number, key in (
            (0x01C00012, "RSA 2048, high range"),
            (0x01C00014, "NIST P-256, high range"),
            (0x01C00016, "NIST P-384"),
            (0x01C00018, "NIST P-521"),
            (0x01C0001A, "SM2"),
            (0x01C0001C, "RSA 3072"),
            (0x01C0001E, "RSA 4096"),
        )
        for range_ in (
            (number, number, f"NV index: certificate of the endorsement key, {key}"),
            (number + 1, number + 1, f"NV index: template of the endorsement key, {key}"),
        )
    ),
    (0x01C00100, 0x01C001FF, "NV index: certificates between an endorsement key's and the root's"),
    (0x01C00000, 0x01C07FFF, "NV index of the TCG, for endorsement keys and their certificates"),
    (0x01C08000, 0x01C08000, "NV index: certificate of the platform"),
    (0x01C08001, 0x01C0FFFF, "NV index of the TCG, for platform certificates"),
    (0x01C10000, 0x01C1FFFF, "NV index for makers of components"),
    (0x01C20000, 0x01C2FFFF, "NV index for makers of TPMs"),
    (0x01C30000, 0x01C3FFFF, "NV index for makers of platforms"),
    (0x01C90000, 0x01C9FFFF, "NV index of the TCG, for certificates of IDevID and IAK"),
    (0x01C00000, 0x01CFFFFF, "NV index that the TCG gives out"),
    (0x01000000, 0x013FFFFF, "NV index for the TPM's maker"),
    (0x01400000, 0x017FFFFF, "NV index for the platform's maker"),
    (0x01800000, 0x01BFFFFF, "NV index for the owner"),
    (0x01000000, 0x01FFFFFF, "NV index in a range that nobody gives out"),
    (0x02000000, 0x02FFFFFF, "session for HMACs, or loaded session, number {offset}"),
    (0x03000000, 0x03FFFFFF, "session for a policy, or saved session, number {offset}"),
    (0x40000010, 0x4000010F, "authorization of the vendor, number {offset}"),
    (0x40000110, 0x4000011F, "authenticated countdown timer {offset}"),
    (0x40000000, 0x40FFFFFF, "permanent handle that is not known"),
    (0x80000000, 0x80FFFFFF, "loaded object (transient), number {offset}"),
    (0x81000001, 0x81000001, "persistent object: where the storage root key is by custom"),
    (0x81010001, 0x81010001, "persistent object: where the endorsement key RSA 2048 is by custom"),
    (0x81010002, 0x81010002, "persistent object: where the endorsement key NIST P-256 is by custom"),
    (0x81000000, 0x8100FFFF, "persistent object, in the range of the owner's storage keys"),
    (0x81010000, 0x8101FFFF, "persistent object, in the range of endorsement keys"),
    (0x81000000, 0x817FFFFF, "persistent object of the owner"),
    (0x81800000, 0x81FFFFFF, "persistent object of the platform"),
    (0x90000000, 0x90FFFFFF, "attached component"),
)

#: TPM_KH.
PERMANENT_12 = {
    0x40000000: ("TPM_KH_SRK", "the storage root key"),
    0x40000001: ("TPM_KH_OWNER", "the owner"),
    0x40000002: ("TPM_KH_REVOKE", "the revocation of trust"),
    0x40000003: ("TPM_KH_TRANSPORT", "a transport session"),
    0x40000004: ("TPM_KH_OPERATOR", "the operator"),
    0x40000005: ("TPM_KH_ADMIN", "the delegation's administrator"),
    0x40000006: ("TPM_KH_EK", "the endorsement key"),
}

#: The bit D, which says that the TPM's or platform's maker has defined an index, is not in these.
_NV_DEFINED = 0x10000000
_NV_12 = {
    0x00000000: ("TPM_NV_INDEX0", "writing it locks what bGlobalLock says"),
    0x00000001: ("TPM_NV_INDEX_DIR", "the data integrity register"),
    0x0000F000: ("TPM_NV_INDEX_EKCert", "certificate of the endorsement key"),
    0x0000F001: ("TPM_NV_INDEX_TPM_CC", "credential of the TPM's conformance"),
    0x0000F002: ("TPM_NV_INDEX_PlatformCert", "certificate of the platform"),
    0x0000F003: ("TPM_NV_INDEX_Platform_CC", "credential of the platform's conformance"),
    0x0000F004: ("TPM_NV_INDEX_TRIAL", "tries a definition without making it"),
}
_NV_LOCK_12 = 0xFFFFFFFF


def describe(version: str, handle: int) -> str:
    """Handle or NV index of a TPM of `version`, without its number; "" where the number says nothing."""
    return _describe_12(handle) if version == "1.2" else _describe_20(handle)


def _describe_20(handle: int) -> str:
    found = PERMANENT_20.get(handle)
    if found is not None:
        return f"{found[0]}: {found[1]}"
    for first, last, words in _RANGES_20:
        if first <= handle <= last:
            return words.format(offset=handle - first)
    return ""


def _describe_12(handle: int) -> str:
    found = PERMANENT_12.get(handle)
    if found is not None:
        return f"{found[0]}: {found[1]}"
    if handle == _NV_LOCK_12:
        return "NV index TPM_NV_INDEX_LOCK: turns the protection of NV storage on"
    known = _NV_12.get(handle & ~_NV_DEFINED)
    if known is None or handle in (0, 1):  # these two: a PCR as well as an index
        return ""
    by_maker = ", defined by the maker" if handle & _NV_DEFINED and handle & 0xFFFF > 1 else ""
    return f"NV index {known[0]}{by_maker}: {known[1]}"
