#!/usr/bin/env python3
"""Do the tests notice a fault? Put small ones into a copy of the tree, one at a time, and run the tests beside it.

A mutant is one change of one place: a condition negated, a comparison swapped, a number one larger, a truth value
turned, a statement or a call removed, `and` for `or`, None returned, an `except` that lets its error through. The
places are drawn with a seed, so the same seed on the same tree gives the same mutants; `--list` shows them without
running anything. One that the tests do not notice is printed with its file, line and diff: it is a hole in the tests,
or changes nothing that anybody can see.

The copy is made of what git knows, and of the built extension; the interpreter is that of .venv, so run `make` before.
Run it as root for what needs root. A mutant may do what no test foresees: not on a machine that matters.

    tools/mutate.py --number 20                         twenty, anywhere
    tools/mutate.py --number 5 swtpm_svc/state          in these modules only
    tools/mutate.py --only 3,17 --number 20             two of those twenty once more, after the tests were mended
"""

import argparse
import ast
import difflib
import fnmatch
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
#: Where a fault costs somebody a TPM, a secret or an answer.
MODULES = [f"swtpm_svc/{room}" for room in ("state", "tpm", "continuity", "frontends", "service", "provision")]
#: The extension in the copy is the one that was built before.
BUILD_ONLY = {ROOT / "swtpm_svc/tpm/_build.py"}
#: What runs for a module: the first pattern that fits. Each word is one run of pytest, the cheapest first.
TESTS = {
    "state/newborn.py": "unit/state/* integration/state/test_newborn* integration/cli/test_create*",
    "state/filling.py": "unit/state/* integration/state/test_newborn* integration/cli/test_create*",
    "state/re*.py": "unit/state/* integration/state/* integration/cli/test_rekey.py",
    "state/*": "unit/state/* integration/state/* integration/cli/test_remedies* integration/service/test_failed*",
    "tpm/pcr.py": "unit/tpm/* integration/tpm/* integration/frontends/fuse",
    "tpm/*": "unit/tpm/* integration/tpm/* integration/frontends/cuse integration/frontends/test_sockets.py",
    "continuity/*": "unit/continuity/* integration/continuity/* integration/frontends/cuse",
    "frontends/cuse/*": "unit/frontends/* integration/frontends/cuse",
    "frontends/fuse/*": "unit/frontends/* integration/frontends/fuse",
    "frontends/sockets/mssim*": "integration/frontends/test_mssim* integration/frontends/test_*socket*",
    "frontends/sockets/*": "unit/frontends/* integration/frontends/test_*socket* integration/frontends/test_tcp*",
    "frontends/kernel/*": "unit/frontends/* integration/frontends/test_kernel*",
    "frontends/*": "unit/frontends/* integration/frontends/cuse integration/frontends/test_[ms]*",
    "service/identity/*": "unit/service/* integration/service/test_identity* integration/cli/test_identity.py",
    "service/kernel_tpm/*": "unit/service/* integration/frontends/test_kernel*",
    "service/*": "unit/service/* integration/continuity/* integration/service/*",
    "provision/ca*": "unit/provision/* integration/provision/test_ca*",
    "provision/*": "unit/provision/* integration/provision/* integration/cli/test_create.py "
    "integration/cli/test_create_refused.py integration/cli/test_first_start.py",
    "config/*": "unit/config/* unit/service/* integration/service/test_reload* integration/service/test_daemon*",
    "wire/*": "unit/wire/* integration/frontends/test_[bms]* integration/frontends/cuse",
    "cli/classic/*": "unit/cli/classic/* unit/cli/*",
    "cli/vtpmctl/create.py": "unit/cli/* integration/cli/test_create*",
    "cli/vtpmctl/identity.py": "unit/cli/* integration/cli/test_identity.py",
    "cli/vtpmctl/rekey.py": "unit/cli/* integration/cli/test_rekey.py",
    "cli/*": "unit/cli/* integration/cli/test_vtpmctl.py integration/cli/*",
}
#: So that a mutant that takes memory without an end takes no more than this.
MEMORY_BYTES = 8 << 30

COMPARISONS = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}


