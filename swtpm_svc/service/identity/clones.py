"""What each TPM that is served on this host is known by, so that a copy of one is noticed.

    /run/vtpmkeys/NAME/WORD   for each endorsement key, and for the storage hierarchy, of the TPM of NAME: an empty file

WORD is a key's fingerprint, or the mark of the hierarchy, in hexadecimal (identity_record.py). systemd makes NAME's
directory before the service starts and removes it when it has ended, so a name that is there is one that is served. The
instances see all of them, unlike their other directories, and each can write to its own only. Names are all that is
looked at: nothing that another instance has written is opened, and the names are not secret, for the status tells them
to everybody.
"""

import os
from itertools import islice

from swtpm_svc.wire.hints import Optional

DIRECTORY = "/run/vtpmkeys"
_HEX_DIGITS = frozenset("0123456789abcdef")
_WORD_LENGTHS = (16, 64)
#: More than any TPM has; what else lies in an instance's directory is not looked at.
_WORDS_MAX = 64


def _is_word(name: str) -> bool:
    return len(name) in _WORD_LENGTHS and _HEX_DIGITS.issuperset(name)


def own_directory() -> Optional[str]:
    """Where systemd says; None for a daemon that it did not start."""
    paths = os.environ.get("RUNTIME_DIRECTORY", "").split(":")
    return next(
        (path for path in paths if os.path.basename(os.path.dirname(path)) == os.path.basename(DIRECTORY)), None
    )


def show(own: str, words: "set[str]") -> None:
    """Have the instance known by these words and no others. Raises: OSError."""
    present = set(os.listdir(own))
    for word in present - words:
        os.unlink(f"{own}/{word}")
    for word in words - present:
        os.close(os.open(f"{own}/{word}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def who_has(words: "set[str]", directory: Optional[str] = None) -> "dict[str, list[str]]":
    """The instances that are known by these words: each word's, sorted. A word that no instance has is left out."""
    directory = directory or DIRECTORY
    try:
        instances = sorted(os.listdir(directory))
    except OSError:
        return {}
    found = {
        word: [name for name in instances if os.path.lexists(f"{directory}/{name}/{word}")] for word in sorted(words)
    }
    return {word: names for word, names in found.items() if names}


def shared() -> "list[list[str]]":
    """The groups of instances that have the same TPM, each once and sorted."""
    directory = DIRECTORY
    words: set[str] = set()
    try:
        instances = os.listdir(directory)
    except OSError:
        return []
    for name in instances:
        try:
            with os.scandir(f"{directory}/{name}") as entries:
                words.update(entry.name for entry in islice(entries, _WORDS_MAX) if _is_word(entry.name))
        except OSError:
            pass  # one that is just ending
    groups = {tuple(names) for names in who_has(words, directory).values() if len(names) > 1}
    return [list(names) for names in sorted(groups)]
