"""The models and feature services of a project, to list and open them in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.api.listing import Listing
from headrace.api.rows import Rows
from headrace.config.settings import Settings
from headrace.kernel.html import html_table
from headrace.workspace import Workspace

if TYPE_CHECKING:
    from headrace.features.feast.declared_service import DeclaredService
    from headrace.features.feast.objects import FeastObjects
    from headrace.registry.version import Version
    from headrace.training.report import TrainingReport

__all__ = ["OpenModel", "list_feature_services", "list_models"]

_METRICS = 4  # of a version, in a table


class OpenModel:
    """A model of a project.

    Attributes:
        name: its name.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self.name = settings, name

    @property
    def versions(self) -> Listing[Version]:
        """The registered versions by number and alias, the newest first: `versions[2]`,
        `versions["champion"]`."""
        return Listing(
            f"version of {self.name}",
            self._list_references,
            self._open_version,
            remedy=f"headrace build {self.name} trains one.",
            describe=self._describe_versions,
        )

    @property
    def training_set(self) -> Rows:
        """Its newest training set. Raises CallError if it has not been made yet."""
        with Workspace(self._settings) as workspace:
            return Rows(workspace.visible, f"training_{self.name}", None)

    def report(self, version: int | str = "champion") -> TrainingReport:
        """How a version was trained. Raises CallError if the version does not exist."""
        from headrace.training.report import read_report

        with Workspace(self._settings) as workspace:
            versions = workspace.registry
            return read_report(versions.bundle(self.name, versions.version(self.name, version).version))

    def _list_versions(self) -> list[Version]:
        with Workspace(self._settings) as workspace:
            return workspace.registry.versions(self.name)

    def _list_references(self) -> list[str]:
        versions = self._list_versions()
        return [str(v.version) for v in versions] + [alias for v in versions for alias in v.aliases]

    def _open_version(self, reference: str) -> Version:
        with Workspace(self._settings) as workspace:
            return workspace.registry.version(self.name, reference)

    def _describe_versions(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = [
            (
                version.version,
                ", ".join(version.aliases),
                f"{version.created:%F %T}",
                ", ".join(f"{name} {value:.4g}" for name, value in list(version.metrics.items())[:_METRICS]),
            )
            for version in self._list_versions()
        ]
        return ("version", "aliases", "registered, UTC", "metrics"), rows

    def __repr__(self) -> str:
        return f"<model {self.name}: versions {', '.join(self.versions) or 'none yet'}>"

    def _repr_html_(self) -> str:
        """Its versions, for a notebook."""
        columns, rows = self._describe_versions()
        return html_table(f"Model {self.name}", columns, rows)


def list_models(settings: Settings) -> Listing[OpenModel]:
    """The declared models. After an edit of the code, listing them loads Feast."""

    def names() -> list[str]:
        from headrace.flows.build.context import BuildContext

        with Workspace(settings) as workspace:
            return list(BuildContext(workspace).code.models)

    remedy = f"Declare one in {settings.project}/models.py."
    return Listing("model", names, lambda name: OpenModel(settings, name), remedy=remedy)


def list_feature_services(settings: Settings) -> Listing[DeclaredService]:
    """The declared feature services. This loads Feast."""

    def collect() -> FeastObjects:
        from headrace.features.feast.compiler import collect_objects

        with Workspace(settings) as workspace:
            return collect_objects(workspace.whole_project)

    def open_item(name: str) -> DeclaredService:
        from headrace.features.feast.declared_service import open_service

        objects = collect()
        return open_service(objects.services[name], objects)

    def describe() -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        from headrace.features.feast.declared_service import open_service

        objects = collect()
        rows: list[Sequence[object]] = []
        for name, service in objects.services.items():
            opened = open_service(service, objects)
            rows += [
                (name, view, ", ".join(feature for feature, _ in features))
                for view, features in opened.features_by_view.items()
            ] or [(name, "", opened.problem)]
        return ("feature service", "view", "features"), rows

    return Listing(
        "feature service",
        lambda: list(collect().services),
        open_item,
        remedy=f"Declare one in {settings.project}/features.py.",
        describe=describe,
    )