class Mutant(NamedTuple):
    """One change: the bytes from `start` to `end` of the file become `text`."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        lines = list(difflib.unified_diff(before, after, lineterm="", n=1))
        return "\n".join(f"    {line}" for line in lines[2:])


class Finder:
    """Finds what can be changed in one module."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def find(self) -> "list[Mutant]":
        tree = ast.parse(self.source)
        found = [mutant for node in ast.walk(tree) for mutant in self._of(node)]
        return sorted(found, key=lambda mutant: mutant[3:])

    def _of(self, node: ast.AST) -> "Iterator[Mutant]":
        """The mutants of one node, not of those below it."""
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            yield self._new(node.test, "a condition negated", f"not ({self._text(node.test)})")
        if isinstance(node, ast.comprehension):
            for test in node.ifs:
                yield self._new(test, "a condition negated", f"not ({self._text(test)})")
        if isinstance(node, ast.Compare):
            yield from self._comparisons(node)
        if isinstance(node, ast.BoolOp):
            other = "or" if isinstance(node.op, ast.And) else "and"
            text = f" {other} ".join(f"({self._text(value)})" for value in node.values)
            yield self._new(node, "and for or", f"({text})")
        if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield self._new(node, "a constant changed", repr(value))
        if isinstance(node, ast.Return) and node.value is not None and self._text(node.value) != "None":
            yield self._new(node, "None returned", "return None")
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))
        ):
            yield self._new(node, "a statement removed", "pass")
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)) and not self._is_of_names(node):
            yield self._new(node, "a statement removed", "pass")
        if isinstance(node, ast.ExceptHandler):
            first, last = node.body[0], node.body[-1]
            start, end = self._place(first)[0], self._place(last)[1]
            if self.source[start:end] != b"raise":
                yield Mutant(self.path, node.lineno, "an except dropped", start, end, "raise")

    def _comparisons(self, node: ast.Compare) -> "Iterator[Mutant]":
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:]):
            before, after = COMPARISONS[type(operator)]
            start, end = self._place(left)[1], self._place(right)[0]
            text = self.source[start:end].decode().replace(before, after, 1)
            yield Mutant(self.path, node.lineno, "a comparison swapped", start, end, text)

    @staticmethod
    def _is_of_names(node: ast.stmt) -> bool:
        """Without such a statement every test fails at once: there is no such name."""
        targets = [node.target] if isinstance(node, ast.AugAssign) else getattr(node, "targets", [])
        return isinstance(node, ast.Assign) and any(
            not isinstance(one, (ast.Attribute, ast.Subscript)) for one in targets
        )

    def _new(self, node: "ast.expr | ast.stmt", kind: str, text: str) -> Mutant:
        return Mutant(self.path, node.lineno, kind, *self._place(node), text)

    def _place(self, node: "ast.expr | ast.stmt") -> "tuple[int, int]":
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        start, end = self._place(node)
        return self.source[start:end].decode()


def choose(places: "list[str]", number: int, seed: int) -> "list[Mutant]":
    """`number` of all the mutants of these modules, those that Python can compile."""
    found: list[Mutant] = []
    for place in places:
        files = sorted(set((ROOT / place).rglob("*.py")) - BUILD_ONLY) if (ROOT / place).is_dir() else [ROOT / place]
        for file in files:
            found += Finder(str(file.relative_to(ROOT)), file.read_bytes()).find()
    random.Random(seed).shuffle(found)
    chosen: list[Mutant] = []
    for mutant in found:
        if len(chosen) == number:
            break
        try:
            compile(mutant.apply((ROOT / mutant.path).read_bytes()), mutant.path, "exec")
        except SyntaxError:
            continue
        chosen.append(mutant)
    return chosen


