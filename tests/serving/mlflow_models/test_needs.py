"""Needs: what an artefact says that its model needs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.serving.mlflow_models.artifact import write_artifact

from headrace.kernel.errors import Refused
from headrace.serving.mlflow_models.needs import Needs, read_needs


def test_needs_are_those_of_python_env_and_requirements(tmp_path: Path) -> None:
    artifact = write_artifact(
        tmp_path / "a",
        python="3.9.18",
        requirements=("mlflow==3.1.4", "", "# a comment", "catboost==1.1.1  # pinned", "-c constraints.txt"),
    )
    (artifact / "constraints.txt").write_text("numpy<2\n-r more.txt\n")
    (artifact / "more.txt").write_text("scipy<2\n")
    needs = read_needs(artifact)
    assert needs == Needs("3.9.18", ["mlflow==3.1.4", "catboost==1.1.1"], ["numpy<2", "scipy<2"])
    assert needs.minor == "3.9"


def test_a_version_of_python_without_quotes_keeps_its_zero(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "a")
    (artifact / "python_env.yaml").write_text("python: 3.10\ndependencies: [mlflow]\n")
    assert read_needs(artifact).minor == "3.10"


def test_equal_needs_have_one_digest() -> None:
    needs = Needs("3.9.18", ["mlflow==3.1.4", "catboost==1.1.1"], ["numpy<2"])
    assert Needs("3.9.2", ["catboost==1.1.1", "mlflow==3.1.4"], ["numpy<2"]).digest == needs.digest
    others = [
        Needs("3.12.1", needs.requirements, needs.constraints),
        Needs("3.9.18", ["mlflow==3.1.4", "catboost==1.2"], needs.constraints),
        Needs("3.9.18", needs.requirements),
        Needs("3.9.18", [*needs.requirements, "numpy<2"]),
    ]
    assert len({needs.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("python_env.yaml", None, "its artefact lacks python_env.yaml"),
        ("python_env.yaml", "python: [", "it is not valid YAML"),
        ("python_env.yaml", "- a\n", "it is not a mapping"),
        ("python_env.yaml", "python: 2.7.18\n", "'2.7.18' is not a valid version of Python 3"),
        ("python_env.yaml", "python: 3.9.18; rm\n", "is not a valid version of Python 3"),
        ("python_env.yaml", "dependencies: []\n", "None is not a valid version"),
        ("python_env.yaml", "python: 3.9.18\ndependencies: mlflow\n", "it must be a list of requirements"),
        ("python_env.yaml", "python: 3.9.18\ndependencies: [{a: 1}]\n", "it must be a list of requirements"),
        (
            "python_env.yaml",
            "python: 3.9.18\ndependencies: [-r ../secret.txt]\n",
            "is not a file of the artefact",
        ),
        (
            "python_env.yaml",
            "python: 3.9.18\ndependencies: [-r /etc/passwd]\n",
            "is not a file of the artefact",
        ),
        ("python_env.yaml", "&a [*a, *a]\n", "it is not valid YAML: found unconstructable recursive node"),
        ("python_env.yaml", "python: 2026-13-45\n", "'2026-13-45' is not a valid version of Python 3"),
        ("requirements.txt", None, "its artefact lacks requirements.txt"),
        ("requirements.txt", "catboost==1.2\n", "its requirements lack mlflow"),
        ("requirements.txt", "mlflow-tracing==1\nmlflow_like==2\n", "its requirements lack mlflow"),
        ("requirements.txt", "x" * (2 << 20), "it is larger than 1,048,576 bytes"),
        ("requirements.txt", b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_a_file_that_is_missing_or_not_valid_is_refused(
    tmp_path: Path, file: str, content: str | bytes | None, message: str
) -> None:
    (tmp_path / "secret.txt").write_text("mlflow\n")
    artifact = write_artifact(tmp_path / "a")
    if content is None:
        (artifact / file).unlink()
    else:
        (artifact / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Refused) as caught:
        read_needs(artifact)
    assert message in str(caught.value)


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "a", requirements=("mlflow", "-r requirements.txt", "-r b.txt"))
    (artifact / "b.txt").write_text("-r requirements.txt\nnumpy\n")
    assert set(read_needs(artifact).requirements) == {"mlflow", "numpy"}


@pytest.mark.parametrize("line", ["mlflow==3.1.4", "mlflow-skinny>=2", "MLflow[extras]", "mlflow"])
def test_either_package_of_mlflow_loads_a_model(tmp_path: Path, line: str) -> None:
    assert read_needs(write_artifact(tmp_path / "a", requirements=(line,))).requirements == [line]
