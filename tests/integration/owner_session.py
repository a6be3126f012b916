"""vtpmctl on an instance of its own, as an administrator types it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

from daemon_process import DaemonProcess

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places

PROGRAM = [sys.executable, "-c", "import sys; from swtpm_svc.cli.vtpmctl.entry import main; sys.exit(main())"]

PASSWORD = "ownerpass"

LINE = r"(?:[0-9A-F]{2} ){15}[0-9A-F]{2}\n"

MODULUS = re.compile(rf"pubek\.pem successfully written\nPubek keylength 256\nModulus:\n((?:{LINE}){{16}})")


class Session:
    """One instance, and vtpmctl on it as an administrator types it, in a folder of its own."""

    def __init__(self, directory, capsys, version, name="lab", tpm_keys="", **daemon):
        self.folder = directory / name
        self.folder.mkdir()
        self.daemon = DaemonProcess(self.folder, name, tpm=f'version = "{version}"\n{tpm_keys}', **daemon).start()
        self.capsys = capsys
        self.places = Places(config=str(self.folder))
        self.password_file = self.write("owner", PASSWORD + "\n")
        self.wrong_file = self.write(
            "wrong", PASSWORD + " \n"
        )  # the newline belongs to the file, the blank to the password

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def run(self, *words):
        """The exit status, standard output and standard error of `vtpmctl WORDS`, run in the folder."""
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            status = entry.main([str(word) for word in words], self.places)
        finally:
            os.chdir(before)
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    def done(self, *words):
        status, out, err = self.run(*words)
        assert (status, err) == (0, ""), err
        return out

    def refused(self, status, *words):
        found, out, err = self.run(*words)
        assert (found, out) == (status, ""), (out, err)
        assert re.fullmatch(r"vtpmctl: .+\n  remedy: .+\n", err), err
        return err

    def tool(self, *words, check=True):
        """A program of tpm2-tools, on the same TPM."""
        environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.daemon.data}", "TSS2_LOG": "all+NONE"}
        done = subprocess.run(
            words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check:
            assert done.returncode == 0, (words, done.stderr)
        return done


def modulus_of(text):
    """The modulus that getpubek has printed; and nothing else is printed."""
    found = MODULUS.fullmatch(text)
    assert found, text
    return found[1].split()


@contextmanager
def sessions(folder, capsys):
    """make(version, name): a `Session`; the daemons of all are stopped at the end."""
    made = []

    def make(version, **options):
        made.append(Session(folder, capsys, version, **options))
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop()
