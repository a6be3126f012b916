"""What stands for parts of the standard library while a start imports: it does what they do."""

import contextlib

import pytest

from swtpm_svc.wire import hints, small_tools


@pytest.mark.parametrize("suppress", [small_tools.suppress, contextlib.suppress], ids=["ours", "contextlib's"])
def test_suppress(suppress):
    seen = []
    with suppress(OSError, KeyError):
        seen.append("before")
        raise FileNotFoundError
    with suppress(OSError):
        seen.append("no error")
    with pytest.raises(ValueError, match="another"), suppress(OSError):
        raise ValueError("another")
    with pytest.raises(OSError, match="none is named"), suppress():
        raise OSError("none is named")
    assert seen == ["before", "no error"]


def test_what_annotations_name_takes_arguments_and_alternatives():
    """On each Python, in an annotation that is looked at and in an alias."""
    alias = dict[str, hints.Union[int, "hints.Optional[hints.Callable[[int, str], None]]"]]
    assert alias
    assert hints.Optional[int] | None is not None
    assert None | hints.Any is not None

    class Peer(hints.Protocol):
        def call(self, work: hints.Callable[..., hints.Any]) -> hints.Iterator[int]: ...

    class Extended(Peer, hints.Protocol):
        pass

    assert Extended().call(print) is None
