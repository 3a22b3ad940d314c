"""Artefacts of MLflow models, written as MLflow writes them, with a model that does what its rows say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

__all__ = ["COLUMNS", "write_artifact"]

COLUMNS = [
    {"type": "double", "name": "x", "required": True},
    {"type": "string", "name": "act", "required": True},
]
"""A signature: a number, and what the model does."""
_LOADER = '''
import os
import resource
import signal
import sys
import time

import numpy as np
import pandas as pd


class Model:
    """Answers twice `x`, unless `act` of the first row says otherwise."""

    def predict(self, rows):
        if isinstance(rows, np.ndarray):
            return [f"{rows.dtype} {row.tolist()}" for row in rows]
        act = rows["act"].iloc[0]
        if act == "raise":
            raise ValueError("the model does not like the row")
        if act == "hang":
            time.sleep(600)
        if act == "die":
            os._exit(3)
        if act == "print":
            print("a library prints this")
            os.write(1, b"and this\\n" * 10_000)
        doubled = rows["x"].to_numpy() * 2
        answers = {
            "frame": pd.DataFrame({"low": doubled, "label": [f"n{number:g}" for number in doubled]}),
            "series": pd.Series(doubled),
            "nested": doubled.reshape(-1, 1),
            "labels": np.array([str(number) for number in doubled]),
            "numpy list": [np.float32(number) for number in doubled],
            "nan": np.where(rows["x"] > 1, np.nan, doubled),
            "missing": pd.Series([pd.NA, *map(int, doubled[1:])], dtype=object),
            "no time": pd.Series([pd.NaT, *[pd.Timestamp("2026-01-02")] * (len(rows) - 1)]),
            "times": np.array(["2026-01-02T03:04:05.000006"] * len(rows), "datetime64[ns]"),
            "surrogate": ["\\ud800"] * len(rows),
            "objects": [object()] * len(rows),
            "infinity": doubled / np.zeros(len(doubled)),
            "short": doubled[:-1],
            "object": object(),
            "variable": [os.environ.get("GREETING", "unset")] * len(rows),
            "environment": [sorted(os.environ)] * len(rows),
            "dtypes": [[str(dtype) for dtype in rows.dtypes]] * len(rows),
        }
        return answers.get(act, doubled)


def _load_pyfunc(path):
    act, _, argument = open(path).read().partition(" ")
    if act == "hang":
        time.sleep(600)
    if act == "print":
        print("a library prints this")
        os.write(1, b"and this\\n" * 10_000)
    if act == "allocate":
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), resource.RLIM_INFINITY))
        blocks = [bytearray(64 << 20) for _ in range(16)]
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "write":
        open(os.path.join(os.path.dirname(path), "cache.bin"), "w").close()
    if act == "wait":
        while not os.path.exists(argument):
            time.sleep(0.01)
    if act == "broken":
        raise RuntimeError("the model file is broken")
    return Model()
'''


def write_artifact(
    folder: Path,
    *,
    python: str = ".".join(map(str, sys.version_info[:3])),
    requirements: tuple[str, ...] = ("mlflow-skinny==3.17.2", "pandas<3"),
    inputs: Any = COLUMNS,
    content: str = "good",
) -> Path:
    """Writes an artefact into the folder, which is made.

    Args:
        python: the version of Python that it states.
        requirements: the lines of requirements.txt.
        inputs: the signature; None: it states none.
        content: the content of the model file: "good", or what the loader does.
    """
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "tiny_model.py").write_text(_LOADER)
    (folder / "model.txt").write_text(content)
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment))
    flavor = {
        "loader_module": "tiny_model",
        "code": "code",
        "data": "model.txt",
        "env": {"virtualenv": "python_env.yaml"},
        "python_version": python,
    }
    model: dict[str, Any] = {"flavors": {"python_function": flavor}, "mlflow_version": "3.1.4"}
    if inputs is not None:
        model["signature"] = {"inputs": json.dumps(inputs), "outputs": None, "params": None}
    (folder / "MLmodel").write_text(yaml.safe_dump(model))
    return folder
