"""Who may import whom: docs/architecture.md has the picture, this is the table.

And no two modules have the same name.
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "swtpm_svc"
#: Each floor, with those below it that it stands on. All but `wire` may import `errors`, which has the TPM's return codes
#: from there.
FLOORS = {
    "wire": set(),
    "state": {"wire"},
    "tpm": {"state", "wire"},
    "resources": {"wire"},
    "continuity": {"tpm", "state", "wire"},
    "config": {"state", "wire"},
    "provision": {"tpm", "state", "wire"},
    "frontends": {"config", "provision", "continuity", "resources", "tpm", "state", "wire"},
    "service": {"frontends", "config", "provision", "continuity", "tpm", "state", "wire"},
    "cli": {"service", "frontends", "config", "provision", "continuity", "tpm", "state", "wire"},
    "errors": {"wire"},
    #: Where the commands begin; each is imported when it is chosen.
    "start": {"service", "cli"},
}
#: Rooms of one floor that know nothing of each other.
APART = {"frontends": ("cuse", "sockets", "fuse", "kernel"), "cli": ("vtpmctl", "classic")}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path):
    """Those of ours, as dotted names below the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            if (node.module or "").split(".")[0] == "swtpm_svc":
                yield from (f"{node.module}.{alias.name}"[len("swtpm_svc.") :] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name[len("swtpm_svc.") :] for alias in node.names if alias.name.startswith("swtpm_svc."))


def test_every_folder_is_a_floor_of_the_table():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - {"errors", "start"}


def test_imports_point_down():
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in MODULES
        if (floor := name_of(path).split(".")[0]) in FLOORS
        for imported in imports_of(path)
        if imported.split(".")[0]
        not in {floor, "__version__", *FLOORS[floor], *({"errors"} if floor != "wire" else ())}
    ]
    assert wrong == []


def test_rooms_that_stand_apart_do():
    wrong = [
        f"{name_of(path)} imports {imported}"
        for floor, rooms in APART.items()
        for room in rooms
        for path in (PACKAGE / floor / room).rglob("*.py")
        for imported in imports_of(path)
        if imported.split(".")[:1] == [floor] and imported.split(".")[1] in set(rooms) - {room}
    ]
    assert wrong == []


def test_every_way_in_stands_apart():
    assert sorted(APART["frontends"]) == sorted(path.parent.name for path in PACKAGE.glob("frontends/*/__init__.py"))


def test_no_two_modules_import_each_other():
    names = {name_of(path) for path in MODULES}
    edges = {
        name_of(path): {
            found
            for imported in imports_of(path)
            for found in (imported, imported.rpartition(".")[0])
            if found in names
        }
        for path in MODULES
    }
    assert [(one, two) for one, found in edges.items() for two in found if one < two and one in edges[two]] == []


def test_a_module_s_name_is_its_own():
    counted = Counter(path.name for path in MODULES if path.name != "__init__.py")
    assert [name for name, number in counted.items() if number > 1] == []


def test_every_package_says_what_its_rule_is():
    assert [
        str(path) for path in PACKAGE.rglob("__init__.py") if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []
