"""TPM 1.2 ordinals and TPM 2.0 command codes: those that this program sends, the names of all, which of them run long,
and which change nothing that is stored.

Sources: TPM Main Part 2 level 2 revision 116, "Ordinals"; TPM 2.0 Library Part 2 revision 1.59, "TPM_CC", and the
commands that revisions 1.83 and 1.84 add (0x199 to 0x1A1); linux/vtpm_proxy.h for the kernel's own command.
"""

from swtpm_svc.wire.enumerations import IntEnum, unique


@unique
class Ordinal(IntEnum):
    """TPM_COMMAND_CODE, of TPM 1.2 (TPM Main Part 2, section 17): what this program sends or looks for."""

    OIAP = 0x0A
    OSAP = 0x0B
    TAKE_OWNERSHIP = 0x0D
    PCR_READ = 0x15
    CONTINUE_SELF_TEST = 0x53
    GET_CAPABILITY = 0x65
    PHYSICAL_ENABLE = 0x6F
    PHYSICAL_SET_DEACTIVATED = 0x72
    CREATE_ENDORSEMENT_KEY_PAIR = 0x78
    READ_PUBEK = 0x7C
    OWNER_READ_INTERNAL_PUB = 0x81
    STARTUP = 0x99
    FLUSH_SPECIFIC = 0xBA
    NV_DEFINE_SPACE = 0xCC
    NV_WRITE_VALUE = 0xCD
    NV_READ_VALUE = 0xCF
    GET_TICKS = 0xF1
    PHYSICAL_PRESENCE = 0x4000000A


@unique
class CommandCode(IntEnum):
    """TPM_CC (TPM 2.0 Library Part 2, section 6.5.2): what this program sends or looks for."""

    EVICT_CONTROL = 0x120
    HIERARCHY_CHANGE_AUTH = 0x129
    NV_DEFINE_SPACE = 0x12A
    PCR_ALLOCATE = 0x12B
    CREATE_PRIMARY = 0x131
    NV_WRITE = 0x137
    NV_WRITE_LOCK = 0x138
    INCREMENTAL_SELF_TEST = 0x142
    STARTUP = 0x144
    SHUTDOWN = 0x145
    STIR_RANDOM = 0x146
    GET_TIME = 0x14C
    NV_READ = 0x14E
    CONTEXT_LOAD = 0x161
    CONTEXT_SAVE = 0x162
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    GET_CAPABILITY = 0x17A
    GET_TEST_RESULT = 0x17C
    PCR_READ = 0x17E


#: The kernel sends this to the server of a vtpm_proxy device, to set the locality; TPM_ORD_SET_LOCALITY is the same
#: number.
VTPM_PROXY_SET_LOCALITY = 0x20001000

_VENDOR = 0x20000000  # bit 29, in both versions: a vendor's own command
_CONNECTION = 0x40000000  # bit 30, TPM 1.2: a TSC_ command of the connection to the TPM, not of the TPM

