"""A state file in clear as swtpm writes it (measured on files of swtpm 0.7.1): a header, and one TLV."""

import struct


def encode_plain(payload):
    part = struct.pack(">HI", 1, len(payload)) + payload
    return struct.pack(">BBHHI", 2, 1, 10, 0, 10 + len(part)) + part
