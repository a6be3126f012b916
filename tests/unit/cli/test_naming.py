"""What a remedy calls a TPM that was named on the command line."""

import pytest

from swtpm_svc.cli.tpm_control import Target
from swtpm_svc.cli.vtpmctl import naming
from swtpm_svc.errors import NAME, TCTI, Code, VtpmError

CONFIG = '[device]\nenabled = false\n[socket]\ncontrol = "/run/x/ctrl"\ndata = "/run/x/data"\n'


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "lab.toml").write_text(CONFIG)
    return str(tmp_path)


def named(remedy: str, target: Target, *, takes_control: bool = False) -> str:
    error = VtpmError(Code.TPM_REFUSED, "x", remedy=remedy)
    naming.name(error, target, takes_control=takes_control)
    assert error.remedy is not None
    return error.remedy


@pytest.mark.parametrize("command", ["createek", "takeown", "getpubek", "ek", "identity"])
def test_what_takes_any_tpm_is_given_what_was_given(directory, command):
    for name, instance in {"lab": "lab", "/run/x/data": None, "/run/other": None, "tcp:vm:2321": None}.items():
        target = Target(name, "/run/x/data" if instance else name, instance, directory)
        assert named(f"vtpmctl {command} {NAME} --x; y", target) == f"vtpmctl {command} {name} --x; y"


@pytest.mark.parametrize("command", ["init", "reset", "power on", "load", "store-volatile"])
def test_what_takes_a_device_or_a_control_socket_is_given_one(directory, command):
    remedy = f"vtpmctl {command} {NAME}"

    def path(name: str) -> Target:
        return Target(name, name, None, directory)

    assert named(remedy, Target("lab", "/run/x/data", "lab", directory)) == f"vtpmctl {command} lab"
    assert named(remedy, path("/run/x/ctrl"), takes_control=True) == f"vtpmctl {command} /run/x/ctrl"
    assert named(remedy, path("/run/x/data")) == f"vtpmctl {command} lab"
    for unknown in ("/run/other", "tcp:vm:2321"):
        assert named(remedy, path(unknown)) == f"vtpmctl {command} {naming.UNKNOWN_DEVICE}"


def test_what_takes_an_instance_is_given_one(directory):
    remedy = f"vtpmctl rekey {NAME}; vtpmctl stop {NAME}; then: systemctl start vtpm@{NAME}"
    for path in ("/run/x/data", "/run/x/ctrl"):
        found = named(remedy, Target(path, path, None, directory), takes_control=path.endswith("ctrl"))
        assert found == "vtpmctl rekey lab; vtpmctl stop lab; then: systemctl start vtpm@lab"
    unknown = named(remedy, Target("/dev/tpm0", "/dev/tpm0", None, directory), takes_control=True)
    assert (
        unknown
        == f"vtpmctl rekey {naming.UNKNOWN_INSTANCE}; vtpmctl stop {naming.UNKNOWN_INSTANCE}; then: systemctl start vtpm@{naming.UNKNOWN_INSTANCE}"
    )


def test_a_path_is_one_word(directory):
    assert named(f"vtpmctl ek {NAME}", Target("/my tpm", "/my tpm", None, directory)) == "vtpmctl ek '/my tpm'"


def test_tpm2_tools_are_told_where_it_is(directory):
    assert named(f"tpm2_x -T {TCTI}", Target("/dev/null", "/dev/null", None, directory)) == "tpm2_x -T device:/dev/null"


def test_an_error_without_a_remedy_stays_without(directory):
    error = VtpmError(Code.USAGE, "x", remedy=None)
    naming.name(error, Target("lab", "/run/x/data", "lab", directory), takes_control=False)
    assert error.remedy is None
