"""A guest of QEMU, in software, whose user land is Debian's own tcsd and tpm-tools: a TPM 1.2 is passed through to
it."""

import os
import re
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
KERNEL_COMMAND_LINE = "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable"
PROGRAMS = ("tcsd", "tpm_createek", "tpm_takeownership", "tpm_getpubek")
#: A boot and its orders take about 5 s on an idle processor.
END_S = 240


def run_guest(device, user, orders, folder):
    """What the orders printed in a guest to which `device` is passed through, by a QEMU that is the user's.

    The guest has a TPM 1.2 (tpm-tis). `folder` is empty, and the user may enter it.
    """
    kernel = subprocess.run([os.path.join(HERE, "../qemu/kernel.sh")], stdout=subprocess.PIPE, text=True, check=True)
    shutil.copy(kernel.stdout.strip(), f"{folder}/vmlinuz")  # it is below root's home
    initramfs = make_initramfs(folder, orders)
    os.mkdir(f"{folder}/said")
    shutil.chown(f"{folder}/said", user)
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "128", "-nodefaults", "-display", "none"]
    words += ["-kernel", f"{folder}/vmlinuz", "-initrd", initramfs, "-append", KERNEL_COMMAND_LINE, "-no-reboot"]
    words += ["-serial", f"file:{folder}/said/console", "-serial", f"file:{folder}/said/answers"]
    words += ["-tpmdev", f"passthrough,id=tpm,path={device},cancel-path=/dev/null", "-device", "tpm-tis,tpmdev=tpm"]
    done = subprocess.run(
        ["runuser", "-u", user, "--", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=END_S,
    )
    assert done.returncode == 0, done.stdout
    with open(f"{folder}/said/answers", encoding="utf-8", errors="replace") as file:
        answers = file.read()
    with open(f"{folder}/said/console", encoding="utf-8", errors="replace") as file:
        print(file.read(), answers)
    assert answers.endswith("\nend\n"), answers
    return answers


def make_initramfs(folder, orders):
    """An initramfs with the host's programs and what they load, whose process 1 executes `orders`; its path."""
    root = os.path.join(folder, "root")
    for directory in ("bin", "dev", "etc", "proc", "sys", "usr/sbin", "var/lib/tpm"):
        os.makedirs(os.path.join(root, directory))
    shutil.copy(shutil.which("busybox"), f"{root}/bin/busybox")
    shutil.copy(os.path.join(HERE, "guest-init.sh"), f"{root}/init")
    programs = [shutil.which(name) for name in PROGRAMS]
    for path in (*programs, *libraries(programs)):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        shutil.copy(path, root + path)
    for name in ("passwd", "group"):
        with open(f"/etc/{name}", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith(("root:", "tss:"))]
        write(f"{root}/etc/{name}", "".join(lines))
    write(f"{root}/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
    write(f"{root}/etc/hosts", "127.0.0.1 localhost\n")
    write(f"{root}/etc/tcsd.conf", "")
    write(f"{root}/orders", "".join(f"{order}\n" for order in orders))
    shutil.chown(f"{root}/etc/tcsd.conf", "root", "tss")  # tcsd takes no other owner and mode
    os.chmod(f"{root}/etc/tcsd.conf", 0o640)
    shutil.chown(f"{root}/var/lib/tpm", "tss", "tss")
    path = os.path.join(folder, "initramfs.cpio")
    with open(path, "wb") as archive:
        pack = ["sh", "-c", "find . | busybox cpio -o -H newc"]
        subprocess.run(pack, cwd=root, stdout=archive, stderr=subprocess.PIPE, check=True)
    return path


def libraries(programs):
    """What they load; libgcc_s.so.1 when a thread of tcsd ends."""
    said = subprocess.run(["ldd", *programs], stdout=subprocess.PIPE, text=True, check=True).stdout
    cache = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return sorted({*re.findall(r"(/\S+) \(0x", said), re.search(r"libgcc_s\.so\.1 .*x86-64.* => (\S+)", cache)[1]})


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
