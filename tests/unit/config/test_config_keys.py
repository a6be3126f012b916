"""[state]: where the keys of the files and of blobs come from."""

import pytest

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.keys import Source

PATH = "/etc/vtpm.d/vtpm0.toml"


def state(text: str) -> loading.StateConfig:
    return loading.parse(f"[state]\n{text}", PATH, "vtpm0").state


@pytest.mark.parametrize("prefix", ["", "migration-"])
@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", None),
        ('{}key-credential = "state-key"', Source("credential", "state-key", "hex")),
        ('{}key-credential = "pass.1"\n{}key-format = "sha512"', Source("credential", "pass.1", "sha512")),
        ('{}key-file = "/etc//k"\n{}key-mode = "aes-256-cbc"', Source("file", "/etc/k", "hex", "aes-256-cbc")),
        ('{}key-file = "/k"\n{}key-format = "binary"', Source("file", "/k", "binary")),
        ('{}passphrase-file = "/p"', Source("file", "/p", "pbkdf2")),
        ('{}passphrase-file = "/p"\n{}key-format = "sha512"', Source("file", "/p", "sha512")),
    ],
)
def test_a_key_has_a_source(prefix, text, source):
    found = state(text.replace("{}", prefix))
    assert (found.migration_key if prefix else found.key) == source
    assert (found.key if prefix else found.migration_key) is None


@pytest.mark.parametrize(
    "key", ["key-file", "key-credential", "passphrase-file", "migration-key-file", "migration-key-credential"]
)
@pytest.mark.parametrize("value", ["5ec4e7aa" * 4, "5EC4E7aa" * 8, "0x" + "5ec4e7aa" * 4])
def test_a_key_in_the_place_of_its_place_is_not_shown(key, value):
    with pytest.raises(VtpmError) as caught:
        state(f'{key} = "{value}"')
    expected = A_CREDENTIAL if "credential" in key else A_FILE
    found = f"{64 if len(value) == 64 else 32} hex digits, which are not shown"
    assert caught.value.message == f"{PATH}: [state] {key}: found {found}, expected {expected}"
    assert caught.value.remedy == f'write for example: {key} = "none"'


A_FILE = '"none" or an absolute path without ..'

A_CREDENTIAL = '"none" or the name of a credential: letters, digits, dots, dashes and underscores, the first neither a dot nor a dash'

NAME_A_KEY = "name one: {}key-credential, {}key-file or {}passphrase-file"

CONTRADICTIONS = [
    (
        '{}key-file = "/k"\n{}passphrase-file = "/p"',
        "found {}key-file and {}passphrase-file, expected one of them",
        "remove all but one",
    ),
    (
        '{}key-file = "/k"\n{}key-credential = "c"',
        "found {}key-credential and {}key-file, expected one of them",
        "remove all but one",
    ),
    ('{}key-format = "hex"', '{}key-format: found "hex", but no key', NAME_A_KEY),
    ('{}key-mode = "aes-cbc"', '{}key-mode: found "aes-cbc", but no key', NAME_A_KEY),
    (
        '{}passphrase-file = "/p"\n{}key-format = "hex"',
        '{}key-format: found "hex", expected "auto", "pbkdf2" or "sha512" for a passphrase',
        "write {}key-file instead of {}passphrase-file, or another format",
    ),
    ('{}key-file = "k"', f'{{}}key-file: found "k", expected {A_FILE}', 'write for example: {}key-file = "none"'),
    (
        '{}key-file = "/a/../k"',
        f'{{}}key-file: found "/a/../k", expected {A_FILE}',
        'write for example: {}key-file = "none"',
    ),
    *(
        (
            f'{{}}key-credential = "{name}"',
            f'{{}}key-credential: found "{name}", expected {A_CREDENTIAL}',
            'write for example: {}key-credential = "none"',
        )
        for name in ("../k", ".k")
    ),
    (
        '{}key-mode = "aes-128-cbc"',
        '{}key-mode: found "aes-128-cbc", expected "auto", "aes-cbc" or "aes-256-cbc"',
        'write for example: {}key-mode = "auto"',
    ),
]


@pytest.mark.parametrize("prefix", ["", "migration-"])
@pytest.mark.parametrize(("text", "message", "remedy"), CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_refused(prefix, text, message, remedy):
    text, message, remedy = (words.replace("{}", prefix) for words in (text, message, remedy))
    with pytest.raises(VtpmError) as caught:
        state(text)
    error = caught.value
    assert (error.code, error.message, error.remedy) == (Code.CONFIG_INVALID, f"{PATH}: [state] {message}", remedy)
