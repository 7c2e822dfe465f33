"""Who is on the other side of a session: the address in `Received:`, in logs and in per-address limits.

Behind a proxy it is what the PROXY header says, never the proxy's own address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

UNKNOWN_HOST = "unknown"  # a UNIX socket, or a proxy that does not know


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """An IP address as text and a TCP port."""

    host: str
    port: int

    @property
    def literal(self) -> str:
        """The address literal of RFC 5321 4.1.3: `[192.0.2.1]` or `[IPv6:2001:db8::1]`."""
        return f"[IPv6:{self.host}]" if ":" in self.host else f"[{self.host}]"


UNKNOWN_CLIENT = ClientAddress(UNKNOWN_HOST, 0)


def client_address(host: str, port: int) -> ClientAddress:
    """The address in one spelling: IPv4 inside IPv6 as IPv4, without zone. Raises ValueError."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return ClientAddress(str(address.ipv4_mapped), port)
    return ClientAddress(str(address), port)
