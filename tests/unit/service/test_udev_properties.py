"""vtpm-udev-properties: what udev is told about a device, and that nothing else can get into it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config import loading
from swtpm_svc.service.kernel_tpm import kernel_tpm_record
from swtpm_svc.service.kernel_tpm.kernel_tpm_record import KernelTpmRecord
from swtpm_svc.service.systemd import udev_properties

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def accounts(monkeypatch):
    """Of a directory: any name, but "missing" and those that begin with a space."""

    def number(name: str) -> int:
        if name == "missing" or name.startswith(" "):
            raise KeyError(name)
        return {"root": 0, "vtpm": 998}.get(name, 1000660000)

    monkeypatch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_uid=number(name)))
    monkeypatch.setattr("grp.getgrnam", lambda name: SimpleNamespace(gr_gid=number(name)))


def answer(device: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> "tuple[int, str]":
    status = udev_properties.main([device], str(directory))
    return status, capsys.readouterr().out


def test_the_defaults_of_an_empty_file(tmp_path, capsys):
    (tmp_path / "vtpm0.toml").touch()
    assert answer("vtpm0", tmp_path, capsys) == (
        0,
        "VTPM_INSTANCE=vtpm0\nVTPM_OWNER=0\nVTPM_GROUP=998\nVTPM_MODE=0660\n",
    )


def test_the_device_is_found_by_the_name_in_the_file(tmp_path, capsys):
    (tmp_path / "a.toml").write_text('[device]\nname = "vtpm5"\nowner = "alice"\ngroup = "4711"\nmode = "600"\n')
    (tmp_path / "b.toml").write_text('[device]\nname = "vtpm6"\n')
    assert answer("vtpm5", tmp_path, capsys) == (
        0,
        "VTPM_INSTANCE=a\nVTPM_OWNER=1000660000\nVTPM_GROUP=4711\nVTPM_MODE=0600\n",
    )
    assert answer("a", tmp_path, capsys) == (1, "")


def test_of_two_files_the_one_with_the_devices_own_name_wins(tmp_path, capsys):
    (tmp_path / "a.toml").write_text('[device]\nname = "vtpm0"\ngroup = "1"\n')
    (tmp_path / "vtpm0.toml").write_text('[device]\ngroup = "2"\n')
    assert "VTPM_GROUP=2\n" in answer("vtpm0", tmp_path, capsys)[1]


@pytest.mark.parametrize(
    "text",
    [
        '[device]\nowner = "root\\nENV{X}=1"\n',
        '[device]\ngroup = ":"\n',
        '[device]\nmode = "0660\\n"\n',
        '[device]\nmode = "6777"\n',
        "[device\n",
        "\ud800",
    ],
)
def test_a_wrong_file_names_no_device(tmp_path, capsys, text):
    (tmp_path / "vtpm0.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert answer("vtpm0", tmp_path, capsys) == (1, "")


@pytest.mark.parametrize("name", ["domain users", "CORP\\admins", "$(reboot)", "x %k", "équipe"])
def test_a_name_reaches_udev_as_a_number(tmp_path, capsys, name):
    (tmp_path / "vtpm0.toml").write_text(f"[device]\nowner = '{name}'\ngroup = '{name}'\n", encoding="utf-8")
    expected = "VTPM_INSTANCE=vtpm0\nVTPM_OWNER=1000660000\nVTPM_GROUP=1000660000\nVTPM_MODE=0660\n"
    assert answer("vtpm0", tmp_path, capsys) == (0, expected)


def test_an_account_that_does_not_exist_is_left_out_and_told(tmp_path, capsys):
    (tmp_path / "vtpm0.toml").write_text('[device]\ngroup = "missing"\n')
    assert udev_properties.main(["vtpm0"], str(tmp_path)) == 0
    printed = capsys.readouterr()
    assert printed.out == "VTPM_INSTANCE=vtpm0\nVTPM_OWNER=0\nVTPM_MODE=0660\n"
    assert printed.err == f"{tmp_path}/vtpm0.toml: there is no group missing\n"


@given(owner=st.text(max_size=12), group=st.text(max_size=12), mode=st.text(max_size=6))
def test_no_value_leaves_its_line(tmp_path_factory, owner, group, mode):
    directory = tmp_path_factory.mktemp("config")
    quoted = ["".join(f"\\U{ord(char):08x}" for char in text) for text in (owner, group, mode)]
    (directory / "vtpm0.toml").write_text('[device]\nowner = "{}"\ngroup = "{}"\nmode = "{}"\n'.format(*quoted))
    found = udev_properties.find("vtpm0", str(directory))
    if found is not None:
        for line in udev_properties.properties(found).splitlines():
            assert re.fullmatch(r"VTPM_INSTANCE=vtpm0|VTPM_(OWNER|GROUP|MODE)=[0-9]+", line, re.ASCII)


@pytest.mark.parametrize("name", ["", "..", "../vtpm0", "a/b", "x" * 300, "vtpm0\n"])
def test_other_kernel_names_name_nothing(tmp_path, capsys, name):
    (tmp_path / "vtpm0.toml").touch()
    assert answer(name, tmp_path, capsys) == (1, "")


def test_no_directory_is_no_answer(tmp_path, capsys):
    assert answer("vtpm0", tmp_path / "none", capsys) == (1, "")


def test_it_wants_one_argument(capsys):
    assert udev_properties.main([]) == 64
    assert udev_properties.main(["a", "b"]) == 64
    assert udev_properties.main(["--kernel-tpm", "a", "b"]) == 64
    assert capsys.readouterr().out == ""


def test_as_a_program_it_imports_nothing_slow():
    slow = {"argparse", "logging", "subprocess", "pathlib", "json", "asyncio", "socket", "difflib"}
    code = (  # what the interpreter's own start has imported (.pth files) is not ours
        "import sys; before = set(sys.modules); from swtpm_svc.service.systemd import udev_properties; "
        f"print(sorted({slow} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_default_directory_is_the_configurations():
    assert udev_properties.main.__defaults__ == (loading.CONFIG_DIRECTORY,)


# --- TPMs of the kernel ----------------------------------------------------------------------------------------------


def noted(run, instance, number, version="2.0"):
    (run / instance).mkdir(exist_ok=True)
    kernel_tpm_record.write(instance, KernelTpmRecord(number, version), str(run))


@pytest.fixture
def runtime(tmp_path):
    noted(tmp_path, "vtpm0", 3)
    noted(tmp_path, "vtpm1", 12)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("tpm3", "vtpm0"),
        ("tpmrm3", "vtpm0"),
        ("tpm12", "vtpm1"),
        ("tpm1", None),
        ("tpm", None),
        ("xtpm3", None),
        ("tpm3/..", None),
    ],
)
def test_the_instance_behind_a_tpm_of_the_kernel(runtime, name, instance):
    assert udev_properties.find_kernel_tpm(name, str(runtime)) == instance


def test_a_record_that_is_no_record(runtime):
    path = runtime / ".kernel-tpm/vtpm0"
    inode = (runtime / "vtpm0").stat().st_ino
    assert path.read_text() == f"tpm3 2.0 {inode}\n"
    for content in (
        b"",
        b"tpm3",
        b"tpm3 2.0\n",
        b"tpm3 2.0 1\nVTPM_OWNER=x\n",
        b"tpm999999 2.0 1\n",
        b"\xff\xfe",
        b"t" * 10000,
    ):
        path.write_bytes(content)
        assert kernel_tpm_record.read("vtpm0", str(runtime)) is None
    path.write_text(f"tpm3 2.0 {inode}\n")
    assert kernel_tpm_record.read("vtpm0", str(runtime)) == KernelTpmRecord(3, "2.0")


def test_what_the_service_s_user_writes_in_its_directory_names_no_tpm(runtime):
    """As it was before: an instance could take another's link, and end root's helper with a directory."""
    for name in ("kernel-tpm", "kernel-tpm.new"):
        (runtime / "vtpm0" / name).write_text("tpm12 2.0\n")
    assert udev_properties.find_kernel_tpm("tpm12", str(runtime)) == "vtpm1"
    for name in ("kernel-tpm", "kernel-tpm.new"):
        (runtime / "vtpm0" / name).unlink()
        (runtime / "vtpm0" / name).mkdir()
    noted(runtime, "vtpm0", 4)
    assert udev_properties.find_kernel_tpm("tpmrm4", str(runtime)) == "vtpm0"


def test_a_service_that_was_stopped_has_no_tpm_any_more(runtime):
    (runtime / "vtpm0").rename(runtime / "elsewhere")
    assert udev_properties.find_kernel_tpm("tpm3", str(runtime)) is None
    (runtime / "vtpm0").mkdir()
    assert udev_properties.find_kernel_tpm("tpm3", str(runtime)) is None


def test_a_number_is_the_last_one_s_that_was_given_it(runtime):
    noted(runtime, "another", 12)  # first by name
    assert udev_properties.find_kernel_tpm("tpm12", str(runtime)) == "another"
    assert kernel_tpm_record.read("vtpm1", str(runtime)) is None
    noted(runtime, "vtpm1", 12)
    assert udev_properties.find_kernel_tpm("tpm12", str(runtime)) == "vtpm1"
    assert sorted(path.name for path in (runtime / ".kernel-tpm").iterdir()) == ["vtpm0", "vtpm1"]


def test_a_record_follows_no_link_and_is_for_all_to_read(runtime):
    victim = runtime / "victim"
    victim.write_text("precious")
    (runtime / f".kernel-tpm/.new-{os.getpid()}").symlink_to(victim)
    before = os.umask(0o077)
    try:
        noted(runtime, "vtpm0", 4, "1.2")
    finally:
        os.umask(before)
    assert victim.read_text() == "precious"
    assert kernel_tpm_record.read("vtpm0", str(runtime)) == KernelTpmRecord(4, "1.2")
    assert (runtime / ".kernel-tpm/vtpm0").stat().st_mode & 0o777 == 0o644
    assert (runtime / ".kernel-tpm").stat().st_mode & 0o777 == 0o755


def test_a_note_that_is_not_there_need_not_be_removed(runtime):
    kernel_tpm_record.remove("vtpm0", str(runtime))
    kernel_tpm_record.remove("vtpm0", str(runtime))
    assert udev_properties.find_kernel_tpm("tpm3", str(runtime)) is None
