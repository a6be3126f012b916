"""What Fedora's pyproject-rpm-macros and generators of dependencies do, as far as packaging/swtpm.spec uses them.

Run in the build root: the macros that call it are in tests/lab/rpm/macros, the generators in pyproject.attr.
"""

import email
import importlib
import os
import pkgutil
import re
import sys
from pathlib import Path

import tomllib
from packaging.requirements import Requirement


def rpm_name(text):
    """`cffi>=1.15` as rpm says it; None where its marker says that it is not wanted here."""
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return None
    name = f"python3dist({re.sub(r'[-_.]+', '-', requirement.name).lower()})"
    versions = [f"{clause.operator} {clause.version}" for clause in requirement.specifier]
    return f"{name} {versions[0]}" if versions else name


def build_requires(*options):
    settings = tomllib.loads(Path("pyproject.toml").read_text())
    wanted = ["pip", "packaging", *settings["build-system"]["requires"], *settings["project"]["dependencies"]]
    for extra in options[1:2] if options[:1] == ("-x",) else ():
        wanted += settings["project"]["optional-dependencies"][extra]
    print("\n".join(filter(None, map(rpm_name, wanted))))


def save_files(build_root, site, listing, *options):
    *flags, module = options
    top = Path(build_root + site)
    (info,) = top.glob("*.dist-info")
    licenses = [path for path in info.rglob("*") if path.name.startswith("LICENSE")]
    if "-l" in flags and not licenses:
        sys.exit("pyproject_save_files -l: no licence file in the metadata")
    lines = []
    for start in (top / module, info):
        for path in (start, *start.rglob("*")):
            prefix = "%dir " if path.is_dir() else "%license " if path in licenses else ""
            lines.append(f'{prefix}"{site}/{path.relative_to(top)}"')
    Path(listing).write_text("\n".join(lines) + "\n")


def check_import(site, module):
    package = importlib.import_module(module)
    if not package.__file__.startswith(site):
        sys.exit(f"{module} is {package.__file__}, not that of the build")
    for found in pkgutil.walk_packages(package.__path__, f"{module}."):
        importlib.import_module(found.name)


def metadata():
    for path in sys.stdin.read().split("\n"):
        if path:
            yield email.message_from_string(Path(path).read_text())


def requires():
    print(f"python(abi) = {sys.version_info[0]}.{sys.version_info[1]}")
    for found in metadata():
        print("\n".join(filter(None, map(rpm_name, found.get_all("Requires-Dist", [])))))


def provides():
    for found in metadata():
        print(f"{rpm_name(found['Name'])} = {found['Version']}")


if __name__ == "__main__":
    work = {"buildrequires": build_requires, "save-files": save_files, "check-import": check_import}
    work.update({"requires": requires, "provides": provides})
    os.umask(0o022)
    work[sys.argv[1]](*sys.argv[2:])
