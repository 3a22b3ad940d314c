"""The documentation is a site without a broken link, and its reference names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "dedup_within" in (tmp_path / "reference" / "events" / "index.html").read_text()
    assert "HEADRACE_REPLICAS" in (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert "headrace quarantine replay" in (tmp_path / "reference" / "cli" / "index.html").read_text()


def test_each_variable_of_the_environment_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get)?[\[(]f?\"([A-Z][A-Z0-9_]+)", source))
    libraries = {"PATH", "XDG_DATA_HOME", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "AWS_DEFAULT_REGION"}
    for name in read - libraries:
        assert name in page or name.startswith(("RAY_", "HEADRACE_KAFKA_")), name
