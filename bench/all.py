"""Runs the benchmarks of this folder, one after another.

    python bench/all.py [--json] [NAME ...]

Each benchmark is a script that accepts `--json` and prints one object a line: work, ours and unit. If it
compares Headrace with a peer, measured in the same run, the object also has peer and ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="benchmarks to run; by default all")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    known = sorted(p.stem for p in HERE.glob("*.py") if p != Path(__file__))
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; the benchmarks are {', '.join(known)}")
    failed = [name for name in options.names or known if not _run(name, options.json)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, as_json: bool) -> bool:
    """Runs one benchmark in a separate process, so that it does not affect the next."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line.rstrip() if as_json else _row(json.loads(line)), flush=True)
    return process.returncode == 0


def _row(figure: dict[str, object]) -> str:
    ours = f"{figure['ours']:>12,.4g} {figure['unit']:<10}"
    peer = f"peer {figure['peer']:>12,.4g}   ratio {figure['ratio']:.2f}" if "peer" in figure else ""
    return f"{figure['work']!s:<58} {ours} {peer}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
