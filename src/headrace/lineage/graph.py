"""The graph of datasets and runs, followed from one dataset up to its origins or down to its effects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headrace.kernel.position import Position
from headrace.kernel.run import Dataset, DatasetKind
from headrace.lineage.store import RunRow, Store

__all__ = ["Node", "downstream", "upstream"]

_DEEPEST = 32


@dataclass(frozen=True)
class Node:
    """A dataset in the graph and what lies beyond it.

    Attributes:
        dataset: with the position at which it was met.
        run: upstream, the run that made it; downstream, the run that made it from the node before
            (None at the node the walk began with, and at an origin such as a topic or file).
        exact: whether `run` is recorded with exactly this position; otherwise it is the last one that
            made the dataset.
        beyond: upstream the run's inputs, downstream what runs made from it.
        repeated: it was met earlier in the walk, and is not followed again.
    """

    dataset: Dataset
    run: RunRow | None
    exact: bool
    beyond: tuple[Node, ...] = ()
    repeated: bool = False

    def walk(self) -> Iterator[Node]:
        """This node and all beyond it, depth first."""
        yield self
        for node in self.beyond:
            yield from node.walk()


def upstream(store: Store, kind: DatasetKind, name: str, position: Position | None = None) -> Node:
    """What the dataset was made of, as far as is recorded: run by run, each input at its position."""
    return _up(store, Dataset(kind, name, position), set(), 0)


def downstream(store: Store, kind: DatasetKind, name: str, position: Position | None = None) -> Node:
    """What was made from the dataset (at this position; None: at any), and from that, and so on."""
    dataset = Dataset(kind, name, position)
    return Node(dataset, None, True, _down(store, dataset, {_key(dataset)}, 0))


def _up(store: Store, dataset: Dataset, seen: set[tuple[object, ...]], depth: int) -> Node:
    run = store.producer(dataset.kind, dataset.name, dataset.position)
    exact = run is not None
    if run is None and dataset.position is not None and dataset.kind != "topic":
        run = store.producer(dataset.kind, dataset.name)
    if _key(dataset) in seen or depth >= _DEEPEST:
        return Node(dataset, run, exact, repeated=True)
    seen.add(_key(dataset))
    inputs = () if run is None else run.inputs
    return Node(dataset, run, exact, tuple(_up(store, one, seen, depth + 1) for one in inputs))


def _down(store: Store, dataset: Dataset, seen: set[tuple[object, ...]], depth: int) -> tuple[Node, ...]:
    nodes = []
    for run in store.readers(dataset.kind, dataset.name, dataset.position):
        for made in run.outputs:
            if _key(made) in seen or depth >= _DEEPEST:
                nodes.append(Node(made, run, True, repeated=True))
                continue
            seen.add(_key(made))
            nodes.append(Node(made, run, True, _down(store, _any_commit(made, run), seen, depth + 1)))
    return tuple(nodes)


def _any_commit(made: Dataset, run: RunRow) -> Dataset:
    """An ingest is one run over many commits, and only its last is recorded: its table at any of them."""
    if made.kind == "table" and any(one.kind == "topic" for one in run.inputs):
        return Dataset(made.kind, made.name)
    return made


def _key(dataset: Dataset) -> tuple[object, ...]:
    return dataset.kind, dataset.name, str(dataset.position)
