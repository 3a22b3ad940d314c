"""`headrace build` with nothing to do loads no engine, so that it answers at once."""

from __future__ import annotations

import subprocess
import sys

from headrace.config.settings import Settings
from headrace.flows.build import build
from headrace.workspace import Workspace

# attrs, in which a stage is a record, costs 10 ms.
MAY_LOAD = {"attr", "attrs", "click", "headrace", "msgspec", "typing_extensions"}
SCRIPT = """
import sys
before = set(sys.modules)
from headrace.cli.main import main
sys.argv = ["headrace", "build"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
packages = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(packages - set(sys.stdlib_module_names)))
"""


def test_a_build_with_nothing_to_do_loads_no_engine(tiny: Settings) -> None:
    build(Workspace(tiny))
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tiny.root, capture_output=True, text=True, timeout=300
    )
    assert out.returncode == 0, out.stderr
    answer, packages = out.stdout.splitlines()
    assert answer.startswith("Nothing to do")
    assert set(packages.split()) == MAY_LOAD
