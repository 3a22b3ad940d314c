from pathlib import Path

import pytest

from headrace.config.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project of one package, in which the test also stands."""
    root = tmp_path / "project"
    (root / "shop").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "shop"\n')
    (root / "shop" / "__init__.py").write_text('"""The shop."""\n')
    monkeypatch.chdir(root)
    for variable in ("HEADRACE_SIGNING_KEY", "HEADRACE_STATE", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    return load_settings(root)


def pytest_configure(config: pytest.Config) -> None:
    # MLflow's own calls of SQLAlchemy.
    config.addinivalue_line("filterwarnings", "ignore:The ``noload`` loader strategy")
