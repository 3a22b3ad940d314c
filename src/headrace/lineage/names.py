"""Names: how jobs and datasets are called in OpenLineage events."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.config.settings import Settings
from headrace.kernel.run import Dataset
from headrace.kernel.secrets import clean_text

__all__ = ["Names"]


@dataclass(frozen=True)
class Names:
    """The namespaces of one project and profile.

    A topic on Kafka is named as OpenLineage names it (`kafka://broker:9092` and the topic), so that
    other tools' lineage joins ours at the topic. What only Headrace knows is named within the
    project: `headrace://shop` and `table/clean_events`.

    Attributes:
        project: the project's name; the namespace of its jobs.
        kafka: the first broker's address, or None where topics are embedded.
    """

    project: str
    kafka: str | None = None

    @staticmethod
    def of(settings: Settings) -> Names:
        """The names that this project and profile give."""
        log = settings.log.address
        kafka = clean_text(log.split(",")[0]) if log.startswith("kafka://") else None
        return Names(settings.project, kafka)

    def dataset(self, dataset: Dataset) -> tuple[str, str]:
        """The dataset's OpenLineage namespace and name."""
        if dataset.kind == "topic" and self.kafka is not None:
            return self.kafka, dataset.name
        return f"headrace://{self.project}", f"{dataset.kind}/{dataset.name}"
