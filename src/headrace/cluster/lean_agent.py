"""Replaces Ray's agent on a node: reports that it has no ports, and ends with the raylet.

Run as a script, `lean_agent.py SESSION_FOLDER NODE`; it loads nothing but the standard library.
"""

import os
import sys

_PORTS = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port")


def _main(folder: str, node: str) -> None:
    for name in _PORTS:
        path = os.path.join(folder, f"{name}_{node}")
        with open(f"{path}.new", "w") as file:
            file.write("-1")
        os.replace(f"{path}.new", path)
    while os.read(0, 1):  # until the raylet ends and so closes the pipe
        pass


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
