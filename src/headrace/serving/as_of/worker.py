"""Answers requests for past moments: `python -m headrace.serving.as_of.worker`, a process beside a replica.

It reads tables and joins them, which a replica must not do while it answers. So it has one thread, a low
priority and its own memory. Messages are frames on standard input and output: a length of 4 bytes,
little-endian, and as many bytes. The first one holds the settings. The process ends when its standard input
closes.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import traceback
from typing import IO

import msgspec
from msgspec import Struct

from headrace.http.responses import error_body
from headrace.kernel.secrets import clean_text
from headrace.serving.as_of.query import AsOf

__all__ = ["Answer", "Question", "read_frame", "write_frame"]

_HEAD = struct.Struct("<I")
_PRIORITY = 10  # is added to the nice value


class Question(Struct, frozen=True):
    """A request.

    Attributes:
        model: the model's name.
        query: the moment, and perhaps the version.
        body: the body, in our own protocol.
    """

    model: str
    query: AsOf
    body: bytes


class Answer(Struct, frozen=True):
    """A response: its status, and its body."""

    status: int
    body: bytes


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


def _main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a user's function prints is no answer
    os.nice(_PRIORITY)
    settings = read_frame(sys.stdin.buffer)
    if settings is None:
        return
    from headrace.serving.as_of.predictor import AsOfPredictor
    from headrace.serving.protocols.status import to_response_error

    predictor = AsOfPredictor(pickle.loads(settings))  # noqa: S301 - of the replica, which starts this process
    decode = msgspec.msgpack.Decoder(Question).decode
    while (content := read_frame(sys.stdin.buffer)) is not None:
        question = decode(content)
        try:
            answer = Answer(200, predictor.answer(question.model, question.query, question.body))
        except Exception as error:
            failure = to_response_error(error)
            if failure.status >= 500:
                print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
            answer = Answer(failure.status, error_body(failure))
        write_frame(answers, msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    _main()