# fmt: off
ORDINALS_12: dict[int, str] = {
    0x00A: "OIAP", 0x00B: "OSAP", 0x00C: "ChangeAuth", 0x00D: "TakeOwnership", 0x00E: "ChangeAuthAsymStart",
    0x00F: "ChangeAuthAsymFinish", 0x010: "ChangeAuthOwner", 0x011: "DSAP", 0x012: "CMK_CreateTicket", 0x013: "CMK_CreateKey",
    0x014: "Extend", 0x015: "PcrRead", 0x016: "Quote", 0x017: "Seal", 0x018: "Unseal", 0x019: "DirWriteAuth", 0x01A: "DirRead",
    0x01B: "CMK_CreateBlob", 0x01C: "CMK_SetRestrictions", 0x01D: "CMK_ApproveMA", 0x01E: "UnBind", 0x01F: "CreateWrapKey",
    0x020: "LoadKey", 0x021: "GetPubKey", 0x022: "EvictKey", 0x023: "KeyControlOwner", 0x024: "CMK_ConvertMigration",
    0x025: "MigrateKey", 0x028: "CreateMigrationBlob", 0x029: "DAA_Join", 0x02A: "ConvertMigrationBlob",
    0x02B: "AuthorizeMigrationKey", 0x02C: "CreateMaintenanceArchive", 0x02D: "LoadMaintenanceArchive",
    0x02E: "KillMaintenanceFeature", 0x02F: "LoadManuMaintPub", 0x030: "ReadManuMaintPub", 0x031: "DAA_Sign",
    0x032: "CertifyKey", 0x033: "CertifyKey2", 0x03C: "Sign", 0x03D: "Sealx", 0x03E: "Quote2", 0x03F: "SetCapability",
    0x040: "ResetLockValue", 0x041: "LoadKey2", 0x046: "GetRandom", 0x047: "StirRandom", 0x050: "SelfTestFull",
    0x052: "CertifySelfTest", 0x053: "ContinueSelfTest", 0x054: "GetTestResult", 0x05A: "Reset", 0x05B: "OwnerClear",
    0x05C: "DisableOwnerClear", 0x05D: "ForceClear", 0x05E: "DisableForceClear", 0x064: "GetCapabilitySigned",
    0x065: "GetCapability", 0x066: "GetCapabilityOwner", 0x06E: "OwnerSetDisable", 0x06F: "PhysicalEnable",
    0x070: "PhysicalDisable", 0x071: "SetOwnerInstall", 0x072: "PhysicalSetDeactivated", 0x073: "SetTempDeactivated",
    0x074: "SetOperatorAuth", 0x075: "SetOwnerPointer", 0x078: "CreateEndorsementKeyPair", 0x079: "MakeIdentity",
    0x07A: "ActivateIdentity", 0x07C: "ReadPubek", 0x07D: "OwnerReadPubek", 0x07E: "DisablePubekRead",
    0x07F: "CreateRevocableEK", 0x080: "RevokeTrust", 0x081: "OwnerReadInternalPub", 0x082: "GetAuditEvent",
    0x083: "GetAuditEventSigned", 0x085: "GetAuditDigest", 0x086: "GetAuditDigestSigned", 0x08C: "GetOrdinalAuditStatus",
    0x08D: "SetOrdinalAuditStatus", 0x096: "Terminate_Handle", 0x097: "Init", 0x098: "SaveState", 0x099: "Startup",
    0x09A: "SetRedirection", 0x0A0: "SHA1Start", 0x0A1: "SHA1Update", 0x0A2: "SHA1Complete", 0x0A3: "SHA1CompleteExtend",
    0x0AA: "FieldUpgrade", 0x0B4: "SaveKeyContext", 0x0B5: "LoadKeyContext", 0x0B6: "SaveAuthContext", 0x0B7: "LoadAuthContext",
    0x0B8: "SaveContext", 0x0B9: "LoadContext", 0x0BA: "FlushSpecific", 0x0C8: "PCR_Reset", 0x0CC: "NV_DefineSpace",
    0x0CD: "NV_WriteValue", 0x0CE: "NV_WriteValueAuth", 0x0CF: "NV_ReadValue", 0x0D0: "NV_ReadValueAuth",
    0x0D1: "Delegate_UpdateVerification", 0x0D2: "Delegate_Manage", 0x0D4: "Delegate_CreateKeyDelegation",
    0x0D5: "Delegate_CreateOwnerDelegation", 0x0D6: "Delegate_VerifyDelegation", 0x0D8: "Delegate_LoadOwnerDelegation",
    0x0DB: "Delegate_ReadTable", 0x0DC: "CreateCounter", 0x0DD: "IncrementCounter", 0x0DE: "ReadCounter",
    0x0DF: "ReleaseCounter", 0x0E0: "ReleaseCounterOwner", 0x0E6: "EstablishTransport", 0x0E7: "ExecuteTransport",
    0x0E8: "ReleaseTransportSigned", 0x0F1: "GetTicks", 0x0F2: "TickStampBlob", 0x4000000A: "PhysicalPresence",
    0x4000000B: "ResetEstablishmentBit",
}

