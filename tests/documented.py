"""The blocks of commands and files in README.md and docs/*.md, and where each of them is tried.

A block is what is indented by four spaces. Where it has lines that begin with `$ ` these are the commands, and the others
are what they print; a block whose first line is `# ` and an absolute path, alone, is what that file holds; all else is typed
as it stands. A block is named by its first line.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: What no test types as it stands, and why, or which test does the same in another way.
NOT_TYPED = {
    "README.md": {
        "sudo dnf install python3-swtpm    # Fedora and what descends from it, where a repository has it: `make rpm` builds it": (
            "needs a repository: tests/lab/rpm/test_package.py installs by dnf, tests/lab/vm.sh by make"
        ),
    },
    "docs/architecture.md": {
        "/etc/vtpm.d/NAME.toml  --read by-->  vtpm@NAME.service  --serves-->  /dev/NAME, sockets, files, the kernel's TPM": (
            "a drawing"
        ),
    },
    "docs/containers.md": {
        "podman run --rm --device /dev/box:/dev/tpm0 --group-add keep-groups IMAGE \\": (
            "there is no podman in the labs; the device itself is tried by the block before"
        ),
        "podman run --rm --volume /run/vtpm/files/fs:/run/tpm IMAGE \\": (
            "there is no podman in the labs; the file itself is tried by the block before"
        ),
    },
    "docs/host-without-a-chip.md": {
        "sudo modprobe tpm_vtpm_proxy": "only a distribution's kernel has the module: tests/lab/vm/test_kernel_tpm.py",
        "# /etc/vtpm.d/host.toml": "needs the module: tests/lab/vm/test_kernel_tpm.py has the same two tables",
        "sudo systemctl enable --now vtpm@host": "needs the module: tests/lab/vm/test_kernel_tpm.py",
        "sudo systemd-cryptenroll --tpm2-device=list": "needs the module: tests/lab/vm/test_kernel_tpm.py",
    },
    "docs/ima.md": {
        "vtpmctl doctor --ima        # is each installed file as it was signed, and does the kernel know the key?": (
            "needs IMA in force: tests/lab/rpm/test_ima.py"
        ),
        "openssl req -new -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -subj '/CN=IMA of example.org' \\": (
            "tests/lab/rpm/dress.sh makes a key as this does"
        ),
        "openssl req -new -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -subj '/CN=machine owner of example.org' \\": (
            "asks the firmware of a machine"
        ),
        "ring=$(keyctl newring _ima @u) && keyctl link @u @s": "needs IMA in force: tests/lab/rpm/test_ima.py",
        'rpmbuild -ba --with ima --define "vtpm_ima_key $PWD/key.pem" --define "vtpm_ima_certificate '
        '$PWD/certificate.der" python-swtpm.spec': "tests/lab/rpm-build.sh builds so",
        "appraise func=BPRM_CHECK obj_type=vtpm_exec_t appraise_type=imasig": (
            "a policy, which needs IMA: tests/lab/rpm/test_ima.py"
        ),
    },
    "docs/moving-from-swtpm.md": {
        "sudo dnf install python3-swtpm-compat    # in the place of swtpm and swtpm-tools": (
            "needs a repository: tests/lab/rpm/test_package.py"
        ),
        "sudo make install COMPAT=1               # elsewhere, from this folder": (
            "tests/unit/packaging/test_classic_commands.py installs them into a folder"
        ),
    },
    "docs/quick-start.md": {
        "make run": "makes environments of its own: tests/lab/vm/test_demo.py runs what it runs",
        "sudo dnf install python3-swtpm    # Fedora and what descends from it": (
            "needs a repository: tests/lab/rpm/test_package.py"
        ),
        "sudo make install                 # elsewhere, from this folder": "tests/lab/vm.sh installs so",
    },
    "docs/selinux.md": {
        "sudo semanage fcontext -a -t vtpm_var_lib_t '/srv/tpm(/.*)?'": "the labs have no semanage, which needs a package",
        "sudo ausearch -m avc,user_avc -ts boot -su vtpm_t": (
            "its exit status is 1 where nothing was denied: tests/lab/vm/test_z_selinux.py looks in the same log"
        ),
    },
    "docs/virtual-machines.md": {
        "qemu-system-x86_64 -m 2G -drive file=guest1.img,if=virtio \\": (
            "the machine of this test has no QEMU: tests/lab/qemu/test_guests.py starts guests with these options"
        ),
        "<tpm model='tpm-crb'>": "a part of a domain: tests/lab/qemu/test_libvirt.py",
        "<seclabel type='static' model='dac' relabel='yes'>": "a part of a domain: tests/lab/qemu/test_libvirt.py",
        "virsh save guest2 guest2.saved": "needs libvirt: tests/lab/qemu/test_libvirt.py",
    },
}  # fmt: skip

#: Pages whose blocks need neither root nor systemd: tests/integration/cli/test_pages_typed.py. All others: tests/lab/vm/
#: test_documented.py.
WITHOUT_ROOT = ("docs/troubleshooting.md",)


class Block(NamedTuple):
    page: str
    name: str
    lines: "list[str]"

    @property
    def file(self) -> "str | None":
        """The path of the file that it is."""
        found = re.fullmatch(r"# (/\S+)", self.name)
        return found[1] if found else None

    @property
    def commands(self) -> "list[str]":
        typed = [line[2:] for line in self.lines if line.startswith("$ ")]
        return typed or self.lines

    @property
    def printed(self) -> "list[str]":
        return [line for line in self.lines if not line.startswith("$ ")] if self.lines[0].startswith("$ ") else []

    @property
    def is_typed(self) -> bool:
        return self.name not in NOT_TYPED.get(self.page, {})


def pages() -> "list[str]":
    return ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page: str) -> "list[Block]":
    """In the order of the page; an empty line may be inside of one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:(?<=\n\n)|\A)((?: {4}.*\n(?:\n(?= {4}))*)+)", text)
    plain = [[line[4:] for line in block.rstrip("\n").split("\n")] for block in found]
    return [Block(page, lines[0], lines) for lines in plain]
