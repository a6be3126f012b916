"""All commands of vtpmctl that send TPM commands, by name."""

from swtpm_svc.cli.vtpmctl import ek, identity, owner_commands

TPM_COMMANDS = {**owner_commands.COMMANDS, **ek.COMMANDS, **identity.COMMANDS}
