"""libvirt's system daemon, apart from the machine's own: its folders, network and processes are in namespaces of their
own."""

import os
import subprocess
import time
import uuid
from xml.sax.saxutils import quoteattr

from machine import KERNEL_COMMAND_LINE, Guest, Line, end, read_text

ROOT = os.path.abspath(f"{os.path.dirname(__file__)}/../../..")
#: Where the daemon and its programs see this tree, which may be below a home that is closed to their users.
TREE = "/mnt/tree"
START_S = 60
COMMAND_S = 60

LIBVIRTD_CONF = """\
unix_sock_dir = "{directory}"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host}"
"""
#: No logging daemon, no cgroups, no AppArmor or SELinux: what a container may lack. Users and groups are as always; whose
#: a file was before is not written to it, as two hosts of the lab have the same files.
QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
"""
#: bash is process 1, so that somebody waits for a QEMU that has ended. Whatever runs ends with it.
IN_NAMESPACES = """\
set -e
mkdir -p /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /var/log/swtpm /etc/libvirt
for folder in /run/libvirt /var/lib/libvirt /var/cache/libvirt; do mount -t tmpfs -o mode=755 none $folder; done
ca=/var/lib/swtpm-localca   # of what libvirt has made its certificates
[ ! -d $ca ] || mount -t tmpfs -o mode=750,uid="$(stat -c %u $ca)",gid="$(stat -c %g $ca)" none $ca
mount --bind "$1" /etc/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/log/swtpm" /var/log/swtpm
mount -t tmpfs -o mode=755 none /mnt
mkdir "$3"; mount --bind "$2" "$3"
libvirtd -f "$1/libvirtd.conf" -p "$1/pid" &
wait
"""
DOMAIN = """\
<domain type='qemu'>
  <name>guest</name><memory unit='MiB'>160</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initramfs}</initrd><cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <serial type='unix'><source mode='connect' path='{orders}'/><target port='1'/></serial>
    {tpm}
    <memballoon model='none'/>
  </devices>
  {more}
</domain>
"""


class Libvirt:
    """A libvirtd with at most one domain, `guest`.

    It looks for programs in the folder `commands` first.
    """

    def __init__(self, directory, boot, commands=None):
        self._directory, self._boot = directory, boot
        self._environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"} if commands else None
        os.makedirs(f"{directory}/log/swtpm")
        for name, text in (("libvirtd.conf", LIBVIRTD_CONF), ("qemu.conf", QEMU_CONF)):
            with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
                # a host of its own: libvirt migrates nothing to the host where it is
                file.write(text.format(directory=directory, host=uuid.uuid4()))
        self._orders = Line(f"{directory}/orders")
        os.chmod(f"{directory}/orders", 0o666)  # for libvirt's user
        self._process = None

    def start(self):
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with open(f"{self._directory}/log/libvirtd", "wb") as log:
            self._process = subprocess.Popen(
                [*command, "bash", "-c", IN_NAMESPACES, "-", self._directory, ROOT, TREE],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + START_S
        while self._virsh("version").returncode:
            assert self._process.poll() is None, self.story()
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.1)
        return self

    def _virsh(self, *words):
        command = ["virsh", "-q", "-c", f"qemu+unix:///system?socket={self._directory}/libvirt-sock", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)

    def virsh(self, *words):
        """What virsh prints; it must succeed."""
        result = self._virsh(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def refuses(self, *words):
        """The error with which virsh fails."""
        result = self._virsh(*words)
        assert result.returncode != 0, result.stdout
        return result.stderr

    def create(self, service, model, security_label=""):
        """Start the domain, which is to have the TPM that `service` serves; its guest."""
        source = f"<source type='unix' mode='connect' path={quoteattr(service.control)}/>"
        domain = self.describe(model, f"<backend type='external'>{source}</backend>", security_label)
        self._orders.hang_up()
        self.virsh("create", domain)
        return Guest(self._orders, service.version)

    def start_domain(self, version="2.0"):
        """Start the domain that is defined; its guest."""
        self._orders.hang_up()
        self.virsh("start", "guest")
        return Guest(self._orders, version)

    def migrate(self, target):
        """Move the running domain to another daemon, without an end of it; its guest there."""
        where = f"{self._directory}/migration"
        os.mkdir(where)
        os.chmod(where, 0o777)  # for libvirt's user
        words = ["--migrateuri", f"unix://{where}/socket"]
        self.virsh("migrate", "--live", "guest", f"qemu+unix:///system?socket={target._directory}/libvirt-sock", *words)
        self._orders.take_next()
        return Guest(self._orders, "2.0")

    def revert(self, snapshot):
        """Go back to a snapshot of the domain, in a QEMU of its own."""
        self._orders.hang_up()
        self.virsh("snapshot-revert", "guest", snapshot)

    def describe(self, model, backend, more=""):
        """The file with the domain, whose TPM has this <backend>."""
        kernel, initramfs = self._boot
        text = DOMAIN.format(
            kernel=kernel,
            initramfs=initramfs,
            command_line=KERNEL_COMMAND_LINE,
            console=f"{self._directory}/log/console",
            orders=f"{self._directory}/orders",
            tpm=f"<tpm model={quoteattr(model)}>{backend}</tpm>",
            more=more,
        )
        path = f"{self._directory}/guest.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def in_its_files(self, *words):
        """What a command prints that sees libvirt's folders."""
        (child,) = subprocess.run(
            ["pgrep", "-P", str(self._process.pid)], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        entered = ["nsenter", "--mount", "--target", child, *words]
        return subprocess.run(entered, stdout=subprocess.PIPE, text=True, check=True, timeout=COMMAND_S).stdout

    def save(self):
        self.virsh("save", "guest", self.image)
        self._orders.hang_up()

    def restore(self):
        self.virsh("restore", self.image)

    @property
    def image(self):
        """Where `save` saves."""
        return f"{self._directory}/saved"

    @property
    def swtpm_log(self):
        """What swtpm and swtpm_setup say of the domain's TPM."""
        return f"{self._directory}/log/swtpm/libvirt/qemu/guest-swtpm.log"

    def story(self):
        logs = ("libvirtd", "qemu/guest.log", "swtpm/libvirt/qemu/guest-swtpm.log", "console")
        return "".join(f"--- libvirt, {name}\n{read_text(f'{self._directory}/log/{name}')}" for name in logs)

    def close(self):
        end(self._process)
        self._orders.close()
