"""One spelling for each mail address, so that lookups are plain dictionary hits.

Local parts are matched without regard to case, as every large receiver does (RFC 5321 2.4 leaves it to the
receiving host). Internationalised addresses (RFC 6531) are put in Unicode's NFC; a domain in its ASCII form
(`xn--`) and the same domain in letters are one domain. Refuses to judge syntax beyond what a lookup needs: the
SMTP parser does that.
"""

from __future__ import annotations

import unicodedata

TAG_SEPARATOR = "+"  # user+tag@domain (RFC 5233 calls it subaddressing)


def canonical_domain(domain: str) -> str:
    """Lower case, NFC, in letters rather than `xn--`, without the final dot."""
    domain = domain.removesuffix(".")
    if domain.isascii():
        domain = domain.lower()
        if "xn--" not in domain:
            return domain
        try:
            domain = domain.encode("ascii").decode("idna")
        except UnicodeError:
            return domain
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", domain).casefold())


def canonical_local_part(local: str) -> str:
    """Lower case, NFC; `"john"` is the same mailbox as `john` (RFC 5321 4.1.2)."""
    if len(local) >= 2 and local[0] == local[-1] == '"':
        local = _unquoted(local[1:-1])
    if local.isascii():
        return local.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).casefold())


def split(address: str) -> tuple[str, str]:
    """Canonical local part and domain; either may be empty."""
    local, at, domain = address.rpartition("@")
    if not at:
        return canonical_local_part(domain), ""
    return canonical_local_part(local), canonical_domain(domain)


def _unquoted(text: str) -> str:
    characters = iter(text)
    return "".join(next(characters, "") if c == "\\" else c for c in characters)
