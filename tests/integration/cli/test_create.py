"""`vtpmctl create` with the real libtpms: what it has made, by the word of swtpm, tpm2-tools, tpm2-pytss, openssl and
tpm-tools.

Of two at a time both have the same CA. Killed it leaves a finished TPM or none: test_create_kills.py.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from created_host import Host, served
from socket_service import free_ports
from tcsd import Tcsd

from swtpm_svc.config import loading
from swtpm_svc.provision import ca, device_keys
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.store import Store
from swtpm_svc.wire.tpm2_public import encode_public


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def openssl(*words: object) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_made_is_in_the_tpm_and_certified(host: Host) -> None:
    """tpm2-tools read keys and certificates from swtpm on that state; openssl verifies the chain and compares the
    keys."""
    values = host.made("vm1", "--srk", "rsa2048", "--idevid", "--iak", "--platform-serial", "0815")
    (host.folder / "root.pem").write_bytes(ca.pem(ca.load(str(host.ca)).chain[-1]))
    (host.folder / "issuer.pem").write_bytes(ca.pem(ca.load(str(host.ca)).certificate))
    with served(host.state / "vm1") as tools:
        handles = tools.run("tpm2_getcap", "handles-persistent")
        assert re.findall(r"0x\w+", handles.lower()) == [
            "0x81000001",
            "0x81010001",
            "0x81010016",
            "0x81020000",
            "0x81020001",
        ]
        indices = tools.run("tpm2_nvreadpublic")
        expected = ["0x1c00002", "0x1c00016", "0x1c08000", "0x1c90000", "0x1c90100"]
        assert re.findall(r"^(0x\w+):", indices, re.MULTILINE) == expected
        # what swtpm_setup --lock-nvram has (seen in swtpm 0.7.1's)
        attributes = "ppwrite|writelocked|writedefine|ppread|ownerread|authread|no_da|written|platformcreate"
        assert re.findall(r"friendly: (ppwrite\S*)", indices) == [attributes] * 5
        for made in values["made"]:
            if made["handle"]:
                assert fingerprint(tools.public(made["handle"], "key")) == made["fingerprint"]
            if made["nv_index"]:
                assert fingerprint(tools.certificate(made["nv_index"], "certificate")) == made["certificate_sha256"]
                openssl("x509", "-inform", "der", "-in", tools.folder / "certificate", "-out", tools.folder / "pem")
                # openssl does not know the TCG's critical extensions, none of which is in these
                trust = ["-CAfile", host.folder / "root.pem", "-untrusted", host.folder / "issuer.pem"]
                openssl("verify", "-ignore_critical", *trust, tools.folder / "pem")
            if made["handle"] and made["nv_index"]:
                openssl("x509", "-in", tools.folder / "pem", "-pubkey", "-noout", "-out", tools.folder / "certified")
                openssl(
                    "pkey", "-pubin", "-in", tools.folder / "certified", "-outform", "der", "-out", tools.folder / "der"
                )
                assert fingerprint((tools.folder / "der").read_bytes()) == made["fingerprint"]
        for index in ("0x1c00002", "0x1c08000"):
            (tools.folder / "other").write_bytes(b"other")
            for hierarchy in ("p", "o"):
                tools.run("tpm2_nvwrite", index, "-C", hierarchy, "-i", "other", fails=True)
        banks = tools.run("tpm2_getcap", "pcrs")
        assert {name: bool(pcrs.strip()) for name, pcrs in re.findall(r"- (\w+): \[(.*?)\]", banks)} == {
            "sha1": False,
            "sha256": True,
            "sha384": True,
            "sha512": False,
        }
        # both from the default template, by another's hand: tpm2_getekcertificate and tpm2_createek have their own
        tools.run("tpm2_getekcertificate", "-o", "rsa.der", "-o", "ecc.der")
        assert fingerprint((tools.folder / "rsa.der").read_bytes()) == values["made"][0]["certificate_sha256"]
        tools.run("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-f", "der", "-u", "ek.der")
        assert fingerprint((tools.folder / "ek.der").read_bytes()) == values["made"][0]["fingerprint"]


@pytest.mark.needs("tpm2-pytss")
def test_tpm2_pytss_makes_the_same_keys(host: Host) -> None:
    """From its own templates, those of the TCG's profile: the keys that the certificates name."""
    made = {one["handle"]: one for one in host.made("vm1")["made"]}
    kinds = {"EK-RSA2048": "0x81010001", "EK-HIGH-ECC384": "0x81010016"}
    program = str(Path(__file__).with_name("pytss_endorsement_key.py"))
    with served(host.state / "vm1") as tools:
        told = tools.run("/usr/bin/python3", program, tools.tcti, *kinds)
    expected = [
        f"{kind} {made[handle]['fingerprint']} {made[handle]['certificate_sha256']}" for kind, handle in kinds.items()
    ]
    assert [line for line in told.splitlines() if line.startswith("EK-")] == expected  # else what it looked for in vain


