"""Addresses of sockets: read, refused, and written as they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config.addresses import VSOCK_ANY, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", None),
        ("/run/vtpm/a/ctrl.sock", ("/run/vtpm/a/ctrl.sock", "", 0, None)),
        ("tcp:2321", ("", "127.0.0.1", 2321, None)),
        ("tcp:[::1]:2321", ("", "::1", 2321, None)),
        ("tcp:host.example:1", ("", "host.example", 1, None)),
        ("vsock:2:2321", ("", "", 2321, 2)),
        ("vsock:any:4294967294", ("", "", 2**32 - 2, VSOCK_ANY)),
    ],
)
def test_addresses(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "relative", "/" + "x" * 107, "@abstract", "\0abstract"),
        *("tcp:", "tcp:x", "tcp:0", "tcp:65536", "tcp:a b:1", "tcp:[::1:1"),
        *("vsock:", "vsock:1", "vsock:2:0", "vsock:4294967296:1", "vsock:2:4294967295", "vsock:host:1", "vsock:-1:1"),
    ],
)
def test_wrong_addresses(text):
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)


@given(
    st.one_of(
        st.from_regex(r"tcp:([a-z0-9.-]{1,20}:)?[1-9][0-9]{0,3}", fullmatch=True),
        st.builds("vsock:{}:{}".format, st.sampled_from(["any", 1, 2, 2**32 - 2]), st.integers(1, 2**32 - 2)),
    )
)
def test_an_address_is_written_as_it_is_read(text):
    assert parse_address(str(parse_address(text))) == parse_address(text)
