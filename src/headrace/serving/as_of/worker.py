"""Answers requests for past moments: `python -m headrace.serving.as_of.worker`, a process beside a replica.

It reads tables and joins them, which a replica must not do while it answers. So it has one thread, a low
priority and its own memory. It is the process of a lane (serving.lane), whose first message has the settings.
"""

from __future__ import annotations

import pickle
import sys
import traceback

import msgspec
from msgspec import Struct

from headrace.http.responses import error_body
from headrace.kernel.secrets import clean_text
from headrace.serving.as_of.query import AsOf
from headrace.serving.frames import write_frame
from headrace.serving.lane import open_messages

__all__ = ["Answer", "Question"]

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


def _main() -> None:
    messages, answers = open_messages(_PRIORITY)
    settings = next(messages, None)
    if settings is None:
        return
    from headrace.serving.as_of.predictor import AsOfPredictor
    from headrace.serving.protocols.status import to_response_error

    predictor = AsOfPredictor(pickle.loads(settings))  # noqa: S301 - of the replica, which starts this process
    decode = msgspec.msgpack.Decoder(Question).decode
    for message in messages:
        question = decode(message)
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
