"""`vtpmctl check` beside a mount whose service hangs: whoever looks at it waits for ever, so check does not."""

import os
import subprocess
import sys

import pytest

from swtpm_svc.frontends import fuse_mount

pytestmark = pytest.mark.needs("fuse", "root")

CHECK = "import sys; from swtpm_svc.cli import vtpmctl; from swtpm_svc.cli.status import Places; "
CHECK += 'sys.exit(vtpmctl.main(["check", "vtpm0"], Places(sys.argv[1], "/none", "/none")))'


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
    fd = fuse_mount.mount(str(directory))
    try:
        command = [sys.executable, "-c", CHECK, str(tmp_path / "etc")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.close(fd)  # with the last descriptor whoever waits is let go
        fuse_mount.unmount(str(directory))
    assert done.returncode == 0, done.stderr
