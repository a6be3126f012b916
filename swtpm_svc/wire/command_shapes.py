"""What TPM 2.0 commands and their responses are made of: the names and types of handles and parameters.

A line is `handles : parameters > handles of the response : its parameters`. A handle with an asterisk is authorized by
a session, the first one by the first. Types are those of `anatomy.READERS`; `secret` is a TPM2B_ that holds, or may
hold, what nobody else is to see: authorization values, sensitive areas, plain text, random bytes, the contents of NV
indices. `rest` is all that is left, of a structure that nothing here takes apart.

Source: TPM 2.0 Library Part 3, revision 1.59, and for the codes from 0x199 on revisions 1.83 and 1.84. Names are the
specification's.
"""

from typing import Optional

from swtpm_svc.wire.command_codes import COMMAND_CODES_20
from swtpm_svc.wire.values import NamedTuple

_ATTESTS = "qualifyingData=2b inScheme=scheme"
_POLICY = "policySession : "
_CHECKED = "nonceTPM=2b cpHashA=2b policyRef=2b expiration=i32"
_MADE = "creationData=2b creationHash=2b creationTicket=ticket"

_LINES = {
    # Start-up, self-test
    "Startup": ": startupType=su",
    "Shutdown": ": shutdownType=su",
    "SelfTest": ": fullTest=yes",
    "IncrementalSelfTest": ": toTest=algs > : toDoList=algs",
    "GetTestResult": "> : outData=2b testResult=rc",
    # sessions
    "StartAuthSession": "tpmKey bind : nonceCaller=2b encryptedSalt=2b sessionType=u8 symmetric=symmetric authHash=alg"
    " > sessionHandle : nonceTPM=2b",
    "PolicyRestart": "sessionHandle",
    # objects
    "Create": f"parentHandle* : inSensitive=secret inPublic=2b outsideInfo=2b creationPCR=pcrs"
    f" > : outPrivate=2b outPublic=2b {_MADE}",
    "Load": "parentHandle* : inPrivate=2b inPublic=2b > objectHandle : name=2b",
    "LoadExternal": ": inPrivate=secret inPublic=2b hierarchy=handle > objectHandle : name=2b",
    "ReadPublic": "objectHandle > : outPublic=2b name=2b qualifiedName=2b",
    "ActivateCredential": "activateHandle* keyHandle* : credentialBlob=2b secret=2b > : certInfo=secret",
    "MakeCredential": "handle : credential=secret objectName=2b > : credentialBlob=2b secret=2b",
    "Unseal": "itemHandle* > : outData=secret",
    "ObjectChangeAuth": "objectHandle* parentHandle : newAuth=secret > : outPrivate=2b",
    "CreateLoaded": "parentHandle* : inSensitive=secret inPublic=2b"
    " > objectHandle : outPrivate=2b outPublic=2b name=2b",
    "Duplicate": "objectHandle* newParentHandle : encryptionKeyIn=secret symmetricAlg=symmetric"
    " > : encryptionKeyOut=secret duplicate=secret outSymSeed=2b",
    "Rewrap": "oldParent* newParent : inDuplicate=secret name=2b inSymSeed=2b > : outDuplicate=secret outSymSeed=2b",
    "Import": "parentHandle* : encryptionKey=secret objectPublic=2b duplicate=secret inSymSeed=2b"
    " symmetricAlg=symmetric > : outPrivate=2b",
    # asymmetric, symmetric
    "RSA_Encrypt": "keyHandle : message=secret inScheme=scheme label=2b > : outData=2b",
    "RSA_Decrypt": "keyHandle* : cipherText=2b inScheme=scheme label=2b > : message=secret",
    "ECDH_KeyGen": "keyHandle > : zPoint=secret pubPoint=2b",
    "ECDH_ZGen": "keyHandle* : inPoint=2b > : outPoint=secret",
    "ECC_Parameters": ": curveID=u16 > : parameters=rest",
    "ZGen_2Phase": "keyA* : inQsB=2b inQeB=2b inScheme=alg counter=u16 > : outZ1=secret outZ2=secret",
    "ECC_Encrypt": "keyHandle : plainText=secret inScheme=scheme > : C1=2b C2=2b C3=2b",
    "ECC_Decrypt": "keyHandle* : C1=2b C2=2b C3=2b inScheme=scheme > : plainText=secret",
    "EncryptDecrypt": "keyHandle* : decrypt=yes mode=alg ivIn=2b inData=secret > : outData=secret ivOut=2b",
    "EncryptDecrypt2": "keyHandle* : inData=secret decrypt=yes mode=alg ivIn=2b > : outData=secret ivOut=2b",
    "Hash": ": data=secret hashAlg=alg hierarchy=handle > : outHash=2b validation=ticket",
    "HMAC": "handle* : buffer=secret hashAlg=alg > : outHMAC=secret",
    # random numbers, hash sequences
    "GetRandom": ": bytesRequested=u16 > : randomBytes=secret",
    "StirRandom": ": inData=secret",
    "HMAC_Start": "handle* : auth=secret hashAlg=alg > sequenceHandle",
    "HashSequenceStart": ": auth=secret hashAlg=alg > sequenceHandle",
    "SequenceUpdate": "sequenceHandle* : buffer=secret",
    "SequenceComplete": "sequenceHandle* : buffer=secret hierarchy=handle > : result=secret validation=ticket",
    "EventSequenceComplete": "pcrHandle* sequenceHandle* : buffer=secret > : results=digests",
    # attestation, signing
    "Certify": f"objectHandle* signHandle* : {_ATTESTS} > : certifyInfo=2b signature=rest",
    "CertifyCreation": "signHandle* objectHandle : qualifyingData=2b creationHash=2b inScheme=scheme"
    " creationTicket=ticket > : certifyInfo=2b signature=rest",
    "Quote": f"signHandle* : {_ATTESTS} PCRselect=pcrs > : quoted=2b signature=rest",
    "GetSessionAuditDigest": f"privacyAdminHandle* signHandle* sessionHandle : {_ATTESTS}"
    " > : auditInfo=2b signature=rest",
    "GetCommandAuditDigest": f"privacyHandle* signHandle* : {_ATTESTS} > : auditInfo=2b signature=rest",
    "GetTime": f"privacyAdminHandle* signHandle* : {_ATTESTS} > : timeInfo=2b signature=rest",
    "CertifyX509": "objectHandle* signHandle* : reserved=2b inScheme=scheme partialCertificate=2b"
    " > : addedToCertificate=2b tbsDigest=2b signature=rest",
    "Commit": "signHandle* : P1=2b s2=2b y2=2b > : K=2b L=2b E=2b counter=u16",
    "EC_Ephemeral": ": curveID=u16 > : Q=2b counter=u16",
    "VerifySignature": "keyHandle : digest=2b signature=rest > : validation=ticket",
    "Sign": "keyHandle* : digest=2b inScheme=scheme validation=ticket > : signature=rest",
    "SetCommandCodeAuditStatus": "auth* : auditAlg=alg setList=commands clearList=commands",
    # PCRs
    "PCR_Extend": "pcrHandle* : digests=digests",
    "PCR_Event": "pcrHandle* : eventData=2b > : digests=digests",
    "PCR_Read": ": pcrSelectionIn=pcrs > : pcrUpdateCounter=u32 pcrSelectionOut=pcrs pcrValues=2bs",
    "PCR_Allocate": "authHandle* : pcrAllocation=pcrs > : allocationSuccess=yes maxPCR=u32 sizeNeeded=u32"
    " sizeAvailable=u32",
    "PCR_SetAuthPolicy": "authHandle* : authPolicy=2b hashAlg=alg pcrNum=handle",
    "PCR_SetAuthValue": "pcrHandle* : auth=secret",
    "PCR_Reset": "pcrHandle*",
    # policies
    "PolicySigned": f"authObject policySession : {_CHECKED} auth=rest > : timeout=2b policyTicket=ticket",
    "PolicySecret": f"authHandle* policySession : {_CHECKED} > : timeout=2b policyTicket=ticket",
    "PolicyTicket": _POLICY + "timeout=2b cpHashA=2b policyRef=2b authName=2b ticket=ticket",
    "PolicyOR": _POLICY + "pHashList=2bs",
    "PolicyPCR": _POLICY + "pcrDigest=2b pcrs=pcrs",
    "PolicyLocality": _POLICY + "locality=u8",
    "PolicyNV": "authHandle* nvIndex policySession : operandB=secret offset=u16 operation=u16",
    "PolicyCounterTimer": _POLICY + "operandB=2b offset=u16 operation=u16",
    "PolicyCommandCode": _POLICY + "code=command",
    "PolicyPhysicalPresence": "policySession",
    "PolicyCpHash": _POLICY + "cpHashA=2b",
    "PolicyNameHash": _POLICY + "nameHash=2b",
    "PolicyDuplicationSelect": _POLICY + "objectName=2b newParentName=2b includeObject=yes",
    "PolicyAuthorize": _POLICY + "approvedPolicy=2b policyRef=2b keySign=2b checkTicket=ticket",
    "PolicyAuthValue": "policySession",
    "PolicyPassword": "policySession",
    "PolicyGetDigest": "policySession > : policyDigest=2b",
    "PolicyNvWritten": _POLICY + "writtenSet=yes",
    "PolicyTemplate": _POLICY + "templateHash=2b",
    "PolicyAuthorizeNV": "authHandle* nvIndex policySession",
    "PolicyCapability": _POLICY + "operandB=2b offset=u16 operation=u16 capability=u32 property=u32",
    "PolicyParameters": _POLICY + "pHash=2b",
    "PolicyTransportSPDM": _POLICY + "reqKeyName=2b tpmKeyName=2b",
    # hierarchies, dictionary attacks, maintenance
    "CreatePrimary": "primaryHandle* : inSensitive=secret inPublic=2b outsideInfo=2b creationPCR=pcrs"
    f" > objectHandle : outPublic=2b {_MADE} name=2b",
    "HierarchyControl": "authHandle* : enable=handle state=yes",
    "SetPrimaryPolicy": "authHandle* : authPolicy=2b hashAlg=alg",
    "ChangePPS": "authHandle*",
    "ChangeEPS": "authHandle*",
    "Clear": "authHandle*",
    "ClearControl": "auth* : disable=yes",
    "HierarchyChangeAuth": "authHandle* : newAuth=secret",
    "DictionaryAttackLockReset": "lockHandle*",
    "DictionaryAttackParameters": "lockHandle* : newMaxTries=u32 newRecoveryTime=u32 lockoutRecovery=u32",
    "PP_Commands": "auth* : setList=commands clearList=commands",
    "SetAlgorithmSet": "authHandle* : algorithmSet=u32",
    "FieldUpgradeStart": "authorization* keyHandle : fuDigest=2b manifestSignature=rest",
    "FieldUpgradeData": ": fuData=2b > : nextDigest=rest",
    "FirmwareRead": ": sequenceNumber=u32 > : fuData=2b",
    "ReadOnlyControl": "authHandle* : state=yes",
    # contexts, clocks, capabilities
    "ContextSave": "saveHandle > : context=context",
    "ContextLoad": ": context=context > loadedHandle",
    "FlushContext": ": flushHandle=handle",
    "EvictControl": "auth* objectHandle : persistentHandle=handle",
    "ReadClock": "> : time=u64 clock=u64 resetCount=u32 restartCount=u32 safe=yes",
    "ClockSet": "auth* : newTime=u64",
    "ClockRateAdjust": "auth* : rateAdjust=i8",
    "GetCapability": ": capability=u32 property=u32 propertyCount=u32 > : moreData=yes capabilityData=rest",
    "SetCapability": "authHandle* : setCapabilityData=secret",
    "TestParms": ": parameters=rest",
    # NV storage
    "NV_DefineSpace": "authHandle* : auth=secret publicInfo=2b",
    "NV_DefineSpace2": "authHandle* : auth=secret publicInfo=2b",
    "NV_UndefineSpace": "authHandle* nvIndex",
    "NV_UndefineSpaceSpecial": "nvIndex* platform*",
    "NV_ReadPublic": "nvIndex > : nvPublic=2b nvName=2b",
    "NV_ReadPublic2": "nvIndex > : nvPublic=2b nvName=2b",
    "NV_Write": "authHandle* nvIndex : data=secret offset=u16",
    "NV_Increment": "authHandle* nvIndex",
    "NV_Extend": "authHandle* nvIndex : data=secret",
    "NV_SetBits": "authHandle* nvIndex : bits=u64",
    "NV_WriteLock": "authHandle* nvIndex",
    "NV_GlobalWriteLock": "authHandle*",
    "NV_Read": "authHandle* nvIndex : size=u16 offset=u16 > : data=secret",
    "NV_ReadLock": "authHandle* nvIndex",
    "NV_ChangeAuth": "nvIndex* : newAuth=secret",
    "NV_Certify": "signHandle* authHandle* nvIndex : qualifyingData=2b inScheme=scheme size=u16 offset=u16"
    " > : certifyInfo=secret signature=rest",
    # attached components, countdown timers
    "AC_GetCapability": "ac : capability=u32 count=u32 > : moreData=yes capabilitiesData=rest",
    "AC_Send": "sendObject* authHandle* ac : acDataIn=secret > : acDataOut=rest",
    "Policy_AC_SendSelect": _POLICY + "objectName=2b authHandleName=2b acName=2b includeObject=yes",
    "ACT_SetTimeout": "actHandle* : startTimeout=u32",
}


class Field(NamedTuple):
    """One parameter: its name and its type."""

    name: str
    kind: str


class Side(NamedTuple):
    """A command's, or its response's. `authorized`: how many of the handles have a session of their own."""

    handles: "tuple[str, ...]"
    authorized: int
    parameters: "tuple[Field, ...]"


class Shape(NamedTuple):
    """One command's."""

    command: Side
    response: Side


def shape(code: int) -> Optional[Shape]:
    """What command `code` of a TPM 2.0 is made of; None: it is not known."""
    line = _LINES.get(COMMAND_CODES_20.get(code, ""))
    return None if line is None else make_shape(line)


def make_shape(line: str) -> Shape:
    """A line of such a table, as a value."""
    command, _, response = line.partition(">")
    return Shape(_side(command), _side(response))


def _side(text: str) -> Side:
    handles, _, parameters = text.partition(":")
    names = handles.split()
    return Side(
        tuple(name.rstrip("*") for name in names),
        sum(name.endswith("*") for name in names),
        tuple(Field(*word.split("=")) for word in parameters.split()),
    )
