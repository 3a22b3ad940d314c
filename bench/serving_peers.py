"""Predictions over HTTP beside MLflow's own scoring server, and beside Feast's feature server with a model.

    python bench/serving_peers.py [--json] [--seconds 3] [--rounds 3]

All have the same model (XGBoost, 100 trees, 6 features) and run throughout, each in its own processes; they are
measured in turn, with 16 connections, and the figures are medians of the rounds. Ours looks the features up,
divides the traffic, counts and logs. MLflow's gets the features with the request and looks nothing up. The
other peer is an application on uvicorn that asks Feast's feature server (one worker, SQLite) and predicts.
Before the measurement the answers of all three to the same products are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from headrace import registry
from headrace.config.settings import Settings
from headrace.kernel.ports import find_free_port
from headrace.training.trainers.xgboost import MODEL
from serving import NAMES, make_project, make_values, run_ours
from workloads.requests import Load, Rate, Server, measure_rate

PEERS = Path(__file__).parent / "peers"
BIN = Path(sys.executable).parent
CHECKED = 20  # products whose predictions are compared
DEADLINE = 120.0  # seconds until a server answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="taken by every benchmark")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        settings = make_project(folder / "project")
        values = make_values()
        with ExitStack() as stack:
            ours = Load(stack.enter_context(run_ours(settings)))
            peers = {
                "MLflow's scoring server": stack.enter_context(_run_mlflow(folder, settings, values)),
                "Feast's feature server and a model": stack.enter_context(_run_feast(folder, settings, values)),
            }
            check_answers([ours, *peers.values()])
            compare(ours, peers, options.seconds, options.rounds)
    finally:
        shutil.rmtree(folder)


def compare(ours: Load, peers: dict[str, Load], seconds: float, rounds: int) -> None:
    """Measures in turn and prints each figure as one object."""
    rates: dict[str, list[Rate]] = {}
    for turn in range(rounds + 1):
        for name, load in {"": ours, **peers}.items():
            rate = measure_rate(load, seconds if turn else 1.0)
            if turn:  # the first one warms up
                rates.setdefault(name, []).append(rate)
    for name in peers:
        kinds: dict[str, Callable[[Rate], float]] = {"/s": lambda rate: rate.rate, "µs": lambda rate: rate.cpu}
        for unit, number in kinds.items():
            own, peer = (median(map(number, rates[key])) for key in ("", name))
            what = "predictions" if unit == "/s" else "processor time"
            figure = {"work": f"{what} beside {name}", "unit": unit, "ours": own, "peer": peer}
            print(json.dumps(figure | {"ratio": own / peer}), flush=True)


def check_answers(loads: list[Load]) -> None:
    """Ends the benchmark if two servers predict differently."""
    for product in range(CHECKED):
        values = [_read_value(_ask(load, product)) for load in loads]
        if not np.allclose(values, values[0], rtol=1e-5, atol=0):
            sys.exit(f"the predictions of product {product} differ: {values}")


def _ask(load: Load, product: int) -> Any:
    request = Request(
        f"{load.server.url}{load.path}", load.make_body(1, product), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _read_value(answer: dict[str, Any]) -> float:
    return float(answer["value"] if "value" in answer else answer["predictions"][0])


@contextmanager
def _run_mlflow(folder: Path, settings: Settings, values: np.ndarray) -> Iterator[Load]:
    """MLflow's scoring server. Its requests have the features of the product."""
    model = folder / "mlflow"
    _run(PEERS / "mlflow_model.py", _write_booster(folder, settings), model)
    bodies = [
        json.dumps({"dataframe_split": {"columns": NAMES, "data": [row]}}).encode() for row in values.tolist()
    ]

    def make_body(_user: int, product: int) -> bytes:
        return bodies[product]

    port = find_free_port()
    command = [BIN / "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", port, "-w", 1]
    with _start(command, port, "/ping", folder / "mlflow.log") as server:
        yield Load(server, "/invocations", make_body)


@contextmanager
def _run_feast(folder: Path, settings: Settings, values: np.ndarray) -> Iterator[Load]:
    """Feast's feature server, and the application that asks it."""
    np.save(folder / "values.npy", values)
    repository = folder / "feast"
    _run(PEERS / "feast_store.py", folder / "values.npy", repository)
    port, app_port = find_free_port(), find_free_port()
    command = [BIN / "feast", "--chdir", repository, "serve", "-p", port, "--no-access-log"]
    command += ["--max-requests", 10**9]  # the worker is not replaced
    application = [sys.executable, PEERS / "feast_app.py", f"http://127.0.0.1:{port}"]
    application += [_write_booster(folder, settings), app_port]
    with (
        _start(command, port, "/health", folder / "feast.log") as feast,
        _start(application, app_port, None, folder / "app.log") as app,
    ):
        yield Load(Server(app.url, app.pid, [feast.pid]))


@contextmanager
def _start(command: list[Any], port: int, path: str | None, log: Path) -> Iterator[Server]:
    """Runs a server until the block ends; it answers when the block begins."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},  # MLflow runs uvicorn
            start_new_session=True,
        )
    try:
        asyncio.run(_await_server(process, port, path, log))
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


async def _await_server(process: subprocess.Popen[bytes], port: int, path: str | None, log: Path) -> None:
    """Returns when the port accepts connections and, with a path, answers 200 there."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path or '/'} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if path is None or b" 200 " in await reader.readline():
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{process.args} does not answer:\n{log.read_text()[-2_000:]}")
        await asyncio.sleep(0.1)


def _write_booster(folder: Path, settings: Settings) -> Path:
    """The file of the model that ours serves."""
    path = folder / "booster.ubj"
    if not path.exists():
        shutil.copy(registry.open(settings).bundle_folder("purchase", 1) / "model" / MODEL, path)
    return path


def _run(script: Path, *arguments: Path) -> None:
    subprocess.run([sys.executable, str(script), *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
