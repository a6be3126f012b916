"""[provision]: the first start of an instance makes its TPM (vtpm-attach, without systemd)."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from created_host import Host, Tools
from daemon_process import DaemonProcess


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


ATTACH = (
    "import sys; from swtpm_svc.config import loading; from swtpm_svc.service import attach; "
    "from swtpm_svc.service.systemd.journal import Journal; from swtpm_svc.service.systemd.notify import Notifier; "
    "journal = Journal('lab', '2.0', 'info', to_stderr=False); "
    "attach.USER = 'root'; attach.start(loading.load(sys.argv[1], 'lab'), Notifier(), journal)"
)


def attach(daemon: DaemonProcess, notify: str = "") -> "subprocess.CompletedProcess[str]":
    """What ExecStartPre= does, without systemd."""
    words = [sys.executable, "-c", ATTACH, daemon.config]
    environment = {**os.environ, **({"NOTIFY_SOCKET": notify} if notify else {})}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_first_start_makes_what_is_configured(host: Host) -> None:
    more = f'[provision]\nenabled = true\nca = "{host.ca}"\nidevid = true\nstorage-key = "ecc-p256"\npcr-banks = "sha384"\n'
    daemon = DaemonProcess(host.folder, more=more)
    daemon.spawn()
    assert daemon.process.wait(60) == 66  # RestartPreventExitStatus= has it
    assert "the TPM that [provision] describes was not made" in daemon.log()
    assert os.listdir(daemon.state) == [".lock"]

    messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    messages.bind(f"{host.folder}/notify")
    messages.settimeout(10)
    done = attach(daemon, f"{host.folder}/notify")
    assert done.returncode == 0, done.stderr
    assert "EXTEND_TIMEOUT_USEC=120000000" in messages.recv(4096).decode()
    assert "STATUS=Making a new TPM 2.0" in messages.recv(4096).decode()
    messages.close()
    assert sorted(os.listdir(daemon.state)) == [".lock", "tpm2-00.permall"]
    daemon.start()
    try:
        tools = Tools(daemon.data, host.folder)
        handles = tools.run("tpm2_getcap", "handles-persistent").lower()
        assert re.findall(r"0x\w+", handles) == ["0x81000001", "0x81010001", "0x81010016", "0x81020000"]
        assert tools.certificate("0x1c90000", "der")
        assert re.search(r"sha256: \[ \]\s+- sha384: \[ 0,", tools.run("tpm2_getcap", "pcrs"))
        before = tools.public("0x81010001", "key")
        words = host.command("identity", "lab", "--ca", host.ca, "--json")
        words[3] = str(host.folder)  # where the daemon's configuration is
        identity = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert identity.returncode == 0, identity.stderr
        shown = {
            one["role"]: (one["key"]["stored_at"], one["local_ca"])
            for one in json.loads(identity.stdout)["certificates"]
        }
        assert shown == {
            "EK rsa2048": ("0x81010001", True),
            "EK ecc-p384": ("0x81010016", True),
            "platform": ("0x81010001", True),
            "IDevID": ("0x81020000", True),
        }
        daemon.stop()
        assert attach(daemon).returncode == 0  # a second start: there is a state, and it stays
        daemon.start()
        assert tools.public("0x81010001", "key") == before
    finally:
        daemon.stop()


@pytest.mark.needs("root")
def test_a_first_start_fills_a_file_system_of_its_own(host: Host) -> None:
    daemon = DaemonProcess(
        host.folder, more="[provision]\nenabled = true\ncertificates = false\nendorsement-keys = 'ecc-p256'\n"
    )
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", daemon.state], check=True)
    try:
        os.mkdir(f"{daemon.state}/lost+found", 0o700)
        said = attach(daemon).stderr
        assert "a new TPM 2.0 was made, with EK NIST P-256" in said
        assert sorted(os.listdir(daemon.state)) == [".lock", "lost+found", "tpm2-00.permall"]
        assert attach(daemon).stderr == "", "there is a TPM"
        daemon.start()
    finally:
        daemon.stop()
        subprocess.run(["umount", daemon.state], check=True)


def test_a_first_start_that_fails_leaves_no_state(host: Host) -> None:
    host.ca.write_text("no directory")
    daemon = DaemonProcess(host.folder, more=f'[provision]\nenabled = true\nca = "{host.ca}"\n')
    done = attach(daemon)
    assert done.returncode != 0
    assert f"{host.ca}" in done.stderr.splitlines()[-1]
    assert os.listdir(daemon.state) == []
