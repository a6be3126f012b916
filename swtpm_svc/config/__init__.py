"""The configuration: one table of what may stand in it, reading it, and the addresses and places that it names.

The rule: values in, frozen values out. Front ends and commands import it; it looks at nothing of the host but the file
itself.
"""
