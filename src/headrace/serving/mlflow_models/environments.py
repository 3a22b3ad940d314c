"""Environments: makes the Python environments that models need, once for equal needs, in the state folder.

An environment is the folder `environments/DIGEST`, named after the needs. It appears whole or not at all.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from headrace.kernel import faults
from headrace.kernel.errors import HeadraceError, Refused, Unavailable
from headrace.kernel.files import move_into_place
from headrace.kernel.ids import new_id
from headrace.kernel.lock import hold_lock, try_lock
from headrace.kernel.private import make_private
from headrace.kernel.scratch import make_scratch
from headrace.kernel.secrets import clean_text
from headrace.serving.mlflow_models.interpreters import Interpreter, child_environment, find_interpreter
from headrace.serving.mlflow_models.needs import Needs

__all__ = ["check_needs", "ensure_environment", "find_environment", "python_version", "remove_environments"]

_SECONDS = 900.0  # that uv may take
_PYTHON = Path("bin", "python")
_CAUSE = re.compile(r"\s*(?:error|cause): (.*)")
_LABEL = re.compile(r"\s*\w+: ")


def find_environment(root: Path, needs: Needs) -> Path | None:
    """The Python of the environment for these needs, if it is there and its interpreter still exists."""
    python = root / needs.digest / _PYTHON
    return python if python.exists() else None


def ensure_environment(root: Path, needs: Needs) -> Path:
    """Makes the environment for these needs unless it is there.

    Args:
        root: the folder of all environments.
        needs: what must be installed.

    Returns:
        The environment's Python.

    Raises:
        Refused: this machine lacks the Python, or the requirements cannot be met by wheels.
        Unavailable: the package index cannot be reached.
    """
    python = find_environment(root, needs)
    if python is not None:
        return python
    interpreter = find_interpreter(needs.python)
    folder = make_private(root) / needs.digest
    with hold_lock(root / f"{needs.digest}.lock"):
        python = find_environment(root, needs)  # another process may have made it meanwhile
        if python is None:
            for abandoned in root.glob(f".{needs.digest}.*"):  # left by a process that was killed
                shutil.rmtree(abandoned)
            draft = root / f".{needs.digest}.{new_id()}"
            try:
                _make(draft, interpreter, needs)
                faults.reach("environments.before_place")
                shutil.rmtree(folder, ignore_errors=True)  # its interpreter is gone
                move_into_place(draft, folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder / _PYTHON


def python_version(python: Path) -> str:
    """The version of an environment's Python, such as `3.9.18`."""
    settings = (python.parents[1] / "pyvenv.cfg").read_text()
    match = re.search(r"^version_info\s*=\s*(\S+)", settings, re.MULTILINE)
    return match[1] if match else ""


def check_needs(root: Path, needs: Needs) -> None:
    """Checks that the environment for these needs is there or can be made, without making it.

    Raises:
        Refused, Unavailable: as `ensure_environment`.
    """
    if find_environment(root, needs) is None:
        interpreter = find_interpreter(needs.python)
        with make_scratch() as folder:
            _lock(folder, interpreter, needs)


def remove_environments(root: Path, keep: Collection[str]) -> list[str]:
    """Removes each environment whose digest is not in `keep`, and drafts that killed processes left.

    Returns:
        The digests of the removed environments.
    """
    removed = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        is_draft = folder.name.startswith(".")
        digest = folder.name.split(".")[1] if is_draft else folder.name
        if digest in keep and not is_draft:
            continue
        lock = try_lock(root / f"{digest}.lock")
        if lock is None:  # it is being made
            continue
        with lock:
            if is_draft:
                shutil.rmtree(folder)
                continue
            trash = root / f".{digest}.{new_id()}"
            folder.rename(trash)  # a reader sees it whole or not at all
            shutil.rmtree(trash)
            Path(lock.name).unlink()
            removed.append(digest)
    return removed


def _make(draft: Path, interpreter: Interpreter, needs: Needs) -> None:
    """Makes an environment in the folder: packages as wheels alone, each with the hash that the index gave."""
    draft.mkdir(mode=0o700)
    lock = _lock(draft, interpreter, needs)
    python = ["--python", str(interpreter.path)]
    _run_uv(["venv", "--relocatable", "--allow-existing", *python, draft])
    python = ["--python", str(draft / _PYTHON)]
    _run_uv(["pip", "sync", "--no-build", "--require-hashes", *python, lock])
    (draft / "needs.json").write_bytes(msgspec.json.encode(needs))


def _lock(folder: Path, interpreter: Interpreter, needs: Needs) -> Path:
    """Resolves the requirements; returns the file with every package, its version and its hashes."""
    wanted, limits, lock = folder / "requirements.txt", folder / "constraints.txt", folder / "lock.txt"
    wanted.write_text("\n".join(needs.requirements) + "\n")
    limits.write_text("\n".join(needs.constraints) + "\n")
    options = ["--no-build", "--no-header", "--no-annotate", "--generate-hashes", "--emit-index-url"]
    python = ["--python", str(interpreter.path)]
    _run_uv(["pip", "compile", *options, *python, "-c", limits, "-o", lock, wanted])
    return lock


def _run_uv(arguments: Sequence[str | Path]) -> None:
    from uv import find_uv_bin

    environment = {**child_environment(), "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    try:
        run = subprocess.run(
            [find_uv_bin(), "--quiet", *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"uv did not end within {_SECONDS:.0f} s") from error
    if run.returncode != 0:
        raise _explain(run.stderr)


def _explain(output: str) -> HeadraceError:
    """The error for what uv printed: its reason in one sentence."""
    reasons: list[str] = []
    for line in map(clean_text, output.splitlines()):
        if match := _CAUSE.match(line):
            reasons.append(match[1])
        elif reasons and not _LABEL.match(line):  # uv breaks long lines
            reasons[-1] = f"{reasons[-1]} {line.strip()}".strip()
    if not reasons:
        return Refused(f"uv failed: {clean_text(' '.join(output.split()))}")
    if reasons[0].startswith("No solution") and len(reasons) > 1:
        return Refused(
            reasons[1],
            where="requirements.txt",
            remedy="Log the model again with requirements that exist as wheels for its Python.",
        )
    if any("Failed to fetch" in reason for reason in reasons):
        return Unavailable(f"the package index cannot be reached: {reasons[1]}: {reasons[-1]}")
    return Refused(": ".join(reasons[:2]), where="requirements.txt")
