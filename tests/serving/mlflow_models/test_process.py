"""A model in a child process: its answers, its failures, its restarts, and that it ends with its parent."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from tests.serving.mlflow_models.artifact import COLUMNS, write_artifact
from tests.until import until

from headrace.kernel.errors import Unavailable
from headrace.serving.errors import ModelFailed, ModelTimeout
from headrace.serving.mlflow_models.artifacts import digest_artifact
from headrace.serving.mlflow_models.process import ModelProcess, ProcessSpec
from headrace.serving.mlflow_models.signature import Column, Signature

SIGNATURE = Signature([Column(str(column["name"]), str(column["type"])) for column in COLUMNS])
Test = Callable[[ModelProcess], Awaitable[None]]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name, because the path of a socket has at most 100 bytes or so."""
    with TemporaryDirectory(prefix="headrace-") as folder:
        yield Path(folder)


@asynccontextmanager
async def start(
    folder: Path, *, signature: Signature = SIGNATURE, timeout: float = 60.0, **options: Any
) -> AsyncIterator[ModelProcess]:
    """A model's process on this Python, once it is ready. The options are those of write_artifact."""
    artifact = write_artifact(folder / "artifact", **options)
    variables = {"GREETING": "hello"}
    spec = ProcessSpec("tiny", Path(sys.executable), artifact, signature, variables, timeout)
    async with ModelProcess(spec, folder, folder / "model.log") as process:
        await process.await_ready()
        yield process


def run(folder: Path, test: Test, **options: Any) -> None:
    async def run_test() -> None:
        async with start(folder, **options) as process:
            await test(process)

    asyncio.run(run_test())


def rows(*numbers: float | None, act: str = "double") -> dict[str, list[Any]]:
    return {"x": list(numbers), "act": [act] * len(numbers)}


ANSWERS: dict[str, list[Any]] = {
    "double": [3.0, 0.2],
    "print": [3.0, 0.2],
    "series": [3.0, 0.2],
    "nested": [[3.0], [0.2]],
    "labels": ["3.0", "0.2"],
    "numpy list": [3.0, pytest.approx(0.2)],
    "frame": [{"low": 3.0, "label": "n3"}, {"low": 0.2, "label": "n0.2"}],
    "nan": [None, 0.2],
    "variable": ["hello", "hello"],
    "missing": [None, 0],
    "no time": [None, "2026-01-02T00:00:00"],
    "times": ["2026-01-02T03:04:05.000006"] * 2,
}
"""What the model does → its answer to the rows 1.5 and 0.1."""


