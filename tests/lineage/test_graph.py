"""The lineage graph: producers upstream of a dataset, and consumers downstream."""

from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, record_with, run
from headrace.lineage import Store
from headrace.lineage.graph import Node, downstream, upstream
from headrace.lineage.names import kind_and_name

CLICKS = Dataset("topic", "clicks", LogPosition("clicks", "id-1", {0: 10}))


def table(name: str, snapshot: int) -> Dataset:
    return Dataset("table", name, SnapshotPosition(name, snapshot))


def record_run(store: Store, job: str, inputs: list[Dataset], outputs: list[Dataset]) -> None:
    with store.recorder() as recorder, record_with(recorder), run(job, inputs) as r:
        for output in outputs:
            r.add_output(output)


def shape(node: Node) -> object:
    job = None if node.run is None else node.run.job
    return (
        (node.dataset.name, job, [shape(n) for n in node.beyond]) if node.beyond else (node.dataset.name, job)
    )


def test_upstream_leads_from_a_model_to_its_topic(store: Store) -> None:
    record_run(store, "ingest", [CLICKS], [table("clicks", 1)])
    record_run(store, "table clean", [table("clicks", 1)], [table("clean", 2)])
    record_run(store, "train", [table("clean", 2)], [Dataset("model", "buy@1")])

    assert shape(upstream(store, "model", "buy@1")) == (
        "buy@1",
        "train",
        [("clean", "table clean", [("clicks", "ingest", [("clicks", None)])])],
    )


def test_upstream_follows_each_input_at_the_position_that_was_read(store: Store) -> None:
    record_run(store, "ingest first", [CLICKS], [table("clicks", 1)])
    record_run(store, "table clean", [table("clicks", 1)], [table("clean", 2)])
    record_run(store, "ingest later", [CLICKS], [table("clicks", 3)])

    jobs = [n.run.job for n in upstream(store, "table", "clean").walk() if n.run is not None]
    assert jobs == ["table clean", "ingest first"]


def test_unrecorded_snapshot_falls_back_to_the_last_producer(store: Store) -> None:
    record_run(store, "ingest", [CLICKS], [table("clicks", 1)])

    node = upstream(store, "table", "clicks", SnapshotPosition("clicks", 99))
    assert node.run is not None
    assert (node.run.job, node.exact) == ("ingest", False)


def test_downstream_finds_everything_made_from_a_topic(store: Store) -> None:
    record_run(store, "ingest", [CLICKS], [table("clicks", 1)])
    record_run(store, "table clean", [table("clicks", 1)], [table("clean", 2)])
    record_run(store, "train", [table("clean", 2)], [Dataset("model", "buy@1")])

    assert [n.dataset.name for n in downstream(store, "topic", "clicks").walk()] == [
        "clicks",
        "clicks",
        "clean",
        "buy@1",
    ]


def test_cycle_is_followed_once(store: Store) -> None:
    record_run(store, "self", [table("state", 1)], [table("state", 1)])

    assert upstream(store, "table", "state", SnapshotPosition("state", 1)).beyond[0].repeated
    assert len(list(downstream(store, "table", "state", SnapshotPosition("state", 1)).walk())) == 2


def test_a_model_that_is_not_registered_yet_is_called_a_bundle() -> None:
    trained, registered = Dataset("model", "buy@0198c1f0-5d0a-7b3e"), Dataset("model", "buy@2")
    assert [kind_and_name(dataset) for dataset in (trained, registered, table("clean", 2))] == [
        ("bundle", "buy"),
        ("model", "buy@2"),
        ("table", "clean"),
    ]
