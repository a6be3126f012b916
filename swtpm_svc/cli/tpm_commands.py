"""All commands of vtpmctl that send TPM commands, by name."""

from swtpm_svc.cli import ek, identity, ownership

TPM_COMMANDS = {**ownership.COMMANDS, **ek.COMMANDS, **identity.COMMANDS}