class Copy:
    """A copy of the tree. A context manager."""

    def __init__(self, time_limit_s: int, run_with: "list[str]") -> None:
        self._time_limit_s, self._run_with = time_limit_s, run_with
        self._changed_at = time.time()

    def __enter__(self) -> "Copy":
        self.root = Path(tempfile.mkdtemp(prefix="vtpm-mutants-"))
        self.root.chmod(0o755)  # the service's user has to come through
        command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        names += [str(path.relative_to(ROOT)) for path in (ROOT / "swtpm_svc/tpm").glob("_libtpms*.so")]
        for name in names:
            if name and (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        return self

    def __exit__(self, *_exc: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def write(self, path: str, source: bytes) -> None:
        (self.root / path).write_bytes(source)
        # what Python has compiled is that of a time in whole seconds, and each change needs one of its own
        self._changed_at += 2
        os.utime(self.root / path, (self._changed_at, self._changed_at))

    def failing(self, selections: "list[list[str]]") -> "Optional[str]":
        """The first test that fails, or None: all pass."""
        for tests in selections:
            found = self._run(tests)
            if found is not None:
                return found
        return None

    def _run(self, tests: "list[str]") -> "Optional[str]":
        command = [*self._run_with, "timeout", "-k", "10", str(self._time_limit_s)]
        command += [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
        # before the tree that .venv was made for
        environment.update(PYTHONPATH=str(self.root), HYPOTHESIS_STORAGE_DIRECTORY=str(self.root / ".hypothesis"))
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, preexec_fn=_limit_memory,
        )  # fmt: skip
        if done.returncode in (0, 5):  # 5: there are none
            return None
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return lines[0][:150] if lines else f"pytest ended with {done.returncode}"


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def tests_of(path: str, root: Path) -> "list[list[str]]":
    """What is run for a module: for each run of pytest, the files that are not in one before."""
    inside = path.partition("/")[2]
    words = next(
        (words for pattern, words in TESTS.items() if fnmatch.fnmatch(inside, pattern)), "unit/* integration/*"
    )
    runs, seen = [], set()
    for word in words.split():
        files = sorted({str(file) for found in root.glob(f"tests/{word}") for file in _test_files(found)} - seen)
        seen.update(files)
        if files:
            runs.append(files)
    return runs


def _test_files(found: Path) -> "list[Path]":
    return sorted(found.rglob("test_*.py")) if found.is_dir() else [found] if found.match("test_*.py") else []


def run(mutants: "list[tuple[int, Mutant]]", copy: Copy) -> "list[int]":
    """Try each; the numbers of those that nothing has noticed."""
    survivors = []
    for number, mutant in mutants:
        source, began = (ROOT / mutant.path).read_bytes(), time.monotonic()
        copy.write(mutant.path, mutant.apply(source))
        failing = copy.failing(tests_of(mutant.path, copy.root))
        copy.write(mutant.path, source)
        print(f"{number}: {mutant.path}:{mutant.line}: {mutant.kind}: {failing or 'NOT NOTICED'}", end="")
        print(f" ({time.monotonic() - began:.0f} s)", flush=True)
        if failing is None:
            survivors.append(number)
            print(mutant.diff(source), flush=True)
    return survivors


def main() -> int:
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", default=MODULES, help="files or folders (those where a fault is dear)")
    parser.add_argument("--number", type=int, default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the random choice (1)")
    parser.add_argument("--only", default="", help="numbers of some of them, as 3,17 or 40-59")
    parser.add_argument("--list", action="store_true", help="show the mutants, and run nothing")
    parser.add_argument("--time-limit", type=int, default=600, metavar="S", help="of one run of pytest (600)")
    parser.add_argument("--run-with", default="", metavar="COMMAND", help="put before each run of pytest, as nice")
    parser.add_argument("--unchanged", action="store_true", help="see first that the tests pass without a mutant")
    options = parser.parse_args()
    mutants = list(enumerate(choose(options.modules, options.number, options.seed), 1))
    if options.only:
        spans = [(word + "-" + word).split("-")[:2] for word in options.only.split(",")]
        mutants = [one for one in mutants if any(int(first) <= one[0] <= int(last) for first, last in spans)]
    if options.list:
        for number, mutant in mutants:
            print(f"{number}: {mutant.path}:{mutant.line}: {mutant.kind}")
            print(mutant.diff((ROOT / mutant.path).read_bytes()))
        return 0
    with Copy(options.time_limit, options.run_with.split()) as copy:
        for path in sorted({mutant.path for _number, mutant in mutants}) if options.unchanged else []:
            failing = copy.failing(tests_of(path, copy.root))
            if failing is not None:
                sys.exit(f"without a mutant: {path}: {failing}")
        survivors = run(mutants, copy)
    print(f"seed {options.seed}: {len(mutants)} mutants, {len(mutants) - len(survivors)} noticed", end="")
    print(f"; not noticed: {', '.join(map(str, survivors))}" if survivors else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
