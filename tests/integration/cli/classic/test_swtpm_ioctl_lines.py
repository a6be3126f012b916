"""swtpm_ioctl side by side with the distribution's, over its swtpm and over our daemon."""

import pytest
from classic_commands import commands_directory
from ioctl_lines import LIFE_OF_A_TPM
from side_by_side import Line, both, differences, emulator

pytestmark = [pytest.mark.beside_swtpm, pytest.mark.needs("swtpm")]

#: Told before anything is connected to, or of what cannot be; no TPM is needed.
WITHOUT_A_TPM = [
    Line(""),
    Line("--foo"),
    Line("--version", instead=(0, "TPM emulator control tool version 0.10.2, Copyright (c) 2015 IBM Corp.\n", "")),
    Line("--help"),
    Line("--foo --help"),
    Line("-c"),
    Line("-c -c"),
    Line("-c -i /dev/none"),
    Line("-x /dev/none"),
    Line("-ci /dev/none"),
    Line("-l2 /dev/none"),
    Line("--stop=1 /dev/none"),
    Line("-i=1 /dev/none"),
    Line("-l"),
    Line("-h"),
    Line("--tcp"),
    Line("--unix"),
    Line("--t /dev/none -c"),
    Line("-- -c"),
    Line("/dev/none -c"),
    Line("-c /dev/none"),
    Line("--tpm-device /dev/none -c"),
    Line("--tpm-device=/dev/none -c"),
    Line("-tpm-device /dev/none -c"),
    Line("--tpm /dev/none -c"),
    Line("--tpm-device /dev/none --unix none -c"),
    Line("--tcp :1 --unix none -c"),
    Line("--unix none --tcp :1 -c"),
    Line("--tpm-device '' -c"),
    Line(". -c"),
    Line("/dev/null -c"),
    Line("--unix none -c"),
    Line("--unix /dev/null -c"),
    Line("--unix " + "x" * 120 + " -c"),
    Line("--tcp :1 -c"),
    Line("--tcp ::1:1 -c"),
    Line("--tcp " + "x" * 70 + ":1 -c"),
    Line("--tcp :abc -c"),
    Line("--tcp :65536 -c"),
    Line("--tcp localhost: -c"),
    Line("--tcp :0x1 -c"),
    Line("--unix none -l 9"),
    Line("--unix none -l -1"),
    Line("--unix none -l x"),
    Line("--unix none -l ''"),
    Line("--unix none -r 5"),
    Line("--unix none -r x"),
    Line("--unix none -b x"),
    Line("--unix none --info x"),
    Line("--unix none --info 5x"),
    Line("--unix none --info 18446744073709551616"),
    Line("--unix none --save permanent"),
    Line("--unix none --save permanent -c"),
    Line("--unix none --load permanent"),
    Line("--unix none --save"),
    Line("--unix none --save permanent file -c"),
    Line("--save permanent file"),
    Line("--save permanent file /dev/none"),
]

#: How a way to it may be written.
SPELLINGS = [
    Line("--unix={control} -c"),
    Line("-unix {control} -c"),
    Line("--u {control} -c left over"),
    Line("--unix {control} -c"),
    Line("-c --unix {control}"),
]


@pytest.fixture
def ours(tmp_path):
    return str(commands_directory(tmp_path) / "swtpm_ioctl")


def test_without_a_tpm_all_is_refused_or_told_alike(tmp_path, ours):
    theirs, own = both(WITHOUT_A_TPM, tmp_path, ("/usr/bin/swtpm_ioctl", ours), ({}, {}))
    assert differences(WITHOUT_A_TPM, theirs, own) == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name.startswith("files-")]


@pytest.mark.parametrize("version", ["1.2", "2.0"])
@pytest.mark.parametrize("kind", ["swtpm", "vtpmd"])
def test_the_life_of_a_tpm_is_alike(tmp_path, ours, kind, version):
    with emulator(kind, tmp_path / "one", version) as one, emulator(kind, tmp_path / "two", version) as two:
        places = [{"control": control, "where": f"--unix {control}"} for control, _data in (one, two)]
        lines = SPELLINGS + LIFE_OF_A_TPM
        theirs, own = both(lines, tmp_path, ("/usr/bin/swtpm_ioctl", ours), places)
    assert differences(lines, theirs, own) == ""
    for name in ("permanent", "volatile", "savestate"):
        sizes = [(tmp_path / f"files-{tool}" / name).stat().st_size for tool in ("theirs", "ours")]
        assert sizes[0] == sizes[1], name
        modes = [(tmp_path / f"files-{tool}" / name).stat().st_mode & 0o777 for tool in ("theirs", "ours")]
        assert modes == [0o600, 0o600]
