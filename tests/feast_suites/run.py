"""Runs Feast's universal test suites on Headrace's stores.

    python tests/feast_suites/run.py FEAST [PYTEST ARGUMENT ...]

FEAST is a checkout of https://github.com/feast-dev/feast, best at the release that is installed. The suites
need packages that Headrace does not: they are installed into an environment beside the checkout. The online
store is SQLite, or the server that HEADRACE_FEAST_SUITES_ONLINE names (`postgresql://...`, `redis://...`).
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

HERE = Path(__file__).parent
NEEDED = (
    *("minio", "testcontainers", "python-keycloak", "assertpy", "google-cloud-bigquery", "botocore>=1.35"),
    *("pytest", "pytest-asyncio", "pytest-env", "pytest-timeout", "pytest-xdist"),
)
SUITES = (
    "offline_store/test_universal_historical_retrieval.py",
    "offline_store/test_universal_materialization.py",
    "offline_store/test_universal_types.py",
    "offline_store/test_persist.py",
    "offline_store/test_offline_write.py",
    "offline_store/test_push_features_to_offline_store.py",
    "offline_store/test_feature_logging.py",
    "online_store/test_universal_online.py",
    "online_store/test_universal_online_types.py",
    "online_store/test_universal_e2e.py",
    "online_store/test_push_features_to_online_store.py",
    "materialization/test_universal_materialization.py",
    "registration/test_universal_odfv_feature_inference.py",
)


def main(checkout: Path, arguments: list[str]) -> int:
    """Runs the suites, and returns pytest's exit code."""
    python = make_environment(checkout.parent / "headrace-feast-suites")
    suites = [f"tests/integration/{suite}" for suite in SUITES]
    environment = {
        **os.environ,
        "FEAST_IS_LOCAL_TEST": "True",
        "FULL_REPO_CONFIGS_MODULE": "stores",
        "PYTHONPATH": os.pathsep.join([str(HERE), "."]),
    }
    command = [python, "-m", "pytest", *suites, "--integration", "-q", "-k", "not dynamo", *arguments]
    return subprocess.run(command, cwd=checkout / "sdk" / "python", env=environment, check=False).returncode


def make_environment(folder: Path) -> str:
    """Makes the environment unless it is there: the packages of this one, and what the suites need. Returns
    its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
        install = ["uv", "pip", "install", "--quiet", "--python", python, *NEEDED]
        subprocess.run(install, check=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        beside = "".join(f"import site; site.addsitedir({place!r})\n" for place in site.getsitepackages())
        (packages / "beside.pth").write_text(beside)
    return str(python)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
