"""Endorsement keys as tpm2-pytss makes them, and their certificates. Run by the distribution's Python: TCTI TYPE..."""

import sys
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_der_x509_certificate
from tpm2_pytss import ESAPI, TCTILdr
from tpm2_pytss.constants import ESYS_TR
from tpm2_pytss.types import TPM2B_SENSITIVE_CREATE
from tpm2_pytss.utils import NVReadEK, create_ek_template

name, _, conf = sys.argv[1].partition(":")
with TCTILdr(name, conf) as tcti, ESAPI(tcti) as esapi:
    for kind in sys.argv[2:]:
        certificate, template = create_ek_template(kind, NVReadEK(esapi))
        handle, public, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
        esapi.flush_context(handle)
        certified = load_der_x509_certificate(bytes(certificate)).public_key()
        assert public.to_der() == certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), kind
        print(kind, sha256(public.to_der()).hexdigest(), sha256(bytes(certificate)).hexdigest())