COMMAND_CODES_20: dict[int, str] = {
    0x11F: "NV_UndefineSpaceSpecial", 0x120: "EvictControl", 0x121: "HierarchyControl", 0x122: "NV_UndefineSpace",
    0x124: "ChangeEPS", 0x125: "ChangePPS", 0x126: "Clear", 0x127: "ClearControl", 0x128: "ClockSet",
    0x129: "HierarchyChangeAuth", 0x12A: "NV_DefineSpace", 0x12B: "PCR_Allocate", 0x12C: "PCR_SetAuthPolicy",
    0x12D: "PP_Commands", 0x12E: "SetPrimaryPolicy", 0x12F: "FieldUpgradeStart", 0x130: "ClockRateAdjust",
    0x131: "CreatePrimary", 0x132: "NV_GlobalWriteLock", 0x133: "GetCommandAuditDigest", 0x134: "NV_Increment",
    0x135: "NV_SetBits", 0x136: "NV_Extend", 0x137: "NV_Write", 0x138: "NV_WriteLock", 0x139: "DictionaryAttackLockReset",
    0x13A: "DictionaryAttackParameters", 0x13B: "NV_ChangeAuth", 0x13C: "PCR_Event", 0x13D: "PCR_Reset",
    0x13E: "SequenceComplete", 0x13F: "SetAlgorithmSet", 0x140: "SetCommandCodeAuditStatus", 0x141: "FieldUpgradeData",
    0x142: "IncrementalSelfTest", 0x143: "SelfTest", 0x144: "Startup", 0x145: "Shutdown", 0x146: "StirRandom",
    0x147: "ActivateCredential", 0x148: "Certify", 0x149: "PolicyNV", 0x14A: "CertifyCreation", 0x14B: "Duplicate",
    0x14C: "GetTime", 0x14D: "GetSessionAuditDigest", 0x14E: "NV_Read", 0x14F: "NV_ReadLock", 0x150: "ObjectChangeAuth",
    0x151: "PolicySecret", 0x152: "Rewrap", 0x153: "Create", 0x154: "ECDH_ZGen", 0x155: "HMAC", 0x156: "Import", 0x157: "Load",
    0x158: "Quote", 0x159: "RSA_Decrypt", 0x15B: "HMAC_Start", 0x15C: "SequenceUpdate", 0x15D: "Sign", 0x15E: "Unseal",
    0x160: "PolicySigned", 0x161: "ContextLoad", 0x162: "ContextSave", 0x163: "ECDH_KeyGen", 0x164: "EncryptDecrypt",
    0x165: "FlushContext", 0x167: "LoadExternal", 0x168: "MakeCredential", 0x169: "NV_ReadPublic", 0x16A: "PolicyAuthorize",
    0x16B: "PolicyAuthValue", 0x16C: "PolicyCommandCode", 0x16D: "PolicyCounterTimer", 0x16E: "PolicyCpHash",
    0x16F: "PolicyLocality", 0x170: "PolicyNameHash", 0x171: "PolicyOR", 0x172: "PolicyTicket", 0x173: "ReadPublic",
    0x174: "RSA_Encrypt", 0x176: "StartAuthSession", 0x177: "VerifySignature", 0x178: "ECC_Parameters", 0x179: "FirmwareRead",
    0x17A: "GetCapability", 0x17B: "GetRandom", 0x17C: "GetTestResult", 0x17D: "Hash", 0x17E: "PCR_Read", 0x17F: "PolicyPCR",
    0x180: "PolicyRestart", 0x181: "ReadClock", 0x182: "PCR_Extend", 0x183: "PCR_SetAuthValue", 0x184: "NV_Certify",
    0x185: "EventSequenceComplete", 0x186: "HashSequenceStart", 0x187: "PolicyPhysicalPresence",
    0x188: "PolicyDuplicationSelect", 0x189: "PolicyGetDigest", 0x18A: "TestParms", 0x18B: "Commit", 0x18C: "PolicyPassword",
    0x18D: "ZGen_2Phase", 0x18E: "EC_Ephemeral", 0x18F: "PolicyNvWritten", 0x190: "PolicyTemplate", 0x191: "CreateLoaded",
    0x192: "PolicyAuthorizeNV", 0x193: "EncryptDecrypt2", 0x194: "AC_GetCapability", 0x195: "AC_Send",
    0x196: "Policy_AC_SendSelect", 0x197: "CertifyX509", 0x198: "ACT_SetTimeout", 0x199: "ECC_Encrypt", 0x19A: "ECC_Decrypt",
    0x19B: "PolicyCapability", 0x19C: "PolicyParameters", 0x19D: "NV_DefineSpace2", 0x19E: "NV_ReadPublic2",
    0x19F: "SetCapability", 0x1A0: "ReadOnlyControl", 0x1A1: "PolicyTransportSPDM",
}
# fmt: on

_NAMES = {"1.2": ORDINALS_12, "2.0": COMMAND_CODES_20}
_PREFIXES = {"1.2": "TPM_", "2.0": "TPM2_"}


def name(version: str, code: int) -> str:
    """What a person calls command `code` of a TPM of `version` ("1.2" or "2.0"); unknown ones are named by number."""
    found = _NAMES[version].get(code)
    if found is not None:
        return ("TSC_" if code & _CONNECTION else _PREFIXES[version]) + found
    if code == VTPM_PROXY_SET_LOCALITY:
        return "vtpm_proxy SetLocality"
    kind = "vendor" if code & _VENDOR else "unknown"
    return f"{kind} command 0x{code:08x}"


def is_known(version: str, code: int) -> bool:
    """Has this version a command of this code?"""
    return code in _NAMES[version]


def _codes(version: str, names: str) -> frozenset[int]:
    """The codes of `names`, each of which must be there."""
    numbers = {text: code for code, text in _NAMES[version].items()}
    return frozenset(numbers[text] for text in names.split())


