"""Runs a model in a child process, asks it over a Unix socket, and starts it again if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headrace.kernel.children import Child
from headrace.kernel.errors import Unavailable
from headrace.kernel.ids import new_id
from headrace.serving.errors import ModelFailed, ModelTimeout
from headrace.serving.mlflow_models import worker
from headrace.serving.mlflow_models.signature import Signature

__all__ = ["Columns", "ModelProcess", "ProcessSpec"]

_log = logging.getLogger("headrace.serving")
_HEAD = struct.Struct(">I")
_LONGEST_START = 120.0  # seconds that a model may take to load
_INTERVAL = 0.1  # seconds between two checks of the process
_GRACE = 2.0  # seconds that the process has to end
_MAX_ANSWER = 256 << 20  # bytes
# What of this process's environment the model's process gets. Secrets are not among it.
_INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
_encode = msgspec.json.Encoder().encode
Columns = Mapping[str, Sequence[Any]]
"""Column → its value in each row of a request."""


class ProcessSpec(Struct, frozen=True):
    """What a model's process runs.

    Attributes:
        name: the model's name in messages.
        python: the Python of its environment.
        artifact: the folder of its artefact.
        signature: what it takes.
        variables: further environment variables.
        timeout: seconds within which it must answer a request.
    """

    name: str
    python: Path
    artifact: Path
    signature: Signature
    variables: dict[str, str]
    timeout: float


class _Answer(Struct):
    values: list[Any] | None = None
    error: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


class ModelProcess:
    """A model's process. Use it as an asynchronous context manager, in one event loop.

    Args:
        spec: what it runs.
        sockets: a private folder with a short path.
        log: the file for its standard output and error.

    Attributes:
        failure: why the process ended last, or None.
        restarts: how often it was started again.
    """

    def __init__(self, spec: ProcessSpec, sockets: Path, log: Path) -> None:
        self._spec, self._log = spec, log
        self._socket = sockets / f"{new_id()}.sock"
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()  # the process answers one request at a time
        self._questions: set[asyncio.Task[list[Any]]] = set()
        self.failure: str | None = None
        self.restarts = 0

    async def __aenter__(self) -> ModelProcess:
        self._server = await asyncio.start_unix_server(self._accept, self._socket)
        self._child = Child(
            f"model {self._spec.name}",
            [
                str(self._spec.python),
                "-X",
                "utf8",
                worker.__file__,
                str(self._socket),
                str(self._spec.artifact),
                _encode(self._spec.signature).decode(),
            ],
            self._log,
            self._environment(),
            longest_start=_LONGEST_START,
        )
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._supervisor.cancel()
        for question in self._questions:
            question.cancel()
        self._disconnect()
        self._server.close()
        self._socket.unlink(missing_ok=True)
        self._child.terminate()
        await asyncio.to_thread(self._child.end, time.monotonic() + _GRACE)

    @property
    def pid(self) -> int:
        """The id of the current process."""
        return self._child.process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it runs and can be asked."""
        return self._stream is not None and self._child.ready

    async def await_ready(self) -> None:
        """Waits until the process can be asked.

        Raises:
            Unavailable: it died before that, or took too long.
        """
        while not (self._child.check_start() and self._stream is not None):
            await asyncio.sleep(_INTERVAL)

    async def predict(self, columns: Columns) -> list[Any]:
        """Asks the model for its answer to each row.

        Requests are asked one after the other. If this is cancelled, the model is asked nevertheless.

        Raises:
            ModelFailed: the model raised an error.
            ModelTimeout: the model did not answer in time; its process is started again.
            Unavailable: the process is not ready, died, or was busy with other requests for too long.
        """
        # A client that leaves must not end the process, which happens to a question without an answer.
        question = asyncio.create_task(self._ask_in_turn(columns))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)
        return await asyncio.shield(question)

    async def _ask_in_turn(self, columns: Columns) -> list[Any]:
        timeout = self._spec.timeout
        try:
            async with asyncio.timeout(timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(f"model {self._spec.name!r} was busy for {timeout:g} s") from None
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(columns)
        except TimeoutError:
            raise ModelTimeout(f"Model {self._spec.name!r} did not answer within {timeout:g} s.") from None
        finally:
            self._turn.release()

    async def _ask(self, columns: Columns) -> list[Any]:
        if self._stream is None or not self.is_ready:
            raise Unavailable(f"the process of model {self._spec.name!r} is not ready")
        reader, writer = self._stream
        body = _encode({"columns": columns})
        is_answered = False
        try:
            # The answer to an abandoned question would be read as the next one's answer, so the process ends.
            writer.write(_HEAD.pack(len(body)) + body)
            await writer.drain()
            (size,) = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            if size > _MAX_ANSWER:
                raise Unavailable(f"model {self._spec.name!r} answered {size:,} bytes, more than is allowed")
            answer = _decode(await reader.readexactly(size))
            is_answered = True
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError) as error:
            raise Unavailable(f"the process of model {self._spec.name!r} died") from error
        finally:
            if not is_answered:
                self._disconnect()
                self._child.process.kill()
        if answer.values is None:
            raise ModelFailed(f"Model {self._spec.name!r} failed on this request; its log says why.")
        return answer.values

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._disconnect()
        self._stream = reader, writer

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            pid = self.pid
            self._child.supervise(self._note_failure)
            if self.pid != pid:
                self.restarts += 1

    def _note_failure(self, text: str) -> None:
        self.failure = text
        self._disconnect()
        _log.error("%s", text)

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        own = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # An older MLflow makes its store when it loads a model: ./mlruns, unless this names another place.
            "MLFLOW_TRACKING_URI": (self._socket.parent / "mlruns").as_uri(),
        }
        return {**inherited, **own, **self._spec.variables}
