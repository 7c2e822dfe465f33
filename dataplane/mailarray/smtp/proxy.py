"""The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt), as a reader of bytes.

A load balancer puts one header in front of the connection that says who the client is. Only listed networks may
send it, and they must: the connection decides that. Malformed headers are refused, never guessed at.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from mailarray.smtp.client import ClientAddress, client_address

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_MAX_V1: Final = 107  # bytes with CRLF, section 2.1
_V2_HEADER: Final = 16  # bytes before addresses
_MAX_V2: Final = 4096  # bytes of addresses and TLVs; real ones are below 600
_LOCAL, _PROXY = 0x20, 0x21
_AF_INET, _AF_INET6 = 1, 2
_STREAM = 1


class ProxyError(ValueError):
    """A header that does not fit; the text says what is wrong, for the log."""


class ProxyReader:
    """Gathers the header; at most some kilobytes are kept."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> tuple[ClientAddress | None, bytes] | None:
        """The client and what followed the header, or None while it is incomplete.

        The client is None when the balancer speaks for itself (LOCAL) or does not know (UNKNOWN): then the
        connection's own address counts. Raises ProxyError.
        """
        data = self._data = self._data + data
        if data.startswith(_V2[: len(data)]):
            return self._version_2(data)
        if data.startswith(_V1[: len(data)]):
            return self._version_1(data)
        raise ProxyError("no PROXY header")

    def _version_1(self, data: bytes) -> tuple[ClientAddress | None, bytes] | None:
        end = data.find(b"\r\n", 0, _MAX_V1)
        if end < 0:
            if len(data) >= _MAX_V1:
                raise ProxyError("PROXY line is too long")
            return None
        rest = data[end + 2 :]
        words = data[:end].split(b" ")
        if words[1] == b"UNKNOWN":
            return None, rest
        if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
            raise ProxyError("PROXY line does not name two addresses and two ports")
        kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
        try:
            addresses = [kind(word.decode("ascii")) for word in words[2:4]]
        except ValueError as error:
            raise ProxyError("PROXY line has a bad address") from error
        if not all(port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF for port in words[4:6]):
            raise ProxyError("PROXY line has a bad port")
        return client_address(str(addresses[0]), int(words[4])), rest

    def _version_2(self, data: bytes) -> tuple[ClientAddress | None, bytes] | None:
        if len(data) < _V2_HEADER:
            return None
        command, family, length = struct.unpack_from("!BBH", data, len(_V2))
        if command not in (_LOCAL, _PROXY):
            raise ProxyError("PROXY header has an unknown version or command")
        if length > _MAX_V2:
            raise ProxyError("PROXY header is too long")
        if len(data) < _V2_HEADER + length:
            return None
        block, rest = data[_V2_HEADER : _V2_HEADER + length], data[_V2_HEADER + length :]
        if command == _LOCAL or family >> 4 not in (_AF_INET, _AF_INET6):
            return None, rest  # section 2.2: unspecified and UNIX addresses are accepted and ignored
        if family & 0x0F != _STREAM:
            raise ProxyError("PROXY header is not about a TCP connection")
        size = 4 if family >> 4 == _AF_INET else 16
        if length < 2 * size + 4:
            raise ProxyError("PROXY header is shorter than its addresses")
        host = str(ipaddress.ip_address(block[:size]))
        (port,) = struct.unpack_from("!H", block, 2 * size)
        return client_address(host, port), rest
