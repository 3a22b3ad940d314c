"""The function of the TrainJob, run by Kubeflow's own SDK in an environment that its local backend makes."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sysconfig
import zipfile
from pathlib import Path

from services import kubeflow
from tests.export.small_project import write_project

from headrace import registry
from headrace.config.settings import load_settings
from headrace.export.kubeflow import train_model

SUBMIT = """
import json, sys
from kubeflow.trainer import CustomTrainer, TrainerClient
from kubeflow.trainer.backends.localprocess.types import LocalProcessBackendConfig
from function import train_model

if __name__ == "__main__":
    arguments, packages = map(json.loads, sys.argv[1:])
    client = TrainerClient(backend_config=LocalProcessBackendConfig())
    trainer = CustomTrainer(func=train_model, func_args=arguments, packages_to_install=packages)
    name = client.train(runtime=client.get_runtime("torch-distributed"), trainer=trainer)
    job = client.wait_for_job_status(name, status={"Complete", "Failed"}, timeout=500)
    print(*client.get_job_logs(name), sep="\\n")
    print("status", job.status)
"""
# What the entry point of Kubeflow's runtime for PyTorch does with one process.
TORCHRUN = '#!python\nimport runpy, sys\nrunpy.run_path(sys.argv[1], run_name="__main__")\n'


def write_wheel(folder: Path, name: str, files: dict[str, str]) -> str:
    """Writes a wheel with these files, and returns it as a requirement."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, text)
    return f"{name} @ {path.as_uri()}"


def test_kubeflows_local_backend_trains_and_registers_a_version(tmp_path: Path) -> None:
    project = write_project(tmp_path / "small", "first")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    (tmp_path / "function.py").write_text(inspect.getsource(train_model))
    (tmp_path / "submit.py").write_text(SUBMIT)
    # The image of a cluster has Headrace; here the job's environment reads the packages of this one.
    here = "\n".join([sysconfig.get_path("purelib"), str(Path(inspect.getfile(registry)).parents[2])])
    packages = [
        write_wheel(tmp_path, "torch", {"torch-1.0.data/scripts/torchrun": TORCHRUN}),
        write_wheel(tmp_path, "headrace_image", {"headrace_image.pth": here}),
    ]
    python = kubeflow.python()
    arguments = {"folder": str(project), "profile": "local", "model": "first"}
    process = subprocess.run(
        [python, "submit.py", json.dumps(arguments), json.dumps(packages)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert process.stdout.splitlines()[-1:] == ["status Complete"], process.stdout + process.stderr
    assert "train-first rmse" in process.stdout
    version = registry.open(load_settings(project)).version("first", 1)
    assert version.metrics["rmse"] < 5
    assert version.tags["headrace.gate"] == "passed"
