"""`publish-NAME`: publishes a star schema to PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.published import is_published
from headrace.flows.build.reasons import LOCK, Parameter
from headrace.flows.build.stage import Stage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["PublishStage"]


class PublishStage(Stage):
    """Depends on the publication's declaration, and on its tables. A profile without the database has none."""

    kind = "publish"
    is_target = True
    is_isolated = True
    drift = "PostgreSQL has the rows of another commit"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=tuple(code.pointer_of(table) for table in publication.tables),
                params=(LOCK, Parameter(f"publications.{name}.pieces", "code")),
                out=Pointers.path("publications", name),
            )
            for name, publication in code.publications.items()
            if publication.database in settings.databases.addresses
        ]

    def run(self, context: BuildContext) -> StageResult:
        from headrace.kernel.extras import require

        require("psycopg", "a publication")
        from headrace.tables.warehouse.publication import publish_star

        code = context.code.publications[self.subject]
        at = {table: context.snapshot(table) for table in code.tables}
        published = publish_star(
            context.lake,
            context.project(features=False).publications[self.subject],
            context.settings.databases.addresses[code.database],
            at=at,
            code=context.code.publication_digest(self.subject),
        )
        context.pointers.write(self.out, {"publication": self.subject, "snapshots": at})
        return StageResult(published.what, published.facts)

    def is_lost(self, context: BuildContext) -> bool:
        """Whether PostgreSQL has other rows than the pointer says: it was restored, or is another server."""
        pointer = context.pointers.read(self.out)
        database = context.code.publications[self.subject].database
        return pointer is not None and not is_published(
            context.settings, self.subject, database, pointer["snapshots"]
        )
