"""`vtpmctl check` beside a mount whose service hangs: whoever looks at it waits for ever, so check does not."""

import os
import subprocess
import sys

import pytest

from swtpm_svc.frontends.fuse import mounts

pytestmark = pytest.mark.needs("fuse", "root")

CHECK = "import sys; from swtpm_svc.cli.vtpmctl import entry; from swtpm_svc.cli.vtpmctl.host import Places; "
CHECK += 'sys.exit(entry.main(sys.argv[2:], Places(sys.argv[1], "/none", "/none")))'


@pytest.mark.parametrize("whose", ["vtpm0", "vtpm1"])
def test_a_mount_that_nobody_answers_for(tmp_path, whose):
    directory = tmp_path / "fs"
    directory.mkdir()
    (tmp_path / "etc").mkdir()
    for name in ("vtpm0", "vtpm1"):
        text = f'[fuse]\nenabled = true\ndirectory = "{directory}"\n' if name == whose else ""
        (tmp_path / "etc" / f"{name}.toml").write_text(
            f'[device]\nenabled = false\n[state]\ndirectory = "{tmp_path}/{name}"\n{text}'
        )
    fd = mounts.mount(str(directory))
    try:
        command = [sys.executable, "-c", CHECK, str(tmp_path / "etc"), "check", "vtpm0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.close(fd)  # with the last descriptor whoever waits is let go
        mounts.unmount(str(directory))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[state]\ndirectory = "{}/x/y"\n', "[state] directory"),
        ('[socket]\ncontrol = "{}/x"\n[state]\ndirectory = "/none"\n', "[socket] control"),
    ],
)
def test_nor_for_what_another_instance_has_below_it(tmp_path, text, what):
    """That is wrong, so it is told: by check, and by what examines a broken host."""
    directory = tmp_path / "fs"
    directory.mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vtpm0.toml").write_text("[device]\nenabled = false\n" + text.format(directory))
    (tmp_path / "etc/vtpm1.toml").write_text(
        f'[device]\nenabled = false\n[fuse]\nenabled = true\ndirectory = "{directory}"\n'
    )
    fd = mounts.mount(str(directory))
    try:
        said = {}
        for words in (("check", "vtpm0"), ("check", "vtpm1"), ("doctor",), ("status", "vtpm0")):
            command = [sys.executable, "-c", CHECK, str(tmp_path / "etc"), *words]
            said[words] = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.close(fd)
        mounts.unmount(str(directory))
    assert f'{what}: found "{directory}/x' in said["check", "vtpm0"].stderr
    assert "lies within [fuse] directory in" in said["check", "vtpm0"].stderr
    assert f"has within it {what} in" in said["check", "vtpm1"].stderr
    assert all("fault" not in done.stdout + done.stderr for done in said.values())
