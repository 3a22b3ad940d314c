"""The bundles of versions on this machine: stored so that a reader sees them whole, or fetched from MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.config.settings import Settings
from headrace.kernel import faults
from headrace.kernel.files import move_into_place
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.registry.bundle import is_sealed, verify
from headrace.registry.client import MlflowConnection
from headrace.registry.signing import signing_key

__all__ = ["ARTIFACT", "Bundles"]

ARTIFACT = "bundle"
"""The folder of the bundle among the artifacts of an MLflow run."""


class Bundles:
    """The folders of bundles, by model and version."""

    def __init__(self, settings: Settings, mlflow: MlflowConnection) -> None:
        self._settings = settings
        self._mlflow = mlflow

    def folder(self, model: str, version: int) -> Path:
        """The folder of the version's bundle, whether or not this machine has it yet."""
        return self._settings.place("bundles", model, str(version))

    def verify(self, folder: Path, model: str, version: int) -> None:
        """Verifies a bundle (bundle.verify); a version that the profile trusts needs no valid signature."""
        trusted = f"{model}@{version}" in self._settings.registry.trust
        verify(folder, signing_key(self._settings), trusted=trusted)

    def keep(self, bundle: Path, model: str, version: int) -> None:
        """Copies the bundle into its folder; a reader sees it whole or not at all."""
        folder = self.folder(model, version)
        if is_sealed(folder):
            return
        with _draft_of(folder) as draft:
            shutil.copytree(bundle, make_private(draft) / ARTIFACT)
            faults.reach("registry.before_place")
            _replace(draft / ARTIFACT, folder)

    def fetch(self, model: str, version: int, run_id: str) -> None:
        """Downloads the bundle of the version from MLflow, verifies it, and moves it into its folder.

        Raises:
            Refused: a file differs from the manifest, or the signature is not trusted.
            Unavailable: MLflow cannot be reached.
        """
        folder = self.folder(model, version)
        with _draft_of(folder) as draft:
            with self._mlflow.translate_errors():
                downloaded = self._mlflow.client.download_artifacts(run_id, ARTIFACT, str(make_private(draft)))
            self.verify(Path(downloaded), model, version)
            _replace(Path(downloaded), folder)


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """The path for a draft beside the folder; removed after the block. The caller holds the model's lock."""
    for abandoned in folder.parent.glob(f".{folder.name}.*"):  # left by a process that was killed
        shutil.rmtree(abandoned)
    draft = folder.parent / f".{folder.name}.{new_id()}"
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(draft: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    move_into_place(draft, folder)
