"""Something in each kind of a TPM's memory, to be looked for after the TPM has moved."""

from dialects import DIALECTS
from tpm_commands import h

NV_TEXT = b"written once"
#: For applications: neither the firmware nor the kernel extends it.
OUR_PCR = 23
#: An RSA 2048 signing key (RSASSA is left open), for which no policy is needed.
KEY_TEMPLATE = h("0001 000b 00040072 0000 0010 0010 0800 00000000 0000")
NULL_HIERARCHY = h("40000007")


class Memory:
    """Something in each kind of a TPM's memory, put there by `__init__`, and looked for by `check`."""

    def __init__(self, guest):
        tpm = DIALECTS[guest.version](guest.execute)
        tpm.extend_pcr(OUR_PCR, bytes(range(tpm.digest_bytes)))
        tpm.write_nv(NV_TEXT)
        self._pcrs = self._read_pcrs(tpm)
        if guest.version == "1.2":
            self._key = tpm.make_endorsement_key()
            return
        self._session = tpm.start_policy_session()
        tpm.policy_command_code(self._session, 0x15D)  # TPM2_Sign
        self._digest = tpm.policy_digest(self._session)
        self._handle, self._key = tpm.create_primary(NULL_HIERARCHY, KEY_TEMPLATE)

    @staticmethod
    def _read_pcrs(tpm):
        return [tpm.read_pcr(number) for number in range(24)]

    def check(self, guest):
        """All of it is in the TPM of `guest`, whose sessions and objects are gone afterwards."""
        tpm = DIALECTS[guest.version](guest.execute)
        assert self._read_pcrs(tpm) == self._pcrs
        assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
        if guest.version == "1.2":
            assert tpm.endorsement_key() == self._key
            return
        assert tpm.policy_digest(self._session) == self._digest != bytes(32)
        assert tpm.read_public(self._handle) == self._key
        tpm.flush(self._session)
        tpm.flush(self._handle)
