"""What TPM 1.2 commands and their responses are made of, as command_shapes has it of TPM 2.0; authorization sessions
follow the parameters, as many as the tag says.

Only those that are met often, or have a handle. Types: `20b` and `secret20` have 20 bytes and no size, `4b` and
`secret4` a size of four bytes before them.

Source: TPM Main Part 3, level 2 revision 116. Names are the specification's.
"""

from typing import Optional

from swtpm_svc.wire.command_codes import ORDINALS_12
from swtpm_svc.wire.command_shapes import Shape, make_shape

_SESSION = "authHandle=u32 nonceEven=20b"
_NV = "nvIndex=handle offset=u32"

_LINES = {
    "Startup": ": startupType=u16",
    "PhysicalPresence": ": physicalPresence=u16",
    # capabilities, random numbers, ticks
    "GetCapability": ": capArea=u32 subCap=4b > : resp=4b",
    "SetCapability": ": capArea=u32 subCap=4b setValue=secret4",
    "GetRandom": ": bytesRequested=u32 > : randomBytes=secret4",
    "StirRandom": ": inData=secret4",
    "GetTestResult": "> : outData=4b",
    "GetTicks": "> : currentTime=rest",
    # PCRs, hashes
    "Extend": ": pcrNum=u32 inDigest=20b > : outDigest=20b",
    "PcrRead": ": pcrIndex=u32 > : outDigest=20b",
    "SHA1Start": "> : maxNumBytes=u32",
    "SHA1Update": ": hashData=secret4",
    "SHA1Complete": ": hashData=secret4 > : hashValue=20b",
    "SHA1CompleteExtend": ": pcrNum=u32 hashData=secret4 > : hashValue=20b outDigest=20b",
    # sessions
    "OIAP": f"> : {_SESSION}",
    "OSAP": f": entityType=u16 entityValue=u32 nonceOddOSAP=20b > : {_SESSION} nonceEvenOSAP=20b",
    "Terminate_Handle": "handle",
    "FlushSpecific": "handle : resourceType=u32",
    "SaveContext": "handle : resourceType=u32 label=rest",
    # owner, keys
    "TakeOwnership": ": protocolID=u16 encOwnerAuth=secret4 encSrkAuth=secret4 srkParams=rest > : srkPub=rest",
    "CreateEndorsementKeyPair": ": antiReplay=20b keyInfo=rest > : pubEndorsementKey=rest",
    "ReadPubek": ": antiReplay=20b > : pubEndorsementKey=rest",
    "OwnerReadInternalPub": "keyHandle > : publicPortion=rest",
    "ChangeAuthOwner": ": protocolID=u16 newAuth=secret20 entityType=u16",
    "CreateWrapKey": "parentHandle : dataUsageAuth=secret20 dataMigrationAuth=secret20 keyInfo=rest",
    "LoadKey": "parentHandle : inKey=rest > inkeyHandle",
    "LoadKey2": "parentHandle : inKey=rest > inkeyHandle",
    "GetPubKey": "keyHandle > : pubKey=rest",
    "EvictKey": "evictHandle",
    "CertifyKey": "certHandle keyHandle : antiReplay=20b > : certifyInfo=rest",
    "MakeIdentity": ": identityAuth=secret20 labelPrivCADigest=20b idKeyParams=rest",
    "ActivateIdentity": "idKeyHandle : blob=4b > : symmetricKey=rest",
    # sealing, signing
    "Seal": "keyHandle : encAuth=secret20 pcrInfo=4b inData=secret4 > : sealedData=rest",
    "Sealx": "keyHandle : encAuth=secret20 pcrInfo=4b inData=secret4 > : sealedData=rest",
    "Unseal": "parentHandle : inData=rest > : secret=secret4",
    "UnBind": "keyHandle : inData=4b > : outData=secret4",
    "Sign": "keyHandle : areaToSign=4b > : sig=4b",
    "Quote": "keyHandle : externalData=20b targetPCR=rest > : pcrData=rest",
    "Quote2": "keyHandle : externalData=20b targetPCR=rest > : pcrData=rest",
    # NV storage, counters
    "NV_DefineSpace": ": pubInfo=rest",
    "NV_WriteValue": f": {_NV} data=secret4",
    "NV_WriteValueAuth": f": {_NV} data=secret4",
    "NV_ReadValue": f": {_NV} dataSize=u32 > : data=secret4",
    "NV_ReadValueAuth": f": {_NV} dataSize=u32 > : data=secret4",
    "IncrementCounter": ": countID=u32 > : count=rest",
    "ReadCounter": ": countID=u32 > : count=rest",
}


def shape(ordinal: int) -> Optional[Shape]:
    """What a command of a TPM 1.2 is made of; None: nobody has written it down here."""
    line = _LINES.get(ORDINALS_12.get(ordinal, ""))
    return None if line is None else make_shape(line)
