"""Names of jobs and datasets in OpenLineage events."""

from __future__ import annotations

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.run import Dataset
from headrace.kernel.secrets import clean_text
from headrace.kernel.topics import stored_name

__all__ = ["Names", "job_name", "kind_and_name", "split_version"]

# Jobs that move no data themselves: in a graph of data they would have no neighbours.
_LEFT_OUT = frozenset({"build", "deployment", "stage"})
# Steps of another job: their names begin with that job's.
_STEPS = dict.fromkeys(("evaluation", "fit", "split", "tuning"), "train")


class Names(Struct, frozen=True):
    """The namespaces of one project and profile.

    A topic on Kafka has its OpenLineage name (`kafka://broker:9092` and the topic), so that the lineage of
    other tools joins ours at the topic. Other datasets are named within the project: `headrace://shop` and
    `table/clean_events`.

    Attributes:
        project: the project's name; the namespace of its jobs.
        kafka: the first broker's address; None: topics are embedded.
    """

    project: str
    kafka: str | None = None

    @staticmethod
    def of(settings: Settings) -> Names:
        """The namespaces of this project and profile."""
        log = settings.log.address
        kafka = clean_text(log.split(",")[0]) if log.startswith("kafka://") else None
        return Names(settings.project, kafka)

    def dataset(self, dataset: Dataset) -> tuple[str, str]:
        """The dataset's OpenLineage namespace and name.

        All versions of a model are one dataset, `model/NAME`. A bundle that is not registered yet (its version
        is the run that trained it) is `bundle/NAME`.
        """
        if dataset.kind == "topic" and self.kafka is not None:
            return self.kafka, stored_name(dataset.name, self.project)
        kind = "bundle" if _is_bundle(dataset) else dataset.kind
        return f"headrace://{self.project}", f"{kind}/{split_version(dataset)[0]}"


def kind_and_name(dataset: Dataset) -> tuple[str, str]:
    """A dataset's kind and name as people read them: `model` and `purchase@2`, but `bundle` and `purchase` for
    a model that is not registered yet."""
    if _is_bundle(dataset):
        return "bundle", split_version(dataset)[0]
    return dataset.kind, dataset.name


def split_version(dataset: Dataset) -> tuple[str, str | None]:
    """A dataset's name and version: the two parts of a model's `name@version`; otherwise the name and None."""
    name, at, version = dataset.name.rpartition("@")
    return (name, version) if dataset.kind == "model" and at else (dataset.name, None)


def _is_bundle(dataset: Dataset) -> bool:
    """Whether it is a model that is not registered yet: its version is the run that trained it."""
    version = split_version(dataset)[1]
    return dataset.kind == "model" and version is not None and not version.isdigit()


def job_name(job: str) -> str | None:
    """The OpenLineage name of a run's job, such as `table.clean_events`; None: the graph leaves the job out.

    The name does not depend on the run's parent. The name of a job that is always a step of another begins with
    the other's name, such as `train.purchase.fit`.
    """
    *kind, subject = job.split(" ")
    first = "_".join(kind) or subject
    if first in _LEFT_OUT:
        return None
    if first in _STEPS:
        return f"{_STEPS[first]}.{subject}.{first}"
    return f"{first}.{subject}" if kind else subject
