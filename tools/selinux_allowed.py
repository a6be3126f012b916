"""Compares what the SELinux policy module allows with the list of what it may allow.

    selinux_allowed.py MODULE.cil LIST

MODULE.cil is what /usr/libexec/selinux/hll/pp makes of a compiled module: every interface and macro is expanded there.
LIST has one line for each source, target and class, with the permissions ("vtpm_t vtpm_etc_t file: getattr open read"),
"if NAME" before it for a rule that holds only with that boolean, and one line for each attribute that a domain gets
("vtpm_t is domain"), because others' rules for the attribute then hold for it. A statement of any other kind, such as
one that makes a domain permissive, cannot be listed. A line that the module does not need is not an error: policies of
different releases expand differently. A permission that the module has and the list lacks is one, with status 1.
"""

import re
import sys
from collections.abc import Iterator
from typing import Union

#: A list in CIL's notation, or a word.
Node = Union[str, "list[Node]"]
Rules = dict[str, set[str]]
#: Statements that allow nothing.
DECLARATIONS = {"boolean", "dontaudit", "filecon", "roleattributeset", "roletype", "type", "typetransition"}


def parse(text: str) -> "list[Node]":
    stack: list[list[Node]] = [[]]
    for word in re.findall(r'"[^"]*"|[()]|[^\s()";]+|;[^\n]*', text):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        elif not word.startswith(";"):
            stack[-1].append(word)
    return stack[0]


def rules_of(nodes: "list[Node]") -> Rules:
    """Permissions by the left side of a line, and for "... is ATTRIBUTE" none.

    Only domains have lines for attributes: those of a file's type say what others may do with it.
    """
    found: Rules = {}
    memberships: list[tuple[str, str]] = []
    _collect(nodes, "", found, memberships)
    domains = {member for attribute, member in memberships if attribute == "domain"}
    for attribute, member in memberships:
        if member in domains and attribute != "cil_gen_require":
            found.setdefault(f"{member} is {attribute}", set())
    return found


def _collect(nodes: "list[Node]", condition: str, found: Rules, memberships: "list[tuple[str, str]]") -> None:
    for node in nodes:
        if not isinstance(node, list) or not node:
            continue
        if node[0] == "allow":
            source, target, (kind, permissions) = node[1:]
            target = source if target == "self" else target
            found.setdefault(f"{condition}{source} {target} {kind}", set()).update(_words(permissions))
        elif node[0] == "typeattributeset":
            memberships += [(str(node[1]), member) for member in _words(node[2])]
        elif node[0] == "booleanif":
            _collect(node[2:], f"if {' '.join(_words(node[1]))} ", found, memberships)
        elif node[0] in ("optional", "true", "false"):
            _collect(node[1:], f"not {condition}" if node[0] == "false" else condition, found, memberships)
        elif node[0] not in DECLARATIONS:
            found.setdefault(condition + " ".join(_words(node)), set())


def _words(node: Node) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for inner in node:
            yield from _words(inner)


def read_list(lines: "list[str]") -> Rules:
    """
    Raises:
        ValueError: a line is of neither kind.
    """
    listed: Rules = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        left, separator, right = text.partition(":")
        if not separator and " is " not in text:
            raise ValueError(
                f"line {number}: {text!r} is neither SOURCE TARGET CLASS: PERMISSION... nor DOMAIN is ATTRIBUTE"
            )
        listed.setdefault(left.strip(), set()).update(right.split())
    return listed


def beyond(found: Rules, listed: Rules) -> "list[str]":
    """The lines that the list lacks."""
    lines = []
    for left, permissions in sorted(found.items()):
        more = permissions - listed.get(left, set())
        if more or left not in listed:
            lines.append(f"{left}: {' '.join(sorted(more))}" if permissions else left)
    return lines


def main(arguments: "list[str]") -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: selinux_allowed.py MODULE.cil LIST\n")
        return 64
    with open(arguments[0], encoding="utf-8") as module, open(arguments[1], encoding="utf-8") as file:
        found = rules_of(parse(module.read()))
        try:
            listed = read_list(file.readlines())
        except ValueError as error:
            sys.stderr.write(f"selinux_allowed.py: {arguments[1]}: {error}\n")
            return 65
    lines = beyond(found, listed)
    for line in lines:
        print(line)
    if lines:
        sys.stderr.write(
            f"selinux_allowed.py: {len(lines)} lines above are allowed by the module and not by {arguments[1]}\n"
        )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
