"""Text in PNG files, where ComfyUI and its editor look for the workflow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def with_texts(data: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a PNG with these texts (ASCII) in place of all that it had; its pixels stay as they are."""
    chunks = [(kind, body) for kind, body in chunks_of(data) if kind not in TEXTS]
    added = [(b"tEXt", name.encode("ascii") + b"\0" + text.encode("ascii")) for name, text in texts.items()]
    return SIGNATURE + b"".join(_packed(*chunk) for chunk in (chunks[0], *added, *chunks[1:]))


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, body) of a PNG's chunks. Raises ValueError where it is none."""
    if data[:8] != SIGNATURE:
        raise ValueError(f"expected a PNG, found data that begin with {data[:8]!r}")
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += size + 12


def _packed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
