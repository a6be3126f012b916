"""A program that uses a TPM 2.0 by way of tpm2-pytss; its argument is the TCTI. Run by the distribution's Python."""

import sys

from tpm2_pytss import ESAPI, TCTILdr, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPM2_SU
from tpm2_pytss.types import TPM2B_DIGEST, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TPML_PCR_SELECTION, TPMT_SYM_DEF

name, _, conf = sys.argv[1].partition(":")
with TCTILdr(name, conf) as tcti, ESAPI(tcti) as esapi:
    esapi.startup(TPM2_SU.CLEAR)
    assert esapi.get_random(16) != esapi.get_random(16)

    _counter, _selection, before = esapi.pcr_read(TPML_PCR_SELECTION.parse("sha256:16"))
    esapi.pcr_event(ESYS_TR.PCR16, b"measured")
    _counter, _selection, after = esapi.pcr_read(TPML_PCR_SELECTION.parse("sha256:16"))
    assert bytes(before[0]) != bytes(after[0])

    # a secret sealed to what is in PCR 16: a policy session opens it, and no longer once the PCR has changed
    trial = esapi.start_auth_session(
        tpm_key=ESYS_TR.NONE, bind=ESYS_TR.NONE, session_type=TPM2_SE.TRIAL,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), auth_hash=TPM2_ALG.SHA256,
    )  # fmt: skip
    esapi.policy_pcr(trial, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse("sha256:16"))
    policy = esapi.policy_get_digest(trial)
    esapi.flush_context(trial)

    parent, *_ = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "ecc")
    template = TPM2B_PUBLIC.parse("keyedhash", objectAttributes="fixedtpm|fixedparent", authPolicy=policy)
    sensitive = TPM2B_SENSITIVE_CREATE()
    sensitive.sensitive.data = b"sealed"
    private, public, *_ = esapi.create(parent, sensitive, template)
    sealed = esapi.load(parent, private, public)

    def unseal():
        session = esapi.start_auth_session(
            tpm_key=ESYS_TR.NONE, bind=ESYS_TR.NONE, session_type=TPM2_SE.POLICY,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), auth_hash=TPM2_ALG.SHA256,
        )  # fmt: skip
        try:
            esapi.policy_pcr(session, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse("sha256:16"))
            return bytes(esapi.unseal(sealed, session1=session))
        except TSS2_Exception:
            esapi.flush_context(session)
            raise

    assert unseal() == b"sealed"
    esapi.pcr_event(ESYS_TR.PCR16, b"something else")
    refusal = ""
    try:
        unseal()
    except TSS2_Exception as error:
        refusal = str(error)
    assert "policy check failed" in refusal, refusal
    esapi.flush_context(sealed)
    esapi.flush_context(parent)