def test_an_answer_has_a_json_value_for_each_row(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        for act, answer in ANSWERS.items():
            assert await process.predict(rows(1.5, 0.1, act=act)) == answer, act

    run(tmp_path, test)


def test_a_model_that_fails_fails_the_request_alone(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        pid = process.pid
        for act in ("raise", "infinity", "short", "object", "objects", "surrogate"):
            with pytest.raises(ModelFailed, match="its log says why") as caught:
                await process.predict(rows(1.5, 0.1, act=act))
            assert "does not like" not in str(caught.value)  # a client must not read what the model says
            assert await process.predict(rows(1)) == [2.0]
        assert (process.pid, process.restarts) == (pid, 0)

    run(tmp_path, test)
    log = (tmp_path / "model.log").read_text()
    assert "ValueError: the model does not like the row" in log
    assert "TypeError: the model answered 1 values for 2 rows" in log
    assert "TypeError: the model answered a object for 2 rows" in log
    assert "TypeError: the model answered a object\n" in log
    assert "ValueError: Out of range float values are not JSON compliant" in log


def test_a_null_is_nan_in_a_column_of_numbers(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        assert await process.predict(rows(None, 1.0)) == [None, 2.0]

    run(tmp_path, test)


TYPES: dict[str, tuple[list[Any], str]] = {
    "double": ([1, 2.5, None], "float64"),
    "float": ([1.5, None, 2], "float32"),
    "long": ([2**62, -1, 0], "int64"),
    "integer": ([1, 2, 3], "int32"),
    "boolean": ([True, False, True], "bool"),
    "string": (["a", None, "ü"], "object"),
    "datetime": (["2026-01-01T00:00:00.000001", None, "1969-12-31T23:59:59"], "datetime64[ns]"),
    "binary": (["aGVsbG8=", None, ""], "object"),
    "any": ([[1, 2], {"a": 1}, [3, 4]], "object"),
}
"""MLflow's type → JSON values, and the dtype of the column that the model gets."""


def test_columns_have_the_types_of_the_signature(tmp_path: Path) -> None:
    """The model answers the dtypes of the frame that it gets."""
    more = [Column(type_, type_) for type_ in TYPES]

    async def test(process: ModelProcess) -> None:
        columns = {**rows(1, 2, 3, act="dtypes"), **{type_: values for type_, (values, _) in TYPES.items()}}
        expected = ["float64", "object", *(dtype for _, dtype in TYPES.values())]
        assert await process.predict(columns) == [expected] * 3

    run(tmp_path, test, signature=Signature([*(SIGNATURE.columns or []), *more]), inputs=None)


def test_a_matrix_has_the_dtype_of_the_signature(tmp_path: Path) -> None:
    signature = Signature([Column("0", "float"), Column("1", "float")], "float32")

    async def test(process: ModelProcess) -> None:
        answer = await process.predict({"0": [1, 2], "1": [3, None]})
        assert answer == ["float32 [1.0, 3.0]", "float32 [2.0, nan]"]

    run(tmp_path, test, signature=signature, inputs=None)


def test_numbers_cross_without_loss(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308 / 2, -0.0, math.pi]

    async def test(process: ModelProcess) -> None:
        assert await process.predict(rows(*numbers)) == [2 * number for number in numbers]

    run(tmp_path, test)


def test_a_large_request_is_answered_whole(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        numbers = [float(number) for number in range(200_000)]
        assert await process.predict(rows(*numbers)) == [2 * number for number in numbers]

    run(tmp_path, test)


def test_the_process_has_neither_secrets_nor_settings_of_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV", "HEADRACE_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "1")

    async def test(process: ModelProcess) -> None:
        (names,) = await process.predict(rows(1, act="environment"))
        assert not {name for name in names if name.startswith(("PYTHON", "VIRTUAL", "HEADRACE", "AWS"))}
        assert "GREETING" in names
        assert "MLFLOW_TRACKING_URI" in names  # else an older MLflow makes ./mlruns

    run(tmp_path, test)


async def await_back(process: ModelProcess) -> None:
    """Waits until the model answers; before that, requests are refused at once."""
    async with asyncio.timeout(180):
        while True:
            try:
                assert await process.predict(rows(1)) == [2.0]
                return
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("is_asked", [True, False], ids=["during a request", "between requests"])
def test_a_process_that_dies_is_started_again(tmp_path: Path, is_asked: bool) -> None:
    async def test(process: ModelProcess) -> None:
        pid = process.pid
        if is_asked:
            with pytest.raises(Unavailable, match="'tiny' died"):
                await process.predict(rows(1, act="die"))
        else:
            os.kill(pid, signal.SIGKILL)
        await await_back(process)
        assert process.pid != pid
        assert process.restarts == 1
        assert process.failure is not None
        assert ("exit 3" if is_asked else "signal 9") in process.failure

    run(tmp_path, test)


def test_a_request_that_hangs_ends_the_process(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        waiting = asyncio.create_task(process.predict(rows(1, act="hang")))
        await asyncio.sleep(0)
        second = asyncio.create_task(process.predict(rows(1)))
        with pytest.raises(ModelTimeout, match="did not answer within 2 s"):
            await waiting
        with pytest.raises(Unavailable):
            await second
        process._spec = msgspec.structs.replace(process._spec, timeout=60.0)
        await await_back(process)
        assert process.restarts == 1

    run(tmp_path, test, timeout=2.0)


def test_a_client_that_leaves_does_not_end_the_process(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        pid = process.pid
        for _ in range(20):
            request = asyncio.create_task(process.predict(rows(7)))
            await asyncio.sleep(0)
            request.cancel()
            assert await process.predict(rows(1)) == [2.0]  # not the answer to the request that was left
        assert (process.pid, process.restarts) == (pid, 0)

    run(tmp_path, test)


def test_requests_at_the_same_time_get_their_own_answers(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        answers = await asyncio.gather(*(process.predict(rows(number)) for number in range(50)))
        assert answers == [[2.0 * number] for number in range(50)]

    run(tmp_path, test)


def test_the_error_of_a_model_that_cannot_be_loaded_has_its_last_line(tmp_path: Path) -> None:
    async def test(process: ModelProcess) -> None:
        raise AssertionError("it is not ready")

    with pytest.raises(Unavailable, match=r"does not start \(exit 1\): RuntimeError: the model file is broken"):
        run(tmp_path, test, content="broken")


def test_a_model_that_is_loaded_leaves_its_artefact_as_it_was(tmp_path: Path) -> None:
    copy = write_artifact(tmp_path / "copy")  # with a module of its own, whose bytecode must go nowhere

    async def test(process: ModelProcess) -> None:
        assert await process.predict(rows(1)) == [2.0]
        assert digest_artifact(tmp_path / "artifact") == digest_artifact(copy)

    run(tmp_path, test)


def test_nothing_is_left_after_the_end(tmp_path: Path) -> None:
    pids = []

    async def test(process: ModelProcess) -> None:
        pids.append(process.pid)
        assert [path.suffix for path in tmp_path.iterdir() if path.is_socket()] == [".sock"]

    run(tmp_path, test)
    assert [path for path in tmp_path.iterdir() if path.is_socket()] == []
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="a process that works is ended by the kernel on Linux only")
@pytest.mark.parametrize("act", ["double", "hang"])
def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path, act: str) -> None:
    """Even while the model works."""
    script = textwrap.dedent(f"""
        import asyncio, os, sys
        from pathlib import Path
        from tests.serving.mlflow_models.test_process import rows, start

        async def main():
            async with start(Path({str(tmp_path)!r})) as process:
                print(process.pid, flush=True)
                await process.predict(rows(1, act={act!r}))
                await asyncio.sleep(600)

        asyncio.run(main())
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not Path(f"/proc/{pid}").exists())
