"""What the tests ask of a guest's TPM, in the commands of TPM 1.2 (TPM Main Part 3) and of TPM 2.0 (TPM 2.0 Part 3).

`execute` takes a command and gives the response: a guest does it (machine.Guest). Every command must succeed.
"""

import struct

from tpm_commands import result_of, with_session

h = bytes.fromhex


class Tpm20:
    """The SHA-256 bank.

    NV belongs to the owner; the EK is TCG's RSA 2048 template L-1 (EK Credential Profile, annex B).
    """

    digest_bytes = 32
    _OWNER, _ENDORSEMENT, _NV_INDEX = h("40000001"), h("4000000b"), h("01500016")
    #: TPMA_NV: OWNERWRITE, OWNERREAD.
    _NV_ATTRIBUTES = h("00020002")
    #: PolicySecret(TPM_RH_ENDORSEMENT), the policy of the template.
    _EK_POLICY = h("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
    _EK_TEMPLATE = h("0001 000b 000300b2 0020") + _EK_POLICY + h("0006 0080 0043 0010 0800 00000000 0100") + bytes(256)

    def __init__(self, execute):
        self._execute = execute

    def _send(self, command):
        response = self._execute(command)
        assert result_of(response) == 0, f"{command.hex()}: {response.hex()}"
        return response[10:]

    def _plain(self, code, body):
        return self._send(h("8001") + struct.pack(">II", 10 + len(body), code) + body)

    def _authorized(self, code, handles, parameters=b""):
        return self._send(with_session(code, handles, parameters))

    def read_pcr(self, number):
        selection = (1 << number).to_bytes(3, "little")
        return self._plain(0x17E, h("00000001 000b 03") + selection)[-32:]

    def extend_pcr(self, number, digest):
        self._authorized(0x182, struct.pack(">I", number), h("00000001 000b") + digest)

    def random(self):
        return self._plain(0x17B, struct.pack(">H", 16))[2:]

    def write_nv(self, text):
        """Define the NV index and write it."""
        public = self._NV_INDEX + h("000b") + self._NV_ATTRIBUTES + h("0000") + struct.pack(">H", len(text))
        self._authorized(0x12A, self._OWNER, h("0000") + struct.pack(">H", len(public)) + public)
        self._authorized(0x137, self._OWNER + self._NV_INDEX, struct.pack(">H", len(text)) + text + h("0000"))

    def read_nv(self, size):
        return self._authorized(0x14E, self._OWNER + self._NV_INDEX, struct.pack(">HH", size, 0))[6 : 6 + size]

    def endorsement_key(self):
        """The EK's public area (TPMT_PUBLIC): made from the endorsement seed each time, and the same each time."""
        handle, public = self.create_primary(self._ENDORSEMENT, self._EK_TEMPLATE)
        self.flush(handle)
        return public

    def create_primary(self, hierarchy, template):
        """(handle, public area) of a primary key."""
        parameters = h("0004 0000 0000") + struct.pack(">H", len(template)) + template + h("0000 00000000")
        response = self._authorized(0x131, hierarchy, parameters)
        size = int.from_bytes(response[8:10], "big")  # after the handle and the parameters' size
        return response[:4], response[10 : 10 + size]

    def read_public(self, handle):
        response = self._plain(0x173, handle)
        return response[2 : 2 + int.from_bytes(response[:2], "big")]

    def start_policy_session(self):
        """The handle of a policy session (SHA-256)."""
        null = h("40000007")
        return self._plain(0x176, null + null + h("0010") + bytes(16) + h("0000 01 0010 000b"))[:4]

    def policy_command_code(self, session, code):
        self._plain(0x16C, session + struct.pack(">I", code))

    def policy_digest(self, session):
        return self._plain(0x189, session)[2:]

    def flush(self, handle):
        self._plain(0x165, handle)


class Tpm12:
    """Without an owner: NV before nvLocked is set asks for no authorization, and the EK can be made once."""

    digest_bytes = 20
    _NV_INDEX = h("00001234")

    def __init__(self, execute):
        self._execute = execute

    def _send(self, ordinal, body=b""):
        command = h("00c1") + struct.pack(">II", 10 + len(body), ordinal) + body
        response = self._execute(command)
        assert result_of(response) == 0, f"{command.hex()}: {response.hex()}"
        return response[10:]

    def read_pcr(self, number):
        return self._send(0x15, struct.pack(">I", number))

    def extend_pcr(self, number, digest):
        self._send(0x14, struct.pack(">I", number) + digest)

    def random(self):
        return self._send(0x46, struct.pack(">I", 16))[4:]

    def write_nv(self, text):
        # TPM_PCR_INFO_SHORT: no PCRs, any locality
        pcrs = h("0003 000000 1f") + bytes(20)
        # TPM_NV_PER_OWNERWRITE, none of the bRead and bWrite flags
        public = h("0018") + self._NV_INDEX + pcrs + pcrs + h("0017 00000002 000000") + struct.pack(">I", len(text))
        self._send(0xCC, public + bytes(20))
        self._send(0xCD, self._NV_INDEX + struct.pack(">II", 0, len(text)) + text)

    def read_nv(self, size):
        return self._send(0xCF, self._NV_INDEX + struct.pack(">II", 0, size))[4:]

    def make_endorsement_key(self):
        """TPM_CreateEndorsementKeyPair: RSA 2048 (TPM_KEY_PARMS: OAEP, no signature scheme); its TPM_PUBKEY."""
        parameters = h("00000001 0003 0001 0000000c 00000800 00000002 00000000")
        return self._send(0x78, bytes(20) + parameters)[:-20]

    def endorsement_key(self):
        """The EK's TPM_PUBKEY, which TPM_ReadPubek gives together with a checksum."""
        return self._send(0x7C, bytes(20))[:-20]


DIALECTS = {"1.2": Tpm12, "2.0": Tpm20}