@pytest.mark.parametrize(("name", "key"), [("IDevID", device_keys.IDEVID), ("IAK", device_keys.IAK)])
def test_identity_keys_are_of_their_template_and_sign(host: Host, name: str, key: device_keys.DeviceKey) -> None:
    host.made("vm1", "--idevid", "--iak")
    with served(host.state / "vm1") as tools:
        tools.run("tpm2_readpublic", "-c", hex(key.handle), "-f", "tss", "-o", "public")
        found = (tools.folder / "public").read_bytes()[2:]
        fixed = len(encode_public(key.template)) - 2 * (2 + len(name))  # without x and y
        assert found[:fixed] == encode_public(key.template)[:fixed]
        (tools.folder / "message").write_bytes(b"who am I")
        if name == "IDevID":
            tools.run("tpm2_sign", "-c", hex(key.handle), "-g", "sha384", "-f", "plain", "-o", "signature", "message")
            tools.run("tpm2_readpublic", "-c", hex(key.handle), "-f", "pem", "-o", "pem")
            openssl(
                "dgst",
                "-sha384",
                "-verify",
                tools.folder / "pem",
                "-signature",
                tools.folder / "signature",
                tools.folder / "message",
            )
        else:
            # a digest that the TPM has not made itself
            (tools.folder / "digest").write_bytes(hashlib.sha384(b"who am I").digest())
            tools.run("tpm2_sign", "-c", hex(key.handle), "-g", "sha384", "-d", "-o", "signature", "digest", fails=True)
            tools.run(
                "tpm2_quote", "-c", hex(key.handle), "-l", "sha256:0", "-g", "sha384", "-m", "quote", "-s", "signature"
            )


def test_the_policies_of_the_identity_keys() -> None:
    """TCG Keys for Device Identity and Attestation, 7.3.6: computed as a TPM would extend them (Part 3, policy
    commands)."""

    def extended(policy: bytes, command: int, data: bytes) -> bytes:
        return hashlib.sha384(policy + command.to_bytes(4, "big") + data).digest()

    def secret(policy: bytes) -> bytes:  # PolicySecret(TPM_RH_ENDORSEMENT) without a policyRef
        return hashlib.sha384(extended(policy, 0x151, bytes.fromhex("4000000B"))).digest()

    def on(code: int) -> bytes:  # and PolicyCommandCode
        return extended(secret(bytes(48)), 0x16C, code.to_bytes(4, "big"))

    def authorized(
        index: int,
    ) -> bytes:  # PolicyAuthorizeNV of an index that was written, with the profile's attributes
        public = (
            index.to_bytes(4, "big")
            + bytes.fromhex("000C 220F1008".replace(" ", ""))
            + b"\0\x30"
            + secret(bytes(48))
            + b"\0\x32"
        )
        name = bytes.fromhex("000C") + hashlib.sha384(public).digest()
        return extended(bytes(48), 0x192, name)

    for key, index in ((device_keys.IDEVID, 0x01C90011), (device_keys.IAK, 0x01C90019)):
        branches = [secret(bytes(48)), on(0x148), on(0x147), authorized(index)]
        assert extended(bytes(48), 0x171, b"".join(branches)) == key.template.policy


