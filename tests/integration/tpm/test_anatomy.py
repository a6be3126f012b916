"""Commands and responses taken apart, where libtpms is the judge: what it takes and gives fits the tables to the byte."""

import subprocess

import pytest
from socket_service import SocketService, free_ports
from tpm_in_process import tpm_in_process

from swtpm_svc.provision.manufacture import Order, manufacture_1_2, manufacture_2_0
from swtpm_svc.provision.ownership import connect
from swtpm_svc.wire import anatomy, command_codes, command_shapes

h = bytes.fromhex
#: TPM2_GetCapability(TPM_CAP_COMMANDS, first, 254), and where the list of TPMA_CC (Part 2, section 8.9) begins.
GET_COMMANDS, LIST = h("8001 00000016 0000017a 00000002 00000000 000000fe"), 19


class Issuer:
    """Certificates of any bytes; a TPM looks at none."""

    def _certificate(self, *_about):
        return bytes(700)

    endorsement = platform = identity = attestation = _certificate


def misfits(command, response):
    """What is left over, or missing, when both are taken apart; a refused command need not fit."""
    asked = anatomy.read_command(command)
    answered = anatomy.read_response(response, asked)
    parts = [*answered.parts, *(asked.parts if answered.code == 0 else ())]
    return [(asked.name, part.text) for part in parts if part.kind == "rest"]


def test_the_handles_are_those_of_libtpms():
    with tpm_in_process("2.0") as execute:
        listed = execute(GET_COMMANDS)[LIST:]
    words = [int.from_bytes(listed[at : at + 4], "big") for at in range(0, len(listed), 4)]
    found = {word & 0xFFFF: (word >> 25 & 7, word >> 28 & 1) for word in words if not word >> 29 & 1}
    assert len(found) > 100
    shapes = {code: command_shapes.shape(code) for code in found}
    assert [command_codes.name("2.0", code) for code, shape in shapes.items() if shape is None] == []
    assert {code: (len(one.command.handles), len(one.response.handles)) for code, one in shapes.items()} == found


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_what_a_manufacturer_sends_fits(version):
    exchanged = []
    with tpm_in_process(version) as execute:

        def tell(command):
            exchanged.append((command, execute(command)))
            return exchanged[-1][1]

        if version == "2.0":
            order = Order(("rsa2048", "ecc-p384"), ("sha256",), "ecc-p256", True, True)
            manufacture_2_0(connect(tell), order, Issuer())
        else:
            manufacture_1_2(connect(tell), Issuer(), owner=bytes(20))
    assert len(exchanged) > 10
    assert [found for pair in exchanged for found in misfits(*pair)] == []


#: A day of tpm2-tools: keys, policies, sealing, quotes, NV, HMACs, contexts, random numbers.
TOOLS = """
tpm2_startup -c
tpm2_selftest -f
tpm2_getcap properties-fixed
tpm2_getcap ecc-curves
tpm2_testparms rsa2048
tpm2_readclock
tpm2_gettestresult
tpm2_pcrevent 8 data
tpm2_pcrreset 16
tpm2_pcrread
tpm2_createprimary -C o -G ecc -c primary
tpm2_create -C primary -G rsa2048 -u key.pub -r key.priv -p secret
tpm2_load -C primary -u key.pub -r key.priv -c key
tpm2_readpublic -c key
tpm2_sign -c key -p secret -g sha256 -o sig data
tpm2_verifysignature -c key -g sha256 -m data -s sig
tpm2_quote -c key -p secret -l sha256:0,1,16 -q 0011 -m quote -s quotesig
tpm2_certify -c key -C key -p secret -P secret -g sha256 -o cert -s certsig
tpm2_changeauth -C primary -c key -p secret -r newpriv other
tpm2_startauthsession -S session --policy-session
tpm2_policypcr -S session -l sha256:16 -L policy
tpm2_policylocality -S session zero
tpm2_policycommandcode -S session TPM2_CC_Unseal
tpm2_policysecret -S session -c o
tpm2_policyauthvalue -S session
tpm2_flushcontext session
tpm2_create -C primary -i data -L policy -u seal.pub -r seal.priv
tpm2_load -C primary -u seal.pub -r seal.priv -c seal
tpm2_unseal -c seal -p pcr:sha256:16
tpm2_nvdefine 0x1500016 -C o -s 32 -a ownerread|ownerwrite|authread|authwrite -p pass
tpm2_nvwrite 0x1500016 -C o -i data
tpm2_nvread 0x1500016 -C o
tpm2_nvreadpublic 0x1500016
tpm2_nvundefine 0x1500016 -C o
tpm2_nvdefine 0x1500017 -C o -a nt=counter|ownerread|ownerwrite
tpm2_nvincrement 0x1500017 -C o
tpm2_nvdefine 0x1500018 -C o -a nt=bits|ownerread|ownerwrite
tpm2_nvsetbits 0x1500018 -C o -i 5
tpm2_nvdefine 0x1500019 -C o -a nt=extend|ownerread|ownerwrite
tpm2_nvextend 0x1500019 -C o -i data
tpm2_hash -C o -g sha256 data -o digest -t ticket
tpm2_create -C primary -G hmac -c hmackey
tpm2_hmac -c hmackey data
tpm2_createprimary -C o -G rsa2048:aes128cfb -c second
tpm2_create -C primary -G aes -c aes
tpm2_encryptdecrypt -c aes -o encrypted data
tpm2_create -C primary -G rsa2048 -a decrypt|userwithauth|sensitivedataorigin|fixedtpm|fixedparent -c decrypter
tpm2_rsaencrypt -c decrypter -o ciphertext data
tpm2_rsadecrypt -c decrypter -o plain ciphertext
tpm2_createek -G ecc -c ek -u ek.pub
tpm2_createak -C ek -c ak -G ecc -g sha256 -s ecdsa -u ak.pub -f pem -n ak.name
tpm2_evictcontrol -C o -c primary 0x81000001
tpm2_getrandom 8
tpm2_stirrandom data
tpm2_dictionarylockout -s -n 5 -t 6 -l 7
tpm2_dictionarylockout -c
tpm2_clearcontrol -C p s
tpm2_clearcontrol -C p c
tpm2_setclock 100000000
tpm2_changeauth -c o new
tpm2_changeauth -c o -p new
tpm2_hierarchycontrol -C p shEnable clear
tpm2_clear
tpm2_shutdown -c
"""


@pytest.mark.needs("tpm2-tools")
def test_what_tpm2_tools_send_fits(tmp_path, monkeypatch):
    """Also the commands that the TPM refuses are taken apart; most are done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(bytes(32))
    port = free_ports()
    service = SocketService(str(tmp_path / "lab"), mssim=port)
    service.call(lambda: setattr(service.dispatcher, "trace", True))
    failed = []
    try:
        for line in TOOLS.strip().splitlines():
            for words in (line.split(), ["tpm2_flushcontext", "-t"]):
                command = [*words, "-T", f"mssim:host=127.0.0.1,port={port}"]
                done = subprocess.run(command, capture_output=True, timeout=60, check=False)
                if done.returncode:
                    failed.append((*words, done.stderr))
    finally:
        service.close()
    exchanged = service.events.executions
    assert failed == []
    names = {anatomy.read_command(command).name for command, _response in exchanged}
    assert len(names) > 50, sorted(names)
    assert [found for pair in exchanged for found in misfits(*pair)] == []
