"""Frames: messages on a pipe. A frame is a length of 4 bytes, little-endian, and as many bytes."""

from __future__ import annotations

import struct
from typing import IO

__all__ = ["read_frame", "write_frame"]

_HEAD = struct.Struct("<I")


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame; None if the stream ends."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    content = stream.read(length)
    return content if len(content) == length else None


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Writes a frame, and flushes the stream."""
    stream.write(_HEAD.pack(len(content)) + content)
    stream.flush()
