"""swtpm_ioctl and swtpm_bios by TCP, side by side with the distribution's, over its swtpm."""

import subprocess
import time
from contextlib import contextmanager

import pytest
from bios_lines import FOR_BOTH_VERSIONS
from classic_commands import commands_directory
from ioctl_lines import LIFE_OF_A_TPM
from side_by_side import Line, both, differences
from socket_service import free_ports

pytestmark = [pytest.mark.beside_swtpm, pytest.mark.needs("swtpm")]

BY_ENVIRONMENT = [
    Line("!{control} -i"),
    Line("--tpm2", environment=(("TCSD_USE_TCP_DEVICE", ""), ("TCSD_TCP_DEVICE_PORT", "{port}"))),
    Line(
        "--tpm2",
        environment=(
            ("TCSD_USE_TCP_DEVICE", "1"),
            ("TCSD_TCP_DEVICE_HOSTNAME", "127.0.0.1"),
            ("TCSD_TCP_DEVICE_PORT", "{port}"),
            ("TPM_DEVICE", "/dev/none"),
        ),
    ),
]


@contextmanager
def by_tcp(directory):
    """A new TPM 2.0 without power: the words that name its channels."""
    directory.mkdir()
    control = free_ports()
    data = control + 1
    channels = ["--ctrl", f"type=tcp,port={control}", "--server", f"type=tcp,port={data},disconnect"]
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", *channels]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while subprocess.run(["swtpm_ioctl", "--tcp", f":{control}", "-c"], capture_output=True).returncode:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield {
            "control": f"--tcp :{control}",
            "data": f"--tcp localhost:{data}",
            "port": str(data),
            "version": "--tpm2",
        }
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("tool", "lines", "channel"),
    [
        ("swtpm_ioctl", LIFE_OF_A_TPM, "control"),
        ("swtpm_bios", FOR_BOTH_VERSIONS + BY_ENVIRONMENT, "data"),
    ],
)
def test_all_is_alike(tmp_path, tool, lines, channel):
    tools = (f"/usr/bin/{tool}", str(commands_directory(tmp_path) / tool))
    with by_tcp(tmp_path / "one") as one, by_tcp(tmp_path / "two") as two:
        theirs, ours = both(lines, tmp_path, tools, [{**place, "where": place[channel]} for place in (one, two)])
    assert differences(lines, theirs, ours) == ""
