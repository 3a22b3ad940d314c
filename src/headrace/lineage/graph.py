"""Walks the graph of datasets and runs, from a dataset upstream to its origins, or downstream."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from headrace.kernel.position import Position
from headrace.kernel.run import Dataset, DatasetKind
from headrace.lineage.store import RunRow, Store

__all__ = ["Node", "downstream", "upstream"]

_DEEPEST = 32


class Node(Struct, frozen=True):
    """A dataset in the graph, and its neighbours in the direction of the walk.

    Attributes:
        dataset: the dataset, at the position that was read or written.
        run: upstream, the run that wrote it; downstream, the run that made it from the previous node
            (None at the first node, and at an origin such as a topic or file).
        exact: whether `run` is recorded with exactly this position; otherwise it is the last run that wrote the
            dataset.
        beyond: upstream, the run's inputs; downstream, the datasets that runs made from it.
        repeated: whether the dataset was visited earlier in the walk, so that its neighbours are left out.
    """

    dataset: Dataset
    run: RunRow | None
    exact: bool
    beyond: tuple[Node, ...] = ()
    repeated: bool = False

    def walk(self) -> Iterator[Node]:
        """This node and all further nodes, depth first."""
        yield self
        for node in self.beyond:
            yield from node.walk()


def upstream(store: Store, kind: DatasetKind, name: str, position: Position | None = None) -> Node:
    """The recorded origins of a dataset: the run that wrote it, its inputs at their positions, and so on."""
    return _upstream(store, Dataset(kind, name, position), set(), 0)


def downstream(store: Store, kind: DatasetKind, name: str, position: Position | None = None) -> Node:
    """The datasets made from a dataset (at this position; None: at any), those made from them, and so on."""
    dataset = Dataset(kind, name, position)
    return Node(dataset, None, True, _downstream(store, dataset, {_key(dataset)}, 0))


def _upstream(store: Store, dataset: Dataset, seen: set[tuple[object, ...]], depth: int) -> Node:
    run = store.producer(dataset.kind, dataset.name, dataset.position)
    exact = run is not None
    if run is None and dataset.position is not None and dataset.kind != "topic":
        run = store.producer(dataset.kind, dataset.name)
    if _key(dataset) in seen or depth >= _DEEPEST:
        return Node(dataset, run, exact, repeated=True)
    seen.add(_key(dataset))
    inputs = () if run is None else run.inputs
    return Node(dataset, run, exact, tuple(_upstream(store, source, seen, depth + 1) for source in inputs))


def _downstream(store: Store, dataset: Dataset, seen: set[tuple[object, ...]], depth: int) -> tuple[Node, ...]:
    nodes = []
    for run in store.readers(dataset.kind, dataset.name, dataset.position):
        for output in run.outputs:
            if _key(output) in seen or depth >= _DEEPEST:
                nodes.append(Node(output, run, True, repeated=True))
                continue
            seen.add(_key(output))
            beyond = _downstream(store, _at_any_commit(output, run), seen, depth + 1)
            nodes.append(Node(output, run, True, beyond))
    return tuple(nodes)


def _at_any_commit(output: Dataset, run: RunRow) -> Dataset:
    """The output without its position if an ingest wrote it: one run has many commits, and records the last."""
    if output.kind == "table" and any(source.kind == "topic" for source in run.inputs):
        return Dataset(output.kind, output.name)
    return output


def _key(dataset: Dataset) -> tuple[object, ...]:
    return dataset.kind, dataset.name, str(dataset.position)
