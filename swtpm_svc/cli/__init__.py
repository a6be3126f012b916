"""The commands that people type.

The rule: arguments in, requests out, text and exit status back; what is decided is decided below. What several commands
need is here, each command's own in its folder. Everything about a command, except how it is done, is a row of its
program's table (vtpmctl/commands.py), from which the rest is made (command.py).
"""