#: Commands that can keep the TPM busy for more than a millisecond or two, by version: they go to the worker thread.
#:
#: 2.0: measured with libtpms 0.9.2 on a 2-core virtual machine, RSA 3072 where a key has a size: Create 470 ms (RSA
#: 2048: tens), CreatePrimary 280 ms, SelfTest 27 ms, RSA_Decrypt 11 ms, Sign and Quote 8 ms, ChangeEPS and ChangePPS 4
#: ms, IncrementalSelfTest, Import and the ECDH commands 3 ms. The others of the same kind (a private key is used or
#: made) are listed by analogy. Not listed: StartAuthSession, 40 us and frequent, although a salt encrypted to an RSA
#: key makes it 4 to 10 ms; VerifySignature, under 1 ms; Load and LoadExternal, 0.2 ms. 1.2: by analogy, not measured:
#: what makes an RSA key or uses a private one, the self-tests, and ExecuteTransport, which can wrap any of these.
LONG_RUNNING: dict[str, frozenset[int]] = {
    "1.2": _codes(
        "1.2",
        "CreateWrapKey CMK_CreateKey MakeIdentity CreateEndorsementKeyPair CreateRevocableEK TakeOwnership "
        "ChangeAuthAsymStart"
        " SelfTestFull ContinueSelfTest CertifySelfTest"
        " Sign Quote Quote2 Unseal UnBind LoadKey LoadKey2 ActivateIdentity CertifyKey CertifyKey2 TickStampBlob"
        " ChangeAuth ChangeAuthAsymFinish ChangeAuthOwner ConvertMigrationBlob CMK_ConvertMigration MigrateKey"
        " GetCapabilitySigned GetAuditDigestSigned GetAuditEventSigned"
        " EstablishTransport ExecuteTransport ReleaseTransportSigned DAA_Join DAA_Sign",
    ),
    "2.0": _codes(
        "2.0",
        "Create CreatePrimary CreateLoaded SelfTest IncrementalSelfTest ChangeEPS ChangePPS"
        " RSA_Decrypt Sign Quote Certify CertifyCreation CertifyX509 NV_Certify GetTime"
        " GetSessionAuditDigest GetCommandAuditDigest ActivateCredential Import Rewrap Duplicate MakeCredential"
        " ECDH_KeyGen ECDH_ZGen ZGen_2Phase EC_Ephemeral Commit ECC_Encrypt ECC_Decrypt",
    ),
}

#: Commands whose success says nothing about permanent state: before all others, and unknown ones, the TPM is copied, so
#: that what could not be stored can be undone. A refusal may be stored all the same (a failed authorization is
#: counted).
STORES_NOTHING: dict[str, frozenset[int]] = {
    "1.2": _codes(
        "1.2",
        "OIAP OSAP DSAP Terminate_Handle FlushSpecific Extend PcrRead PCR_Reset Quote Quote2 Seal Sealx Unseal UnBind "
        "Sign"
        " CreateWrapKey LoadKey LoadKey2 GetPubKey CertifyKey CertifyKey2 GetCapability GetRandom StirRandom "
        "GetTestResult"
        " ReadPubek OwnerReadPubek SaveContext LoadContext SHA1Start SHA1Update SHA1Complete SHA1CompleteExtend"
        " NV_ReadValue NV_ReadValueAuth ReadCounter GetTicks TickStampBlob SelfTestFull ContinueSelfTest",
    ),
    "2.0": _codes(
        "2.0",
        "SelfTest IncrementalSelfTest GetTestResult GetCapability TestParms GetRandom StirRandom ReadClock GetTime"
        " StartAuthSession PolicyRestart FlushContext ContextSave ContextLoad"
        " Create CreatePrimary CreateLoaded Load LoadExternal ReadPublic ObjectChangeAuth Duplicate Rewrap Import"
        " MakeCredential ActivateCredential Unseal Certify CertifyCreation CertifyX509 Quote GetSessionAuditDigest"
        " RSA_Encrypt RSA_Decrypt ECDH_KeyGen ECDH_ZGen ECC_Parameters ZGen_2Phase ECC_Encrypt ECC_Decrypt "
        "EC_Ephemeral Commit"
        " EncryptDecrypt EncryptDecrypt2 Hash HMAC HMAC_Start HashSequenceStart SequenceUpdate SequenceComplete"
        " EventSequenceComplete Sign VerifySignature PCR_Extend PCR_Event PCR_Read PCR_Reset NV_Read NV_ReadPublic "
        "NV_Certify"
        " PolicySigned PolicySecret PolicyTicket PolicyOR PolicyPCR PolicyLocality PolicyNV PolicyCounterTimer"
        " PolicyCommandCode PolicyPhysicalPresence PolicyCpHash PolicyNameHash PolicyDuplicationSelect PolicyAuthorize"
        " PolicyAuthValue PolicyPassword PolicyGetDigest PolicyNvWritten PolicyTemplate PolicyAuthorizeNV",
    ),
}
