"""vtpmctl before a service that answers what no service would: the service is another user's, and may have been taken
over."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import Callable

import pytest

from swtpm_svc.cli.tpm_control import Target, open_device
from swtpm_svc.cli.vtpmctl import operations
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.wire.protocol_error import ProtocolError

STATE = Struct(">IIII")  # result, flags, total, length
INFO = Struct(">III")  # result, total, length


@contextmanager
def answering(path: Path, answer: "Callable[[int], bytes]") -> Iterator[Target]:
    """A control socket that answers each request, whatever it is, with `answer` of its number. One client."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _address = listener.accept()
            with client, suppress(BrokenPipeError):  # who has heard enough goes
                number = 0
                while client.recv(65536):
                    client.sendall(answer(number))
                    number += 1

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Target("vm1", str(path), "vm1")
        thread.join(10)
        assert not thread.is_alive()


def state(total: int, data: bytes) -> bytes:
    return STATE.pack(0, 0, total, len(data)) + data


def info(total: int, data: bytes) -> bytes:
    return INFO.pack(0, total, len(data)) + data


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: state(0xFFFFFFFF, b"x" * 60_000),
        lambda number: state(16 * 1024 * 1024 + 1, b"x"),
        lambda number: state(16 * 1024 * 1024, b"x"),  # a byte at a time
        lambda number: state(1000, b"x") if number < 999 else state(0xFFFFFFFF, b"y" * 60_000_000),
    ],
    ids=["4 GiB", "a byte too many", "drops", "more at the end"],
)
def test_a_state_without_an_end_is_not_saved(tmp_path: Path, answer: "Callable[[int], bytes]") -> None:
    target = tmp_path / "saved"
    target.write_bytes(b"before")
    begin = time.monotonic()
    with (
        answering(tmp_path / "ctrl.sock", answer) as there,
        open_device(there) as device,
        pytest.raises(VtpmError) as caught,
    ):
        operations.save(device, type="permanent", file=str(target))
    assert time.monotonic() - begin < 30
    assert caught.value.code is Code.PROTOCOL
    assert caught.value.remedy
    assert target.read_bytes() == b"before"


def test_a_state_as_large_as_one_can_be_is_saved(tmp_path: Path) -> None:
    piece = b"x" * (1 << 20)
    answers = lambda number: state(16 << 20, piece)  # noqa: E731
    with answering(tmp_path / "ctrl.sock", answers) as there, open_device(there) as device:
        operations.save(device, type="permanent", file=str(tmp_path / "saved"))
    assert (tmp_path / "saved").stat().st_size == 16 << 20


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: info(0xFFFFFFFF, b" " * 60_000),
        lambda number: info(1 << 20, b" "),
        lambda number: info(200_000, b"[" * 200_000),  # deeper than Python goes
        lambda number: info(4, b"\xff\xfe{}"),
    ],
    ids=["4 GiB", "drops", "deep", "no text"],
)
def test_information_without_an_end_or_sense_is_refused(tmp_path: Path, answer: "Callable[[int], bytes]") -> None:
    with (
        answering(tmp_path / "ctrl.sock", answer) as there,
        open_device(there) as device,
        pytest.raises(VtpmError) as caught,
    ):
        operations.info(device, flags=1)
    assert caught.value.code is Code.PROTOCOL


def test_a_list_of_handles_without_an_end_is_refused() -> None:
    """Each answer has one handle, and says that there are more."""

    def execute(command: bytes) -> bytes:
        first = command[14:18]
        body = bytes.fromhex("01 00000001 00000001") + first
        return bytes.fromhex("8001") + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body

    begin = time.monotonic()
    with pytest.raises(ProtocolError, match="more than 4096 handles"):
        Tpm2(execute).handles(0x81000000, 0x817FFFFF)
    assert time.monotonic() - begin < 10
