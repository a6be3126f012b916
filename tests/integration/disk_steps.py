"""What a piece of code does to the disk, step by step, as far as a loss of power asks for it: names and fsyncs.

A file must be synced before it gets its name, a directory before it gets its own, and the one above after.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

#: Random parts of names, of drafts and of what was replaced.
_RANDOM = re.compile(r"(?<=\.new-)[0-9a-f]{8}\b|(?<=replaced-)\d{8}T\d{6}Z-[0-9a-f]{4}")


@contextmanager
def disk_steps(folder: object) -> "Iterator[list[str]]":
    """The steps of what runs meanwhile below `folder`, in order: "fsync PATH", "mkdir PATH", "rename OLD NEW", ..."""
    root = os.path.realpath(str(folder))
    steps: list[str] = []

    def told(path: str) -> str:
        return _RANDOM.sub("*", os.path.relpath(path, root))

    def at(name: Any, directory: Any) -> str:
        return os.path.join(os.readlink(f"/proc/self/fd/{directory}") if directory is not None else root, name)

    def add(call: str, *paths: str) -> None:
        if all(f"{path}/".startswith(f"{root}/") for path in paths):
            steps.append(" ".join([call, *map(told, paths)]))

    def fsync(fd: int) -> None:
        real["fsync"](fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        add("fsync", os.path.dirname(path) + "/nameless" if path.endswith(" (deleted)") else path)

    def one(call: str) -> Any:
        def run(name: Any, *arguments: Any, **options: Any) -> Any:
            result = real[call](name, *arguments, **options)
            add(call, at(name, options.get("dir_fd")))
            return result

        return run

    def two(call: str) -> Any:
        def run(old: Any, new: Any, **options: Any) -> Any:
            paths = at(old, options.get("src_dir_fd")), at(new, options.get("dst_dir_fd"))
            result = real[call](old, new, **options)
            add(call, *(paths[1:] if call == "link" else paths))
            return result

        return run

    replaced = {"fsync": fsync, **{call: one(call) for call in ("mkdir", "rmdir", "unlink")}}
    replaced.update({call: two(call) for call in ("rename", "link")})
    real = {call: getattr(os, call) for call in replaced}
    with mock.patch.multiple(os, **replaced):
        yield steps
