"""What each decoder of a response must do, whatever it decodes."""

import pytest

from swtpm_svc.wire.protocol_error import ProtocolError


def refuse_other_lengths(decode, body):
    """`decode` takes `body`, and no bytes that end earlier or go on."""
    decode(body)
    for end in range(len(body)):
        with pytest.raises(ProtocolError):
            decode(body[:end])
    with pytest.raises(ProtocolError, match="left after the last field"):
        decode(body + b"\0")
