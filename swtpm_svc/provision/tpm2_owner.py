"""A TPM 2.0 from its manufacturer's and its owner's side: keys that stay, authorizations, NV storage, PCR banks.

All goes through one callable, `execute(command) -> response`, as with a TPM 1.2 (provision.tpm12). Methods raise
RefusedByTpm for what the TPM answers, ProtocolError for a response that is malformed. Passwords are bytes as they are;
empty: none was set.
"""

from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.wire import pcr_banks, tpm2, tpm2_public
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.pcr_banks import Allocation
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.tpm2 import NvPublic
from swtpm_svc.wire.tpm2_numbers import Hc, Pt, Rh
from swtpm_svc.wire.tpm2_public import Public
from swtpm_svc.wire.tpm_header import decode_response

Execute = Callable[[bytes], bytes]

#: How many handles to ask for in one command; a TPM may give fewer.
_HANDLES_AT_ONCE = 64
#: More than any TPM has persistent objects or NV indices; what answers need not be a TPM.
_HANDLES_MAX = 4096


class Tpm2:
    version = "2.0"

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def _call(
        self,
        command: CommandCode,
        handles: "tuple[int, ...]" = (),
        parameters: bytes = b"",
        *,
        password: Optional[bytes] = None,
        authorized: int = 1,
        returns: int = 0,
    ) -> "tuple[tuple[int, ...], bytes]":
        encoded = tpm2.encode(command, handles, parameters, password=password, authorized=authorized)
        tag, rc, body = decode_response(self._execute(encoded))
        if rc:
            raise RefusedByTpm("2.0", command, rc)
        return tpm2.split_response(tag, body, handles=returns, authorized=authorized)

    def property(self, number: int) -> int:
        """One of TPM_PT: `Pt` has some."""
        _handles, parameters = self._call(CommandCode.GET_CAPABILITY, (), tpm2.encode_get_property(number))
        return tpm2.decode_property(parameters, number)

    # --- keys ----------------------------------------------------------------------------------------------------

    def create_primary(self, hierarchy: int, template: Public, password: bytes = b"") -> "tuple[int, Public]":
        """Make a primary key from the hierarchy's seed; the same seed and template always give the same key.

        Returns its transient handle, which is to be flushed, and its public part.
        """
        parameters = tpm2.encode_create_primary(template)
        (handle,), answer = self._call(
            CommandCode.CREATE_PRIMARY, (hierarchy,), parameters, password=password, returns=1
        )
        return handle, tpm2.decode_first_public(answer)

    def flush(self, handle: int) -> None:
        self._call(CommandCode.FLUSH_CONTEXT, (), handle.to_bytes(4, "big"))

    def persist(self, handle: int, persistent: int, password: bytes = b"") -> None:
        """Store a loaded key at a persistent handle; with that handle itself as `handle`: remove it from there."""
        hierarchy = Rh.OWNER if persistent < Hc.PLATFORM_PERSISTENT else Rh.PLATFORM
        self._call(CommandCode.EVICT_CONTROL, (hierarchy, handle), persistent.to_bytes(4, "big"), password=password)

    def read_key(self, handle: int) -> PublicKey:
        """The public key of any asymmetric object."""
        _handles, parameters = self._call(CommandCode.READ_PUBLIC, (handle,))
        return tpm2_public.decode_key(parameters)

    def handles(self, first: int, last: int) -> "list[int]":
        """The handles from `first` to `last` that exist; both are of one type: persistent objects or NV indices."""
        found: list[int] = []
        while first <= last:
            _handles, parameters = self._call(
                CommandCode.GET_CAPABILITY, (), tpm2.encode_get_handles(first, _HANDLES_AT_ONCE)
            )
            some, is_more = tpm2.decode_handles(parameters)
            found += [handle for handle in some if first <= handle <= last]
            if not some or not is_more:
                break
            if len(found) > _HANDLES_MAX:
                raise ProtocolError(f"it lists more than {_HANDLES_MAX} handles")
            first = max(some[-1], first) + 1
        return found

    # --- authorizations ------------------------------------------------------------------------------------------

    def authorizations_set(self) -> "list[int]":
        """The hierarchies of Rh.OWNER, Rh.ENDORSEMENT and Rh.LOCKOUT that have a password."""
        attributes = self.property(Pt.PERMANENT)
        return [hierarchy for hierarchy, bit in tpm2.AUTH_SET.items() if attributes & bit]

    def change_auth(self, hierarchy: int, new: bytes, old: bytes = b"") -> None:
        self._call(CommandCode.HIERARCHY_CHANGE_AUTH, (hierarchy,), tpm2_public.sized(new), password=old)

    def storage_mark(self) -> Optional[int]:
        """64 bits that come from the storage hierarchy's secret: they differ between TPMs, and change when the owner is
        cleared.

        With it an attestation hides the firmware's version when its key is not the manufacturer's, or when there is
        none (Part 1, "Attestation"). None: the endorsement hierarchy has a password, and it alone may ask.
        """
        if Rh.ENDORSEMENT in self.authorizations_set():
            return None
        handles = (Rh.ENDORSEMENT, Rh.NULL)
        _handles, answer = self._call(CommandCode.GET_TIME, handles, tpm2.encode_get_time(), password=b"", authorized=2)
        obfuscated, version = tpm2.decode_get_time(answer)
        return (obfuscated - version) % (1 << 64)

    # --- NV storage ----------------------------------------------------------------------------------------------

    def nv_define_space(self, public: NvPublic, hierarchy: int = Rh.PLATFORM, password: bytes = b"") -> None:
        self._call(CommandCode.NV_DEFINE_SPACE, (hierarchy,), tpm2.encode_nv_define_space(public), password=password)

    def nv_read_public(self, index: int) -> NvPublic:
        _handles, parameters = self._call(CommandCode.NV_READ_PUBLIC, (index,))
        return tpm2.decode_nv_read_public(parameters)

    def nv_write(self, index: int, data: bytes, hierarchy: int = Rh.PLATFORM, password: bytes = b"") -> None:
        """Write from the index's start, in as many pieces as the TPM needs."""
        size = self.property(Pt.NV_BUFFER_MAX)
        for offset in range(0, len(data), size):
            parameters = tpm2.encode_nv_write(data[offset : offset + size], offset)
            self._call(CommandCode.NV_WRITE, (hierarchy, index), parameters, password=password)

    def nv_write_lock(self, index: int, hierarchy: int = Rh.PLATFORM, password: bytes = b"") -> None:
        """No more writing: for ever, if the index has WRITEDEFINE."""
        self._call(CommandCode.NV_WRITE_LOCK, (hierarchy, index), password=password)

    def nv_read(self, index: int, hierarchy: int = Rh.PLATFORM, password: bytes = b"") -> bytes:
        """All of an index."""
        chunk, total, data = self.property(Pt.NV_BUFFER_MAX), self.nv_read_public(index).size, b""
        while len(data) < total:
            parameters = tpm2.encode_nv_read(min(chunk, total - len(data)), len(data))
            _handles, answer = self._call(CommandCode.NV_READ, (hierarchy, index), parameters, password=password)
            piece = tpm2.decode_nv_read(answer)
            if not piece:
                raise ProtocolError(f"NV index {index:#x} ended after {len(data)} of {total} bytes")
            data += piece
        return data

    # --- PCR banks -----------------------------------------------------------------------------------------------

    def pcr_banks(self) -> "dict[int, bool]":
        """The hash algorithms that there can be banks of, and whether there is one now."""
        _handles, parameters = self._call(CommandCode.GET_CAPABILITY, (), pcr_banks.encode_get_pcrs())
        return pcr_banks.decode_pcrs(parameters)

    def pcr_allocate(self, banks: "dict[int, bool]", password: bytes = b"") -> Allocation:
        """From the next start on, give these hash algorithms all PCRs or none; others keep theirs."""
        parameters = pcr_banks.encode_pcr_allocate(banks)
        _handles, answer = self._call(CommandCode.PCR_ALLOCATE, (Rh.PLATFORM,), parameters, password=password)
        return pcr_banks.decode_pcr_allocate(answer)
