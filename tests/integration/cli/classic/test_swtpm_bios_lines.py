"""swtpm_bios side by side with the distribution's, over its swtpm and over our daemon."""

import pytest
from bios_lines import FOR_BOTH_VERSIONS, FOR_TPM_1_2, FOR_TPM_2
from classic_commands import commands_directory
from side_by_side import Line, both, differences, emulator

pytestmark = [pytest.mark.beside_swtpm, pytest.mark.needs("swtpm")]

BY_TCP = (("TCSD_USE_TCP_DEVICE", "1"), ("TCSD_TCP_DEVICE_HOSTNAME", "127.0.0.1"), ("TCSD_TCP_DEVICE_PORT", "1"))

WITHOUT_A_TPM = [
    Line("-h"),
    Line("-v"),
    Line("--help"),
    Line("--version"),
    Line("-x"),
    Line("--foo"),
    Line("-t"),
    Line("-tp /dev/none"),
    Line("-c=3"),
    Line("-ea=1"),
    Line("--tpm-device"),
    Line("--tcp"),
    Line("--unix"),
    Line("--foo -h"),
    Line("--tpm-device /dev/none"),
    Line("-tpm-device /dev/none"),
    Line("--tpm-device=/dev/none left over"),
    Line("--tpm-device /dev/none --tcp :1"),
    Line("--tcp :1 --tpm-device /dev/none"),
    Line("--unix none --tcp :1"),
    Line("--tpm-device /dev/null"),
    Line("--tpm-device /dev/zero --tpm2"),
    Line("--unix none"),
    Line("--unix " + "x" * 120),
    Line("--tcp :1"),
    Line("--tcp :x"),
    Line("--tcp :99999"),
    Line("--tcp localhost:"),
    Line("--tcp " + "x" * 70 + ":1"),
    Line("-n -o --unix none"),
    Line("-n --tpm2 --unix none"),
    Line("-d --tpm2 --unix none"),
    Line("-o -n -c --tpm2 --unix none"),
    Line("-tpm2 --unix none"),
    Line("-e --unix none"),
    Line("", environment=(("TPM_DEVICE", "/dev/none"),)),
    Line("--unix none", environment=(("TPM_DEVICE", "/dev/none"),)),
    Line("", environment=(("TCSD_USE_TCP_DEVICE", ""), ("TCSD_TCP_DEVICE_PORT", "1"), ("TPM_DEVICE", "/dev/none"))),
    Line("--tpm-device /dev/none", environment=BY_TCP),
    Line("", environment=BY_TCP),
]


@pytest.fixture
def tools(tmp_path):
    return "/usr/bin/swtpm_bios", str(commands_directory(tmp_path) / "swtpm_bios")


def test_without_a_tpm_all_is_refused_or_told_alike(tmp_path, tools):
    theirs, own = both(WITHOUT_A_TPM, tmp_path, tools, ({}, {}))
    assert differences(WITHOUT_A_TPM, theirs, own) == ""


@pytest.mark.parametrize("version", ["1.2", "2.0"])
@pytest.mark.parametrize("kind", ["swtpm", "vtpmd"])
def test_the_life_of_a_tpm_is_alike(tmp_path, tools, kind, version):
    option = "--tpm2" if version == "2.0" else "-c"
    with emulator(kind, tmp_path / "one", version) as one, emulator(kind, tmp_path / "two", version) as two:
        places = [
            {"control": f"--unix {control}", "where": f"--unix {data}", "version": option, "data": data}
            for control, data in (one, two)
        ]
        lines = [Line("{version} --unix={data}"), Line("{version} -unix {data} -n"), *FOR_BOTH_VERSIONS]
        lines += FOR_TPM_2 if version == "2.0" else FOR_TPM_1_2
        theirs, own = both(lines, tmp_path, tools, places)
    assert differences(lines, theirs, own) == ""
    statuses = {status for line, (status, *_told) in zip(lines, own) if not line.words.startswith("?")}
    assert statuses == ({0, 128} if version == "2.0" else {0, 128, 129})
