# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154
# Sourced by vm.sh, whose variables it uses: the machine in QEMU
drive="file=$image_dir/root.img,snapshot=on"
[ -z "$disk" ] || drive="file=$disk"
# root is the only NVMe disk: newer kernels number several of them in any order
# shellcheck disable=SC2054
qemu=(qemu-system-x86_64 -machine q35 -accel "${ACCEL:-tcg,thread=multi}" -cpu max -smp "${SMP:-1}" -m "$memory"
  -nodefaults -display none -no-reboot -monitor none -kernel "$image_dir/vmlinuz"
  -append "console=ttyS0 root=/dev/nvme0n1 $cmdline mitigations=off nokaslr tsc=reliable"
  -drive "$drive,if=none,id=d0,format=raw,cache=unsafe" -device nvme,drive=d0,serial=root
  -drive "file=$scratch/in.tar,if=none,id=d1,format=raw,readonly=on" -device virtio-blk-pci,drive=d1,serial=in
  -drive "file=$scratch/out.tar,if=none,id=d2,format=raw,cache=unsafe" -device virtio-blk-pci,drive=d2,serial=out
  -device virtio-rng-pci)

machine_shell() {
  "${qemu[@]}" -chardev "stdio,id=console,signal=off,logfile=$scratch/console.log" -serial chardev:console
}

started() { grep -qa 'LAB: start' "$scratch/console.log" 2>/dev/null; }
alive() { kill -0 "$machine" 2>/dev/null; }
machine_start() {
  local try waited
  for try in 1 2 3; do   # now and then a machine in software hangs before its first line
    : >"$scratch/output"
    timeout -k 5 "$limit" "${qemu[@]}" -serial "file:$scratch/console.log" -serial "file:$scratch/output" \
      </dev/null >"$scratch/machine.log" 2>&1 & machine=$!
    waited=0
    while alive && ! started && [ "$waited" -lt "${BOOT_LIMIT:-150}" ]; do sleep 1; waited=$((waited + 1)); done
    if started || ! alive; then break; fi
    echo "vm.sh: boot $try: nothing after $waited s" >&2
    kill "$machine"; wait "$machine" || :
  done
  say "the machine is up" >&2
  tail -n +1 -f --pid="$machine" -s 0.3 "$scratch/output" & watcher=$!
}
