"""A second reader of segments, written from docs/formats/journal.md alone: nothing of Mailarray is imported here."""

from __future__ import annotations

import struct


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ 0x82F63B78 if byte & 1 else byte >> 1
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Unreadable(Exception):
    """These bytes are not a segment of version 1."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Unreadable(what)


def read_header(data: bytes) -> dict[str, object]:
    need(data[:8] == b"MAILARR\x01", "magic")
    version, length, copies, count, worker = struct.unpack(">HHBBH", data[8:16])
    need(version == 1, "version")
    need(1 <= count <= 7 and length == 76 + 16 * count and len(data) >= length, "length")
    need(crc32c(data[: length - 4]) == int.from_bytes(data[length - 4 : length], "big"), "checksum")
    return {
        "segment": data[16:32],
        "writer": data[32:48],
        "incarnation": data[48:64],
        "created_at": int.from_bytes(data[64:72], "big"),
        "copies": copies,
        "worker": worker,
        "members": [data[72 + 16 * i : 88 + 16 * i] for i in range(count)],
        "length": length,
    }


def text(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    return data[at + 2 : end], end


def read_batch(data: bytes, at: int, segment: object) -> tuple[list[dict[str, object]], int]:
    """Records of the batch at `at`, and where the next one begins."""
    head = data[at : at + 64]
    need(len(head) == 64 and head[:4] == b"MBAT", "no batch")
    need(crc32c(head[:60]) == int.from_bytes(head[60:], "big"), "batch checksum")
    of, offset, _mark, entries, size, bodies, crc = struct.unpack(">16sQQIIQI", head[8:60])
    need(of == segment and offset == at, "another place")
    meta = data[at + 64 : at + 64 + size]
    need(len(meta) == size and crc32c(meta) == crc, "metadata checksum")
    first_body, records, position = at + 64 + size, [], 0
    need(first_body + bodies <= len(data), "cut off")
    for _ in range(entries):
        length, kind, _flags, count, id, received, start, body_length, body_crc = struct.unpack(
            ">IBBH16sQQQI", meta[position : position + 52]
        )
        body = data[first_body + start : first_body + start + body_length]
        need(crc32c(body) == body_crc, "body checksum")
        record: dict[str, object] = {"kind": kind, "id": id, "received_at": received}
        walk = position + 52
        if kind == 1:
            record["sender"], walk = text(meta, walk)
            record["deliveries"], record["body"] = [], body
            for _ in range(count):
                mailbox, walk = text(meta, walk)
                recipient, walk = text(meta, walk)
                record["deliveries"].append((mailbox, recipient or mailbox))  # type: ignore[attr-defined]
            end = position + length
            while walk + 2 <= end and walk + 2 + meta[walk + 1] <= end:
                if meta[walk] == 1:
                    record["fingerprint"] = meta[walk + 2 : walk + 2 + meta[walk + 1]]
                walk += 2 + meta[walk + 1]
        elif kind == 2:
            record["tombstones"] = []
            for _ in range(count):
                mailbox, end = text(meta, walk + 34)
                record["tombstones"].append((*struct.unpack(">16sH16s", meta[walk : walk + 34]), mailbox))  # type: ignore[attr-defined]
                walk = end
        records.append(record)
        position += length
    return records, first_body + bodies
