"""The IMA signatures: packaging/ima/sign-tree at the build, vtpm-ima on the host, and `vtpmctl doctor --ima`, which
asks it.

With real signatures, keys and attributes; the kernel that refuses files is in tests/lab/rpm/test_ima.py.
"""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import swtpm_svc
from swtpm_svc.cli.vtpmctl import entry, ima
from swtpm_svc.service import vtpmd

ROOT = Path(__file__).resolve().parents[3]
VTPM_IMA = ROOT / "packaging/libexec/vtpm-ima"
needs_signing = pytest.mark.needs("root", "evmctl")


def make_key(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-subj", "/CN=test"]
    command += [
        "-addext",
        "subjectKeyIdentifier=hash",
        "-keyout",
        str(folder / "key.pem"),
        "-outform",
        "DER",
        "-out",
        str(folder / "certificate.der"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)


class Installation:
    """A launcher and two modules, which vtpm-ima takes for what is installed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.libexec = root / "usr/libexec/vtpm"
        self.package = root / "usr/lib/swtpm_svc"
        for path in (self.libexec / "vtpmd", self.package / "a.py", self.package / "deep/b.so"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {path.name}\n")
        (self.libexec / "vtpmd").chmod(0o755)
        (self.package / "py.typed").touch()
        loader = importlib.machinery.SourceFileLoader("vtpm_ima", str(VTPM_IMA))
        spec = importlib.util.spec_from_loader("vtpm_ima", loader)
        assert spec
        self.program = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(self.program)
        places = {"HERE": self.libexec, "SHIPPED": root / "usr/share/vtpm/ima", "HOST": root / "etc/vtpm.d/ima"}
        kernel = {name: root / name for name in ("POLICY", "POLICY_AT_BOOT", "COMMAND_LINE", "KEYS")}
        for name, value in {**places, **kernel, "installed": self.files}.items():
            monkeypatch.setattr(self.program, name, value)

    def files(self) -> "list[Path]":
        return sorted(path for path in self.root.glob("usr/lib*/**/*") if path.is_file() and path.name != "py.typed")

    def sign(self) -> None:
        """As the spec file does: the paths in the list are those of the host."""
        make_key(self.root / "keys")
        command = [
            ROOT / "packaging/ima/sign-tree",
            self.root / "keys/key.pem",
            self.root,
            "a-package",
            "/usr/libexec/vtpm/vtpmd",  # a file, and a directory
            "/usr/lib/swtpm_svc",
        ]
        subprocess.run(command, check=True, capture_output=True)
        shutil.copy(self.root / "keys/certificate.der", self.program.SHIPPED)
        signatures = self.program.SHIPPED / "a-package.signatures"
        lines = signatures.read_text().splitlines()
        assert [line.split("\t")[0] for line in lines] == [f"/{path.relative_to(self.root)}" for path in self.files()]
        signatures.write_text("".join(f"{self.root}{line}\n" for line in lines))

    def faults(self) -> "dict[str, str]":
        return {found.check: found.text for found in self.program.verify() if found.verdict != "ok"}


@pytest.fixture
def installation(tmp_path, monkeypatch):
    return Installation(tmp_path, monkeypatch)


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Programs on the PATH that are these scripts."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def attribute(path: Path) -> bytes:
    try:
        return os.getxattr(path, "security.ima")
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("name", "text", "used"),
    [
        ("POLICY", "", False),
        ("POLICY", "measure func=BPRM_CHECK\n", False),
        ("POLICY", "appraise func=BPRM_CHECK appraise_type=imasig\n", True),
        ("POLICY_AT_BOOT", "appraise func=BPRM_CHECK\n", True),
        ("COMMAND_LINE", "quiet ima_appraise=off ro", False),
        ("COMMAND_LINE", "quiet ima_appraise=enforce ro", True),
        ("COMMAND_LINE", "ima_policy=tcb|appraise_tcb", True),
        ("KEYS", "1f I------     1 perm 1f0f0000     0     0 keyring   .ima: empty\n", False),
        ("KEYS", "1f I------     1 perm 1f0f0000     0     0 keyring   .ima: 1\n", True),
        ("KEYS", "1f I------     1 perm 1f0f0000     0     0 keyring   _uid.0: 1\n", False),
        ("KEYS", "1f I------     1 perm 1f0f0000     0     0 keyring\n\nx\n", False),
    ],
)
def test_where_ima_is_in_use(installation, name, text, used):
    getattr(installation.program, name).write_text(text)
    assert bool(installation.program.in_use()) is used
    if not used:
        assert installation.program.main(["apply", "--if-used"]) == 0


@needs_signing
def test_what_was_signed_is_put_in_place_and_verified(installation):
    installation.sign()
    assert set(installation.faults().values()) == {"none of the 3 files has a signature"}
    assert installation.program.main(["apply"]) == 0
    assert {attribute(path)[:2] for path in installation.files()} == {b"\x03\x02"}
    assert installation.faults() == {}


@needs_signing
def test_each_deviation_is_named(installation):
    installation.sign()
    installation.program.main(["apply"])
    launcher, module, library = (
        installation.libexec / "vtpmd",
        installation.package / "a.py",
        installation.package / "deep/b.so",
    )
    launcher.write_text("content of vtpmD\n")
    os.removexattr(module, "security.ima")
    other = installation.package / "other.py"
    other.write_text("not of the package\n")
    library.unlink()
    assert installation.faults() == {
        str(launcher): "was changed: its signature is not that of its content",
        str(module): "has no signature",
        str(other): "has no signature",
        str(library): "is missing",
    }
    os.setxattr(launcher, "security.ima", b"\x03\x02nonsense")
    assert "another signature than the one the package brings" in installation.faults()[str(launcher)]


@needs_signing
def test_a_host_with_a_key_signs_for_itself(installation, capsys):
    with pytest.raises(SystemExit) as nothing:
        installation.program.main(["apply"])
    assert nothing.value.code == 66
    make_key(installation.program.HOST)
    assert installation.program.main(["apply"]) == 0
    assert installation.faults() == {}
    (installation.program.HOST / "key.pem").chmod(0o644)
    with pytest.raises(SystemExit) as readable:
        installation.program.main(["apply"])
    assert readable.value.code == 77
    assert "can be read by others" in capsys.readouterr().err


@needs_signing
def test_what_the_policy_refuses_to_read_is_signed_as_the_package_has_it(installation, tmp_path, monkeypatch, capsys):
    """A policy in force refuses an unsigned file to root too. rpm is a script here."""
    make_key(installation.program.HOST)
    module, library = installation.package / "a.py", installation.package / "deep/b.so"
    content = module.read_bytes()
    listing = f"{module}\\t{hashlib.sha256(content).hexdigest()}\\t8\\n/etc/vtpm.d\\t\\t8\\n{library}\\tdigest\\t1\\n"
    play(tmp_path / "bin", monkeypatch, rpm=f"echo asked >>{tmp_path}/rpm.log; printf '{listing}'")
    refused, read = [module], Path.read_bytes

    def read_bytes(path):
        if path in refused:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    module.write_text("changed while nobody could look\n")
    assert installation.program.main(["apply"]) == 0
    assert installation.faults() == {str(module): "was changed: its signature is not that of its content"}
    module.write_bytes(content)
    assert installation.faults() == {}

    refused.append(library)  # of which the package has no sha256
    with pytest.raises(SystemExit) as leaving:
        installation.program.main(["apply"])
    assert leaving.value.code == 77
    assert f"{library} is unsigned, and the policy in force refuses to read it" in capsys.readouterr().err
    assert (tmp_path / "rpm.log").read_text() == "asked\n", "once for all files"


@needs_signing
def test_a_key_that_the_kernel_does_not_have(installation):
    installation.sign()
    installation.program.main(["apply"])
    installation.program.COMMAND_LINE.write_text("ima_appraise=enforce")
    key_id = attribute(installation.package / "a.py")[3:7].hex()
    assert installation.faults() == {"IMA": f"no key {key_id} in the keyrings that can be seen"}
    line = f"0d0c2a8d I------     1 perm 39010000     0     0 asymmetri test: {key_id}: X509.rsa {key_id} []\n"
    installation.program.KEYS.write_text(line)
    assert installation.faults() == {}


@needs_signing
def test_what_is_needed_to_verify(installation, tmp_path, monkeypatch):
    installation.sign()
    installation.program.main(["apply"])
    (installation.program.SHIPPED / "certificate.der").unlink()
    assert installation.faults() == {"IMA": "there is no certificate to verify the signatures with"}
    shutil.copytree(installation.root / "keys", installation.program.HOST)
    assert installation.faults() == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.faults() == {"IMA": "there is no evmctl to verify the signatures with"}


@needs_signing
def test_a_distribution_that_signs_its_files_needs_no_key_of_ours(installation, capsys):
    """rpm-plugin-ima has put the signatures in place; nothing is shipped beside the files."""
    installation.sign()
    installation.program.main(["apply"])
    shutil.rmtree(installation.program.SHIPPED)
    installation.program.COMMAND_LINE.write_text("ima_appraise=enforce")
    assert installation.program.main(["apply", "--if-used"]) == 0
    assert capsys.readouterr() == ("", "")
    found = installation.program.verify()
    assert {one.verdict for one in found} == {"ok", "warn"}
    assert "there is no certificate to verify the signatures with" in {one.text for one in found}
    os.removexattr(installation.package / "a.py", "security.ima")
    assert any("brings no signatures" in one.text for one in installation.program.verify())
    with pytest.raises(SystemExit):
        installation.program.main(["apply", "--if-used"])


def test_a_directory_of_keys_that_only_root_may_enter(installation, monkeypatch):
    installation.program.HOST.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may
    assert [(one.verdict, one.remedy) for one in installation.program.verify()] == [
        ("ok", None),
        ("warn", "run this as root"),
    ]


def test_the_old_command_names_are_looked_at_where_they_are_installed(tmp_path, monkeypatch):
    installation = Installation(tmp_path, monkeypatch)
    monkeypatch.undo()
    program = installation.program
    monkeypatch.setattr(program, "HERE", installation.libexec)
    monkeypatch.setattr(program, "CLASSIC_COMMANDS", tmp_path / "classic-commands.ini")
    commands = [tmp_path / "usr/bin/swtpm_cert", tmp_path / "usr/share/swtpm/swtpm-localca"]
    for path in commands:
        path.parent.mkdir(parents=True)
        path.touch()
    assert not {*commands} & {*program.installed()}
    shutil.copy(ROOT / "packaging/classic-commands.ini", tmp_path)
    assert {*commands} <= {*program.installed()}


def test_a_damaged_list_of_the_old_command_names_is_one_line_and_a_remedy(installation, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(installation.program, "CLASSIC_COMMANDS", tmp_path / "classic-commands.ini")
    for damage in (b"swtpm = x\n", b"\xff\n", b"[a]\n[a]\n"):
        (tmp_path / "classic-commands.ini").write_bytes(damage)
        with pytest.raises(SystemExit) as damaged:
            installation.program.classic_commands()
        assert damaged.value.code == 65
        cause, remedy = capsys.readouterr().err.splitlines()
        assert remedy.endswith("dnf reinstall 'python3-swtpm*'")
        assert "classic-commands.ini cannot be read" in cause


@pytest.mark.parametrize("text", ["no tab\n", "/a\tnot hexadecimal\n", "\udcff"])
def test_a_damaged_list_is_one_line_and_a_remedy(installation, capsys, text):
    installation.program.SHIPPED.mkdir(parents=True)
    (installation.program.SHIPPED / "a-package.signatures").write_text(text, errors="surrogateescape")
    with pytest.raises(SystemExit) as damaged:
        installation.program.main(["apply"])
    assert damaged.value.code == 65
    cause, remedy = capsys.readouterr().err.splitlines()
    assert "signatures cannot be read" in cause
    assert remedy == "  remedy: reinstall the package: dnf reinstall 'python3-swtpm*'"


def test_a_wrong_command_line(installation):
    for arguments in ([], ["apply", "--now"], ["sign"]):
        with pytest.raises(SystemExit) as wrong:
            installation.program.main(arguments)
        assert wrong.value.code == 64


@pytest.mark.parametrize(
    ("script", "verdict", "text"),
    [
        (
            'echo \'[{"verdict": "fail", "check": "/a", "text": "was changed", "remedy": "reinstall"}]\'; exit 69',
            "fail",
            "was changed",
        ),
        (
            'echo \'[{"verdict": "ok", "check": "IMA", "text": "is not in use on this host", "remedy": null}]\'',
            "ok",
            "is not in use",
        ),
        ("echo broken >&2; exit 1", "fail", "failed: broken"),
        ("echo '[1]'", "fail", "failed: exit status 0"),
        ("", "fail", "failed: exit status 0"),
    ],
)
def test_doctor_asks_it(tmp_path, monkeypatch, script, verdict, text):
    program = tmp_path / "vtpm-ima"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ima, "PROGRAMS", (str(program),))
    (found,) = ima.examine()
    assert found.verdict == verdict
    assert text in found.text
    assert (found.problem is None) is (verdict == "ok")
    program.chmod(0o644)
    assert "cannot be executed" in ima.examine()[0].text or os.geteuid() != 0
    program.unlink()
    assert ima.examine()[0].verdict == "warn"


@needs_signing
def test_a_tree_is_not_signed_by_halves(tmp_path):
    tree = tmp_path / "root"
    (tree / "usr/bin").mkdir(parents=True)
    for arguments, status in (
        ([tmp_path / "missing.pem", tree, "p", "/usr/bin"], 66),
        ([], 64),
        ([ROOT / "README.md", tree, "p"], 64),
        ([ROOT / "README.md", tree, "p", "/usr/bin"], 66),
        ([ROOT / "README.md", tree, "p", "/nowhere"], 66),
    ):
        done = subprocess.run(
            [ROOT / "packaging/ima/sign-tree", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert "  remedy: " in done.stderr
    (tree / "usr/bin/program.py").write_text("x\n")
    # one directory of the two, and something that is not a key
    for directories, status in ((["/usr/bin", "/nowhere"], 66), (["/usr/bin"], 69)):
        command = [ROOT / "packaging/ima/sign-tree", ROOT / "README.md", tree, "p", *directories]
        assert subprocess.run(command, capture_output=True, check=False).returncode == status
    assert not (tree / "usr/share").exists()


# --- what is told where IMA refuses a module
# ---------------------------------------------------------------------------


@pytest.fixture
def refuse(monkeypatch):
    """An import of this module fails as it does where the kernel refuses to read its file."""

    def refuse(name: str) -> str:
        path = str(Path(swtpm_svc.__file__).parents[1] / f"{name.replace('.', '/')}.py")

        class Refusal:
            @staticmethod
            def find_spec(wanted, *_):
                if wanted == name:
                    raise PermissionError(13, "Permission denied", path)

        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], raising=False)
        monkeypatch.setattr(sys, "meta_path", [Refusal, *sys.meta_path])
        return path

    return refuse


def test_the_daemon_names_a_module_that_is_refused(refuse, monkeypatch, capsys):
    path = refuse("swtpm_svc.service.daemon")
    monkeypatch.setattr(sys, "argv", ["vtpmd", "vtpm0"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert vtpmd.main() == 69
    cause, remedy = capsys.readouterr().err.splitlines()
    assert cause == f"vtpmd: a part of the program cannot be loaded: [Errno 13] Permission denied: '{path}'"
    assert remedy.endswith("vtpmctl doctor --ima says more")


@pytest.mark.parametrize("module", ["commands", "reports"])
def test_so_does_vtpmctl(refuse, capsys, module):
    path = refuse(f"swtpm_svc.cli.vtpmctl.{module}")
    assert entry.main(["list"]) == 69
    assert capsys.readouterr().err.splitlines() == [
        f"vtpmctl: a part of the program cannot be read: [Errno 13] Permission denied: '{path}'",
        "  remedy: /usr/libexec/vtpm/vtpm-ima verify says which files are not as they were signed",
    ]


# --- sign-rpm
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sign_rpm(tmp_path, monkeypatch):
    """With an rpm and an rpmsign that are scripts: Debian's rpmsign cannot sign files, Fedora's can."""

    def run(files: str, options: str) -> "subprocess.CompletedProcess[str]":
        rpmsign = f'case $1 in --help) echo "{options}" ;; *) echo "rpmsign $*" ;; esac'
        play(tmp_path / "bin", monkeypatch, rpmsign=rpmsign, rpm=f"printf '%s\\n' {files}")
        for name in ("key.pem", "a.rpm"):
            (tmp_path / name).touch()
        command = [ROOT / "packaging/ima/sign-rpm", "key.pem", "a.rpm"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


LAUNCHER, SIGNATURES = "/usr/libexec/vtpm/vtpmd", "/usr/share/vtpm/ima/python3-swtpm.signatures"


def test_an_rpmsign_that_signs_files_is_used(sign_rpm):
    done = sign_rpm(LAUNCHER, "--addsign --signfiles --fskpath=KEY")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "rpmsign --addsign --signfiles --fskpath=key.pem a.rpm",
        "sign-rpm: the signatures are in the packages' headers (rpmsign --signfiles)",
    ]


@pytest.mark.parametrize(
    "files", [f"{LAUNCHER} {SIGNATURES}", "/usr/share/selinux/packages/vtpm.pp.bz2"], ids=["main", "selinux"]
)
def test_without_one_the_package_brings_its_signatures(sign_rpm, files):
    done = sign_rpm(files, "--addsign --fskpath=KEY")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sign-rpm: there is no rpmsign with --signfiles; the packages bring their signatures")


def test_a_package_without_any_signature_is_no_success(sign_rpm):
    done = sign_rpm(LAUNCHER, "--addsign --fskpath=KEY")
    assert done.returncode == 69
    assert "a.rpm brings no signatures\n  remedy: build it: rpmbuild --with ima" in done.stderr


def test_the_manual_and_doctor_agree_on_the_answer_s_form(installation):
    """`vtpm-ima verify --json` is what cli/vtpmctl/ima.py reads."""
    installation.program.SHIPPED.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-IB", VTPM_IMA, "verify", "--json"], capture_output=True, text=True, check=False
    )
    assert {tuple(entry) for entry in json.loads(done.stdout)} == {("verdict", "check", "text", "remedy")}