@pytest.mark.parametrize("keys", ["ecc-p256", "rsa3072,ecc-p521"])
def test_other_keys_and_banks(host: Host, keys: str) -> None:
    values = host.made("vm1", "--ek", keys, "--pcr-banks", "sha512", "--srk", "ecc-p256")
    with served(host.state / "vm1") as tools:
        for name in keys.split(","):
            key = ENDORSEMENT_KEYS[name]
            made = next(one for one in values["made"] if one["handle"] == hex(key.handle))
            assert fingerprint(tools.public(hex(key.handle), "key")) == made["fingerprint"]
            assert fingerprint(tools.certificate(hex(key.certificate_index), "der")) == made["certificate_sha256"]
        assert re.search(r"sha512: \[ 0, .*23 \]", tools.run("tpm2_getcap", "pcrs"))


def test_without_certificates_there_is_no_ca(host: Host) -> None:
    values = host.made("vm1", "--no-certificates")
    assert [one["nv_index"] for one in values["made"]] == [None, None]
    assert not host.ca.exists()


def test_the_state_is_encrypted_from_its_first_byte(host: Host) -> None:
    key = host.folder / "key"
    key.write_text("0f" * 32)
    key.chmod(0o600)
    host.made("vm1", "--key-file", key)
    assert loading.load(str(host.config / "vm1.toml"), "vm1").state.key_file == str(key)
    with Store.open(str(host.state / "vm1"), "2.0", StateKey(bytes([15]) * 32)) as store:
        assert store.load("permall")
    with served(host.state / "vm1", "--key", f"file={key},mode=aes-256-cbc") as tools:
        tools.run("tpm2_readpublic", "-c", "0x81010001")


@pytest.mark.needs("swtpm")
@pytest.mark.parametrize(
    ("option", "content", "words", "theirs"),
    [
        ("--key-file", bytes(range(16)), ("--key-format", "binary"), "file={},format=binary,mode=aes-cbc"),
        ("--key-file", b"0f" * 32, ("--key-mode", "aes-256-cbc"), "file={},format=hex,mode=aes-256-cbc"),
        ("--passphrase-file", b"correct horse", ("--key-format", "sha512"), "pwdfile={},kdf=sha512,mode=aes-cbc"),
        (
            "--passphrase-file",
            b"correct horse",
            ("--key-format", "pbkdf2", "--key-mode", "aes-256-cbc"),
            "pwdfile={},kdf=pbkdf2,mode=aes-256-cbc",
        ),
    ],
    ids=["binary", "hex", "sha512", "pbkdf2"],
)
def test_every_cipher_and_derivation_can_be_chosen(
    host: Host, option: str, content: bytes, words: "tuple[str, ...]", theirs: str
) -> None:
    """And swtpm, told the same in its own words, reads the state."""
    key = host.folder / "key"
    key.write_bytes(content)
    key.chmod(0o600)
    host.made("vm1", option, key, *words, "--no-certificates")
    chosen = loading.load(str(host.config / "vm1.toml"), "vm1").state
    assert {chosen.key_format, chosen.key_mode} == {"auto", *words[1::2]} - ({"auto"} if len(words) == 4 else set())
    with served(host.state / "vm1", "--key", theirs.format(key)) as tools:
        tools.run("tpm2_readpublic", "-c", "0x81010001")


