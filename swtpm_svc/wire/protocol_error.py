"""The one error of the codecs."""


class ProtocolError(ValueError):
    """Bytes that the protocol at hand does not allow; the message says which rule they break, in one line."""
