"""The process of a model: `python worker.py SOCKET MODEL SIGNATURE`, run by the Python that the model needs.

It stands alone: the standard library of any Python from 3.7 on, and MLflow, NumPy and pandas of the model's own
environment. Headrace is not installed there.

SOCKET is the path of a Unix socket that the parent listens on, MODEL the folder of the model's artefact, and
SIGNATURE the JSON of signature.Signature. Each message is JSON behind its length (4 bytes, big-endian). A
request is {"columns": {name: values}}; the answer is {"values": [...]}, one a row, or {"error": text}.

It reports to its parent and ends with it as kernel.child says: "ready" on standard output; the end of standard
input ends it.
"""

from __future__ import annotations

import base64
import ctypes
import json
import math
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from importlib.machinery import SourceFileLoader
from typing import Any, Optional

_HEAD = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_DTYPES = {
    "double": "float64",
    "float": "float32",
    "long": "int64",
    "integer": "int32",
    "boolean": "bool",
    "datetime": "datetime64[ns]",
}


def main() -> None:
    path, folder, signature = sys.argv[1:4]
    signals = _take_standard_output()
    _end_with_parent()
    _keep_as_is(folder)
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(folder)
    taken = json.loads(signature)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    os.write(signals, b"ready\n")
    while True:
        request = _receive(connection)
        if request is None:
            return
        answer: dict[str, Any]
        try:
            rows = _build_input(json.loads(request)["columns"], taken)
            answer = {"values": _to_rows(model.predict(rows), len(rows))}
        except Exception as error:
            answer = _fail(error)
        _send(connection, answer)


def _take_standard_output() -> int:
    """Keeps standard output for the reports to the parent; what libraries print goes to the log."""
    signals = os.dup(1)
    os.dup2(2, 1)
    return signals


def _keep_as_is(folder: str) -> None:
    """Keeps Python from writing the bytecode of a model's own modules into its artefact, whose files are
    checked. The bytecode of the environment's packages is written."""
    inside = os.path.join(folder, "")
    write = SourceFileLoader.set_data

    def set_data(self: SourceFileLoader, path: str, data: bytes, **options: Any) -> None:
        if not path.startswith(inside):
            write(self, path, data, **options)

    SourceFileLoader.set_data = set_data  # type: ignore[method-assign, assignment]


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _receive(connection: socket.socket) -> Optional[bytes]:
    """The bytes of the next message; None at the end of the connection."""
    head = _receive_exactly(connection, _HEAD.size)
    return None if head is None else _receive_exactly(connection, _HEAD.unpack(head)[0])


def _receive_exactly(connection: socket.socket, size: int) -> Optional[bytes]:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _fail(error: Exception) -> dict[str, Any]:
    """The answer to a request that failed; the log gets the reason."""
    traceback.print_exception(type(error), error, error.__traceback__)
    sys.stderr.write("The request above failed; the process continues.\n")
    return {"error": f"{type(error).__name__}: {error}"}


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        content = _encode(answer)
    except Exception as error:  # the model answered something that JSON cannot hold
        content = _encode(_fail(error))
    connection.sendall(_HEAD.pack(len(content)) + content)


def _encode(answer: dict[str, Any]) -> bytes:
    """The answer as JSON. Raises what the values raise that JSON cannot hold, such as an infinity."""
    try:
        text = json.dumps(answer, default=_to_json, allow_nan=False, ensure_ascii=False)
    except ValueError:  # NaN or an infinity
        text = json.dumps(_drop_nan(answer), default=_to_json, allow_nan=False, ensure_ascii=False)
    return text.encode()


def _build_input(columns: dict[str, Any], signature: dict[str, Any]) -> Any:
    """The frame or matrix of a request, with the types of the model's signature."""
    import numpy as np
    import pandas as pd

    if signature["columns"] is None:
        return pd.DataFrame(columns)
    if signature["matrix"]:
        return np.array([columns[column["name"]] for column in signature["columns"]], signature["matrix"]).T
    arrays: dict[str, Any] = {}
    for column in signature["columns"]:
        name, kind = column["name"], column["type"]
        if name not in columns:  # optional, and no row has it
            continue
        values = columns[name]
        if kind in _DTYPES:
            arrays[name] = np.array(values, _DTYPES[kind])
        else:
            if kind == "binary":
                values = [None if value is None else base64.b64decode(value) for value in values]
            arrays[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(arrays)


def _to_rows(answer: Any, count: int) -> list[Any]:
    """The model's answer as a list with one JSON value a row, as MLflow's own scoring server writes it."""
    import numpy as np
    import pandas as pd

    if isinstance(answer, pd.DataFrame):
        rows = answer.to_dict(orient="records")
    elif isinstance(answer, (pd.Series, np.ndarray)):
        if answer.dtype.kind == "M":  # NumPy makes whole numbers of nanoseconds
            answer = answer.astype("datetime64[us]")
        rows = answer.tolist()
    elif hasattr(answer, "toarray"):  # a sparse matrix
        rows = answer.toarray().tolist()
    else:
        rows = answer
    if not isinstance(rows, list) or len(rows) != count:
        size = f"{len(rows)} values" if isinstance(rows, list) else f"a {type(answer).__name__}"
        raise TypeError(f"the model answered {size} for {count} rows")
    return rows


def _to_json(value: Any) -> Any:
    """A value that JSON does not know: of NumPy, a time, bytes, or what pandas has for a missing value."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    raise TypeError(f"the model answered a {type(value).__name__}")


def _drop_nan(value: Any) -> Any:
    """The value with null in place of NaN, as pandas and MLflow write a missing value."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _drop_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_drop_nan(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _drop_nan(value.tolist())
    return value


if __name__ == "__main__":
    main()