def _listens(port: int) -> bool:
    """Looked up and not tried: swtpm serves one connection, and ends with it."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(
            line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in file.readlines()[1:]
        )


@pytest.mark.needs("root")
def test_a_tpm_1_2_is_certified_owned_and_locked(host: Host) -> None:
    """By tpm-tools on the distribution's swtpm."""
    (host.folder / "owner").write_text("ownerpass")
    (host.folder / "srk").write_text("srkpass")
    passwords = ("--owner-password-file", host.folder / "owner", "--srk-password-file", host.folder / "srk")
    values = host.made("vm1", "--tpm-version", "1.2", *passwords)
    assert [one["nv_index"] for one in values["made"]] == ["0x1000f000", "0x1000f002", None]
    port = free_ports()
    words = ["swtpm", "socket", "--tpmstate", f"dir={host.state / 'vm1'}", "--server", f"type=tcp,port={port}"]
    process = subprocess.Popen(
        [*words, "--ctrl", f"type=tcp,port={port + 1}", "--flags", "startup-clear"], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not _listens(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        with tempfile.TemporaryDirectory(prefix="tcsd-", dir="/tmp") as folder:
            daemon = Tcsd(folder, free_ports(), port)
            try:
                info = daemon.run("tpm_nvinfo")
                assert re.findall(r"NVRAM index\s*: (0x\w+)", info) == ["0x1000f000", "0x1000f002"]
                assert (
                    re.findall(r"Permissions\s*: (.*)", info) == ["0x00020002 (OWNERREAD|OWNERWRITE)"] * 2
                )  # as swtpm_setup
                size = re.findall(r"Size\s*: (\d+)", info)[0]
                read = ["tpm_nvread", "-i", "0x1000f000", "-s", size, "-f", f"{folder}/stored"]
                with pytest.raises(AssertionError):  # locked: it has to be the owner
                    daemon.run(*read, "-pownerpasS")
                daemon.run(*read, "-pownerpass")
                stored = Path(f"{folder}/stored").read_bytes()
                assert stored[:3] + stored[5:7] == bytes.fromhex("100100 1002")
                assert int.from_bytes(stored[3:5], "big") == len(stored) - 5
                assert fingerprint(stored[7:]) == values["made"][0]["certificate_sha256"]
                (host.folder / "der").write_bytes(stored[7:])
                openssl(
                    "x509",
                    "-inform",
                    "der",
                    "-in",
                    host.folder / "der",
                    "-pubkey",
                    "-noout",
                    "-out",
                    host.folder / "pem",
                )
                openssl("pkey", "-pubin", "-in", host.folder / "pem", "-outform", "der", "-out", host.folder / "key")
                assert fingerprint((host.folder / "key").read_bytes()) == values["made"][0]["fingerprint"]
            finally:
                daemon.close()
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.needs("root")
def test_the_state_is_the_services() -> None:
    """Also where the directory above is the service's own, in which root follows no links of others."""
    with tempfile.TemporaryDirectory(prefix="vtpm-create-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        _check_owners(Host(Path(folder)))


def _check_owners(host: Host) -> None:
    for owner, name in ((0, "vm1"), (65534, "vm2")):
        os.chown(host.state, owner, owner)
        host.made(name, "--no-certificates", user="nobody")
        for path in (host.state / name, host.state / name / "tpm2-00.permall"):
            assert path.stat().st_uid == 65534
            assert path.stat().st_mode & 0o077 == 0
        assert (host.config / f"{name}.toml").stat().st_uid == 0
        assert (host.config / f"{name}.toml").stat().st_mode & 0o777 == 0o644


def test_two_at_the_same_moment_make_one_ca(host: Host) -> None:
    processes = [
        subprocess.Popen(host.command("create", f"vm{number}", "--json"), stdout=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len([path for path in host.tree() if path.endswith("root-key.pem")]) == 1
    (host.folder / "root.pem").write_bytes(ca.pem(ca.load(str(host.ca)).chain[-1]))
    (host.folder / "issuer.pem").write_bytes(ca.pem(ca.load(str(host.ca)).certificate))
    for number in range(2):
        with served(host.state / f"vm{number}") as tools:
            tools.certificate("0x1c00016", "der")
            openssl("x509", "-inform", "der", "-in", tools.folder / "der", "-out", tools.folder / "pem")
            trust = ["-CAfile", host.folder / "root.pem", "-untrusted", host.folder / "issuer.pem"]
            openssl("verify", "-ignore_critical", *trust, tools.folder / "pem")


def test_of_two_with_the_same_name_one_is_made(host: Host) -> None:
    words = host.command("create", "vm1", "--no-certificates", "--json")
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 73]
    winner = next(json.loads(text) for process, text in zip(processes, outputs) if process.returncode == 0)
    with served(host.state / "vm1") as tools:
        assert fingerprint(tools.public("0x81010001", "key")) == winner["made"][0]["fingerprint"]
