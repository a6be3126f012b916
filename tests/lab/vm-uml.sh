# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154
# Sourced by vm.sh, whose variables it uses: the machine in User-Mode Linux
drive=$scratch/changes,$image_dir/root.img
[ -z "$disk" ] || drive=$disk
uml=("$UML_KERNEL" "${UML_OPTIONS[@]}" "mem=${memory}M" "umid=vtpm$$" "uml_dir=$scratch"
  "ubd0=$drive" "ubd1r=$scratch/in.tar" "ubd2=$scratch/out.tar"
  root=/dev/ubda "$cmdline" con=null)

machine_shell() {
  TMPDIR=$(uml_memory "$memory") "${uml[@]}" ssl=null ssl0=fd:0,fd:1 con0=null,fd:5 \
    5>"$scratch/console.log" 2>"$scratch/machine.log"
}

machine_start() {
  # by a pipe: User-Mode Linux cannot wait on a plain file
  mkfifo "$scratch/output"; cat "$scratch/output" & watcher=$!
  TMPDIR=$(uml_memory "$memory") timeout -k 5 "$limit" "${uml[@]}" con0=null,fd:5 ssl0=null ssl1=null,fd:3 \
    3>"$scratch/output" 5>"$scratch/console.log" </dev/null >"$scratch/machine.log" 2>&1 & machine=$!
}
