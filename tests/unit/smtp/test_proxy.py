"""PROXY headers, whole, cut and malformed."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.smtp.client import ClientAddress
from mailarray.smtp.proxy import ProxyError, ProxyReader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def version_2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


V4 = (
    ipaddress.ip_address("192.0.2.7").packed + ipaddress.ip_address("198.51.100.1").packed + struct.pack("!HH", 999, 25)
)
V6 = ipaddress.ip_address("2001:db8::7").packed * 2 + struct.pack("!HH", 999, 25)

GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 999 25\r\n", ClientAddress("192.0.2.7", 999)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 999 25\r\n", ClientAddress("2001:db8::7", 999)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 999 25\r\n", ClientAddress("192.0.2.7", 999)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (version_2(0x21, 0x11, V4), ClientAddress("192.0.2.7", 999)),
    (version_2(0x21, 0x11, V4 + b"\x04\x00\x01x"), ClientAddress("192.0.2.7", 999)),  # with a TLV
    (version_2(0x21, 0x21, V6), ClientAddress("2001:db8::7", 999)),
    (version_2(0x20, 0x00, b""), None),
    (version_2(0x20, 0x11, V4), None),
    (version_2(0x21, 0x00, b""), None),
    (version_2(0x21, 0x31, b"x" * 216), None),
]


@pytest.mark.parametrize(("header", "client"), GOOD, ids=lambda value: repr(value)[:40])
def test_header_cut_anywhere(header: bytes, client: ClientAddress | None) -> None:
    for cut in range(len(header)):
        reader = ProxyReader()
        assert reader.feed(header[:cut]) is None
        assert reader.feed(header[cut:] + b"EHLO a\r\n") == (client, b"EHLO a\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO a\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 999\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 999 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 999 25\r\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 999 25\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        version_2(0x11, 0x11, V4),
        version_2(0x22, 0x11, V4),
        version_2(0x21, 0x12, V4),
        version_2(0x21, 0x11, V4[:-1]),
        version_2(0x21, 0x21, V4),
        version_2(0x21, 0x11, V4 + b"x" * 5000),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_header(header: bytes) -> None:
    with pytest.raises(ProxyError):
        ProxyReader().feed(header)


@given(st.lists(st.binary(max_size=60)), st.sampled_from([b"", b"PROXY ", SIGNATURE]))
def test_any_bytes_are_a_header_or_an_error(pieces: list[bytes], start: bytes) -> None:
    reader = ProxyReader()
    try:
        for piece in [start, *pieces]:
            if reader.feed(piece) is not None:
                break
            assert len(reader._data) <= 16 + 4096
    except ProxyError:
        pass
