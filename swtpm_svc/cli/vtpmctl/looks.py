"""Which words of vtpmctl's output are bold or coloured on a terminal. The words themselves say all that there is."""

import re

from swtpm_svc.cli.terminal import BOLD, GREEN, RED, YELLOW, Rules


def _rules(*pairs: "tuple[str, str]") -> Rules:
    return tuple((re.compile(pattern, re.MULTILINE), look) for pattern, look in pairs)


_REMEDY = (r"^ +(remedy:?)(?= )", BOLD)
ERROR = _rules((r"\A(\w+:)(?= )", RED), _REMEDY)
#: By command.
REPORTS: "dict[str, Rules]" = {
    "list": _rules((r"\A(NAME .*)$", BOLD), (r"(?<=  )(failed)(?=  |$)", RED), _REMEDY),
    "status": _rules((r"\A(.+)$", BOLD), (r"^  (problem)(?= )", RED), _REMEDY),
    "doctor": _rules((r"^(ok)(?=  )", GREEN), (r"^(warn)(?=  )", YELLOW), (r"^(fail)(?=  )", RED), _REMEDY),
}
