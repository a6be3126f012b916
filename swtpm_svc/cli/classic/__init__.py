"""The old command names, as drop-in replacements: swtpm, swtpm_cuse, swtpm_ioctl, swtpm_setup, ... and those of 2014.

The rule: the command lines, outputs and exit statuses of swtpm 0.10 on the outside, our engine inside. A command here
scans its words (`option_scanner`, `comma_list`), makes the same values of them as an instance's file does, and hands
those on. Whatever a table can say about a command is in a table.
"""

#: The release of swtpm whose command lines these are: what --version and the capability lists say.
SWTPM_VERSION = "0.10.2"
