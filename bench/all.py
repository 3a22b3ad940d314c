"""Every benchmark of this folder, one after another, in one run.

    python bench/all.py [--json] [NAME ...]

Each benchmark is a script that takes `--json` and prints one object a line: work, ours, unit, and
where there is one, peer (what it is held against, measured in the same run) and ratio.
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
    parser.add_argument("names", nargs="*", help="benchmarks to run; all where none is named")
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args()
    known = sorted(p.stem for p in HERE.glob("*.py") if p != Path(__file__))
    unknown = set(given.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = [name for name in given.names or known if not _run(name, given.json)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, as_json: bool) -> bool:
    """Runs one benchmark in a process of its own, so that none warms or burdens the next."""
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
