"""Command lines of swtpm_bios in the life of one TPM, whatever the way to it is: `{where}`."""

from side_by_side import Line

RESET = Line("!{control} -i")

FOR_BOTH_VERSIONS = [
    Line("!{control} --stop"),
    Line("{version} {where}"),
    RESET,
    Line("{version} {where} -n"),
    Line("{version} {where}"),
    Line("{version} {where}"),
    Line("{version} {where} -s"),
    Line("{version} {where} -d"),
    Line("{version} {where} -o"),
    Line("{version} {where} -cs"),
    Line("{version} {where} -ea"),
    Line("{version} {where} -n -u"),
    Line("{version} {where} -n -u"),
    Line("{version} {where} -n -cs"),
    RESET,
    Line("{version} {where} -s"),
    RESET,
    Line("{version} {where} -d"),
    Line("{version} {where} -n -ea"),
    RESET,
    Line("{version} {where} -o -c -cs"),
    RESET,
    Line("{version} {where} -ea -cs -u"),
]

#: Deactivated for good, which takes a reset, and takes another one to be undone.
FOR_TPM_1_2 = [
    RESET,
    Line("{where} -o"),
    Line("?00c10000000c4000000a0020"),  # TSC_PhysicalPresence(CMD_ENABLE), then (PRESENT)
    Line("?00c10000000c4000000a0008"),
    Line("?00c10000000a0000006f"),  # TPM_PhysicalEnable
    Line("?00c10000000b0000007201"),  # TPM_PhysicalSetDeactivated(1)
    RESET,
    Line("{where} -d -ea"),
    RESET,
    Line("{where} -ea -cs -u"),
    Line("{where} -ea"),
    RESET,
    Line("{where} -ea -cs -u"),
    RESET,
    Line("{where} -d -cs -u"),
]
FOR_TPM_2 = [
    RESET,
    Line(
        "--tpm2 {where} -d -cs -u",  # 0.7.1: TPM2_ImcrementalSelfTest
        instead=(
            128,
            "TPM2_IncrementalSelfTest returned error code 0x00000100\n"
            "TPM2_HierarchyChangeAuth returned error code 0x00000100\n",
            "",
        ),
    ),
]
