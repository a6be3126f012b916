"""Names of instances, and their files: what is read, and what is refused before it is parsed."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

PATH = "/etc/vtpm.d/vtpm0.toml"
NOBODY = 65534


def test_the_default_path():
    assert loading.default_path("vtpm0") == "/etc/vtpm.d/vtpm0.toml"


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "-x", "a/b", "../../etc/passwd", "a b", "a\n", "é", "a" * 88, "vtpm@0"]
)
def test_no_other_name_becomes_a_path(name):
    for use in (loading.default_path, loading.check_instance, lambda instance: loading.parse("", PATH, instance)):
        with pytest.raises(VtpmError) as caught:
            use(name)
        assert caught.value.code is Code.USAGE
        assert caught.value.message.isprintable()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def load_error(path: object) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        loading.load(str(path), "vtpm0")
    assert caught.value.remedy
    return caught.value


def test_a_file_is_loaded(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_text('[tpm]\nversion = "1.2"\n')
    loaded = loading.load(str(file), "vtpm0")
    assert (loaded.tpm.version, loaded.path) == ("1.2", str(file))


def test_a_byte_order_mark_at_the_beginning_says_nothing(tmp_path):
    """As some editors write it; the parser calls it an invalid statement."""
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b'\xef\xbb\xbf[tpm]\r\nversion = "1.2"\r\n')
    assert loading.load(str(file), "vtpm0").tpm.version == "1.2"
    file.write_bytes(b"\xff\xfe[\0t\0p\0m\0]\0")
    assert load_error(file).message == f"{file}: line 1: found the byte 0xff, expected text in UTF-8"


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 30000) + " = 1",  # took 20 s
        "[" + ".".join(["a"] * 30000) + "]",
        "x = {" + ", ".join(f"k{number}.a.b.c = 1" for number in range(3500)) + "}",
        "\n".join(".".join([f"k{number}"] + ["a"] * 150) + " = 1" for number in range(200)),
        "[" * 30000,
        "x = " + "[" * 30000,
        "a = 1\n" * 10000,
    ],
)
def test_no_file_takes_the_parser_long(text):
    assert len(text) < loading.FILE_MAX_BYTES
    start = time.process_time()
    with pytest.raises(VtpmError):
        loading.parse(text, "/etc/vtpm.d/vtpm0.toml", "vtpm0")
    assert time.process_time() - start < 2


def test_dots_in_values_and_remarks_are_no_parts_of_keys(tmp_path):
    path = "/" + ".".join(["a"] * 150)
    loaded = loading.parse(f'# {"." * 500}\n[state]\ndirectory = "{path}"\n', "/etc/vtpm.d/vtpm0.toml", "vtpm0")
    assert loaded.state.directory == path


def test_a_missing_file(tmp_path):
    error = load_error(tmp_path / "vtpm0.toml")
    assert error.code is Code.CONFIG_MISSING
    assert error.message == f"{tmp_path}/vtpm0.toml does not exist"
    assert error.remedy == f"create it; an empty file is a TPM 2.0 at /dev/vtpm0: touch {tmp_path}/vtpm0.toml"
    (tmp_path / "file").touch()
    assert load_error(tmp_path / "file" / "vtpm0.toml").code is Code.CONFIG_MISSING
    folder = tmp_path / "of me"
    assert load_error(folder / "vtpm0.toml").remedy == (
        "create it; an empty file is a TPM 2.0 at /dev/vtpm0:"
        f" install -d -m 0755 '{folder}' && touch '{folder}/vtpm0.toml'"
    )


def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        file = Path(directory) / "vtpm0.toml"
        file.touch(mode=0o000)
        with unprivileged():
            error = load_error(file)
    assert error.code is Code.CONFIG_UNREADABLE
    assert error.message == f"{file}: Permission denied"
    assert error.remedy == "run this as root"  # /etc/shadow, named by mistake, is not to be made readable


def test_what_is_no_file(tmp_path):
    error = load_error(tmp_path)
    assert (error.code, error.message) == (Code.CONFIG_UNREADABLE, f"{tmp_path}: found a directory, expected a file")
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    assert load_error(fifo).message == f"{fifo}: found a special file, expected a file"
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    assert load_error(loop).code is Code.CONFIG_UNREADABLE


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b"[tpm]\n# \xe9t\xe9\n")
    error = load_error(file)
    assert error.code is Code.CONFIG_INVALID
    assert error.message == f"{file}: line 2: found the byte 0xe9, expected text in UTF-8"


def test_a_file_that_does_not_end(tmp_path):
    file = tmp_path / "vtpm0.toml"
    file.write_bytes(b"#" * (64 * 1024))
    loading.load(str(file), "vtpm0")
    file.write_bytes(b"#" * (64 * 1024 + 1))
    error = load_error(file)
    says = f"{file}: found more than 65536 bytes, expected a configuration of at most that"
    assert (error.code, error.message) == (Code.CONFIG_INVALID, says)


def test_failures_leave_no_descriptor_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_error(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_instances_are_the_toml_files(tmp_path):
    for name in ("b.toml", "a.toml", "a.toml.rpmnew", ".hidden.toml", "with space.toml", "README"):
        (tmp_path / name).touch()
    assert loading.instances(str(tmp_path)) == ["a", "b"]
    with pytest.raises(VtpmError) as caught:
        loading.instances(str(tmp_path / "none"))
    assert caught.value.code is Code.CONFIG_MISSING


@pytest.mark.parametrize("name", ["3f1c1c5e-6a0b-4a57-9c22-7d8a41f0a8d3", "a" * 87])
def test_an_instance_may_have_the_name_of_a_machine(name):
    loaded = loading.parse("", f"/etc/vtpm.d/{name}.toml", name)
    assert loaded.device.name == name
    assert len(loaded.socket.control) <= 107


def test_a_name_that_is_too_long_is_told_why():
    with pytest.raises(VtpmError) as caught:
        loading.check_instance("a" * 88)
    expected = "instance name: found 88 characters, expected at most 87: the path of its control socket may have 107"
    assert caught.value.message == expected
