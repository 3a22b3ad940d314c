"""The training set: a tagged table of labels and features, and the rows that training reads of it."""

import attrs
import msgspec
import polars as pl
import pytest

from headrace.declare.model import Model
from headrace.features.plan import AsOfView, FeaturePlan, FeatureRef, OnDemandInput, OnDemandView, PlanField
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import CallError, ProjectError, Refused
from headrace.kernel.run import RunEvent, record_with
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.training import training_set
from headrace.training.matrices import to_matrices
from headrace.training.splits.port import Fold, Parts


class EventRecorder:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        self.events.append(event)


def test_a_training_set_is_a_tagged_table_and_its_inputs_are_tagged(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    with record_with(EventRecorder()) as recorder:
        training_rows = training_set.make(project, full_lake, model, plan)
    assert (training_rows.table, training_rows.rows, training_rows.refused) == ("training_purchase", 2970, 30)
    heads = {
        name: full_lake.table(name).current_snapshot().id for name in ("facts", "outcomes", "training_purchase")
    }
    assert training_rows.inputs == {name: heads[name] for name in ("outcomes", "facts")}
    assert training_rows.snapshot == heads["training_purchase"]
    for name, snapshot in heads.items():
        assert snapshot in full_lake.table(name).tags().values()

    rows = training_set.read(full_lake, training_rows, plan, "bought").frame
    assert rows.columns == ["user_id", "event_timestamp", "bought", "facts__mood", "facts__kind"]
    assert rows["bought"].null_count() == 0
    users = full_lake.table("training_purchase").scan(training_rows.snapshot).collect()
    facts = full_lake.table("facts").scan().select("user_id", "mood", "kind").collect()
    joined = users.join(facts, on="user_id")
    assert joined.filter(pl.col("mood") != pl.col("facts__mood")).is_empty()
    assert len(joined) == 2970

    ended = recorder.events[-1].run
    assert recorder.events[-1].outcome == "COMPLETE"
    assert {dataset.name for dataset in ended.inputs} == {"outcomes", "facts"}
    assert [dataset.position.snapshot_id for dataset in ended.outputs] == [training_rows.snapshot]


def test_the_same_inputs_make_the_same_training_set(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    first = training_set.make(project, full_lake, model, plan)
    assert training_set.make(project, full_lake, model, plan) == first
    facts = full_lake.table("facts")
    facts.overwrite(facts.scan().with_columns(mood=pl.lit(0.0)).collect().to_arrow())
    second = training_set.make(project, full_lake, model, plan)
    assert second.snapshot != first.snapshot
    assert training_set.read(full_lake, second, plan, "bought").frame["facts__mood"].to_list() == [0.0] * 2970
    assert training_set.read(full_lake, first, plan, "bought").frame["facts__mood"].n_unique() > 100

    then = training_set.make(project, full_lake, model, plan, inputs=first.inputs)
    assert then.inputs == first.inputs
    assert training_set.read(full_lake, then, plan, "bought").frame.equals(
        training_set.read(full_lake, first, plan, "bought").frame
    )


def test_a_training_set_larger_than_memory_is_made_in_pieces_and_committed_once(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    small = msgspec.structs.replace(project, settings=project.settings.with_values(join_memory=1))
    in_pieces = training_set.make(small, full_lake, model, plan)
    table = full_lake.table("training_purchase")
    assert len(table.snapshots()) == 1
    assert len(list(table.iceberg().scan().plan_files())) > 1
    rows = table.scan(in_pieces.snapshot).collect()
    assert not list(small.settings.place("joins").iterdir())

    full_lake.drop_table("training_purchase")
    whole = training_set.make(project, full_lake, model, plan)
    assert full_lake.table("training_purchase").scan(whole.snapshot).collect().equals(rows)
    assert whole.digest == in_pieces.digest


def test_the_training_set_has_the_columns_and_types_of_its_own_plan(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    first = training_set.make(project, full_lake, model, plan)
    before = training_set.read(full_lake, first, plan, "bought").frame
    (facts,) = plan.views
    assert isinstance(facts, AsOfView)
    mood = PlanField("mood", "string")
    facts = msgspec.structs.replace(facts, features=(mood,))
    changed = msgspec.structs.replace(plan, views=(facts,), features=(FeatureRef("facts", "mood", "string"),))
    texts = full_lake.table("facts").scan().with_columns(mood=pl.lit("calm")).collect().to_arrow()
    full_lake.ensure("facts", texts.schema, exact=True).overwrite(texts)
    second = training_set.make(project, full_lake, model, changed)
    rows = full_lake.table(second.table).scan().collect()
    assert "facts__kind" not in rows.columns
    assert rows["facts__mood"].to_list() == ["calm"] * 2970
    assert training_set.read(full_lake, first, plan, "bought").frame.equals(before)


RATIO = OnDemandView(
    "ratio",
    (OnDemandInput("mood", "facts"), OnDemandInput("asked")),
    (PlanField("of", "float64"),),
    "row",
    "f",
    "def f(i):\n    return {'of': i['mood'] / i['asked']}\n",
)
AFTER = OnDemandView(  # fails on the nulls of a row that `ratio` failed on
    "after",
    (OnDemandInput("of", "ratio"),),
    (PlanField("more", "float64"),),
    "row",
    "f",
    "def f(i):\n    return {'more': i['of'] + 1}\n",
)


def test_a_label_that_a_function_fails_on_is_left_out_counted_and_named(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    outcomes = full_lake.table("outcomes").scan().sort("event_timestamp").collect()
    zeros = [5, 99, 700]  # the label of row 99 is not known
    outcomes = outcomes.with_columns(
        asked=pl.when(pl.int_range(pl.len()).is_in(zeros)).then(0.0).otherwise(2.0)
    )
    full_lake.ensure("outcomes", outcomes.to_arrow().schema).overwrite(outcomes.to_arrow())
    features = (*plan.features, FeatureRef("ratio", "of", "float64"), FeatureRef("after", "more", "float64"))
    plan = msgspec.structs.replace(
        plan, views=(*plan.views, RATIO, AFTER), features=features, request=(PlanField("asked", "float64"),)
    )
    training_rows = training_set.make(project, full_lake, model, plan)
    assert (training_rows.rows, training_rows.refused, training_rows.failed) == (2968, 30, 2)
    assert training_set.make(project, full_lake, model, plan) == training_rows  # also when it is only read
    assert len(training_rows.failures) == 2
    rows = sorted((outcomes.row(number, named=True) for number in (5, 700)), key=lambda row: row["user_id"])
    for row, text in zip(rows, training_rows.failures, strict=True):
        assert text.startswith(
            f"user_id={row['user_id']}, event_timestamp={row['event_timestamp']}, asked=0.0: "
        )
        assert text.endswith("the on-demand view ratio failed: ZeroDivisionError: float division by zero")

    read = training_set.read(full_lake, training_rows, plan, "bought").frame
    labelled = outcomes.drop_nulls("bought").filter(pl.col("asked") != 0)
    facts = full_lake.table("facts").scan().select("user_id", "mood").collect()
    wanted = labelled.join(facts, on="user_id").select(
        "user_id", "event_timestamp", ratio__of=pl.col("mood") / 2, after__more=pl.col("mood") / 2 + 1
    )
    assert read.select(wanted.columns).sort("event_timestamp").equals(wanted.sort("event_timestamp"))


def test_labels_with_a_null_key_are_kept_and_counted_by_key(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    outcomes = full_lake.table("outcomes").scan().drop_nulls("bought").sort("event_timestamp").collect()
    complete = training_set.make(project, full_lake, model, plan)
    assert complete.keyless == {}
    without = outcomes.with_columns(user_id=pl.when(pl.int_range(pl.len()) >= 7).then("user_id"))
    full_lake.ensure("outcomes", without.to_arrow().schema).overwrite(without.to_arrow())
    rows = training_set.make(project, full_lake, model, plan)
    assert (rows.rows, rows.keyless) == (len(outcomes), {"user_id": 7})
    assert training_set.make(project, full_lake, model, plan) == rows  # also when it is only read


def test_a_function_that_fails_on_every_label_is_an_error(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    outcomes = full_lake.table("outcomes").scan().with_columns(asked=pl.lit(0.0)).head(50).collect().to_arrow()
    full_lake.ensure("outcomes", outcomes.schema).overwrite(outcomes)
    features = (*plan.features, FeatureRef("ratio", "of", "float64"))
    plan = msgspec.structs.replace(
        plan, views=(*plan.views, RATIO), features=features, request=(PlanField("asked", "float64"),)
    )
    with pytest.raises(OnDemandError, match=r"ZeroDivisionError.*on every row.*the label's row is"):
        training_set.make(project, full_lake, model, plan)
    assert not full_lake.table_exists("training_purchase")


def test_a_table_that_is_not_built_is_an_error(
    project: Project, empty_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    with pytest.raises(CallError, match="outcomes"):
        training_set.make(project, empty_lake, model, plan)


def test_a_target_that_the_labels_lack_is_an_error(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    """Labels without `schema=` say their columns only when they are made."""
    lost = attrs.evolve(model, target="buoght")
    with pytest.raises(ProjectError, match="needs column 'buoght', which its labels 'outcomes' lack") as caught:
        training_set.make(project, full_lake, lost, plan)
    assert "bought" in str(caught.value.remedy)


def test_rows_without_labels_and_invalid_targets_are_refused(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    outcomes = full_lake.table("outcomes")
    rows = outcomes.scan().collect()
    outcomes.overwrite(rows.with_columns(bought=pl.lit(None, pl.Int64)).to_arrow())
    with pytest.raises(Refused, match="no row with a label"):
        training_set.make(project, full_lake, model, plan)
    outcomes.overwrite(rows.with_columns(bought=pl.lit(2, pl.Int64)).to_arrow())
    with pytest.raises(Refused, match="must be 0 or 1; a row has 2"):
        training_set.make(project, full_lake, model, plan)
    outcomes.overwrite(rows.clear().to_arrow())
    with pytest.raises(Refused, match="no row"):
        training_set.make(project, full_lake, model, plan)


def test_training_sets_without_a_version_lose_their_tags(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan
) -> None:
    facts = full_lake.table("facts")

    def again(mood: float) -> training_set.TrainingSet:
        facts.overwrite(facts.scan().with_columns(mood=pl.lit(mood)).collect().to_arrow())
        return training_set.make(project, full_lake, model, plan)

    first = training_set.make(project, full_lake, model, plan)
    training_set.keep_for_version(full_lake, first, 1)
    again(0.0)  # nothing is registered of this one
    third = again(1.0)
    training_set.keep_for_version(full_lake, third, 2)
    training_set.keep_for_version(full_lake, third, 2)  # as after a kill
    rows = full_lake.table("training_purchase")
    assert set(rows.tags().values()) == {first.snapshot, third.snapshot}
    assert set(facts.tags().values()) == {first.inputs["facts"], third.inputs["facts"]}
    newest = again(2.0)
    assert newest.snapshot in rows.tags().values()
    assert rows.tags()["version.purchase.1"] == first.snapshot


def test_a_text_target_is_refused(project: Project, full_lake: Lake, model: Model, plan: FeaturePlan) -> None:
    outcomes = full_lake.table("outcomes").scan().collect()
    rows = outcomes.with_columns(bought=pl.lit("yes")).to_arrow()
    full_lake.ensure("words", rows.schema).overwrite(rows)
    model = attrs.evolve(model, labels=attrs.evolve(model.labels, name="words"))
    with pytest.raises(Refused, match="must be 0 or 1; a row has 'yes'"):
        training_set.make(project, full_lake, model, plan)


def test_rows_that_serving_refuses_are_left_out_and_infinite_features_are_named(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, caplog: pytest.LogCaptureFixture
) -> None:
    facts = full_lake.table("facts")
    mood = pl.when(pl.col("user_id") == 1).then(float("inf")).when(pl.col("user_id") == 2).then(None)
    facts.overwrite(facts.scan().with_columns(mood=mood.otherwise("mood")).collect().to_arrow())
    training_rows = training_set.make(project, full_lake, model, plan)
    labels = full_lake.table("outcomes").scan().drop_nulls("bought").collect()
    counts = [len(labels.filter(pl.col("user_id") == user)) for user in (1, 2)]

    rows = training_set.read(full_lake, training_rows, plan, "bought")
    assert (len(rows.frame), rows.incomplete, rows.infinite) == (2970, 0, {"facts__mood": counts[0]})
    assert f"facts__mood in {counts[0]:,} rows" in caplog.text
    refusing = msgspec.structs.replace(plan, missing="refuse")
    rows = training_set.read(full_lake, training_rows, refusing, "bought")
    assert (len(rows.frame), rows.incomplete) == (2970 - sum(counts), sum(counts))
    assert rows.frame["facts__mood"].is_finite().all()

    facts.overwrite(facts.scan().with_columns(mood=pl.lit(None, pl.Float64)).collect().to_arrow())
    training_rows = training_set.make(project, full_lake, model, plan)
    with pytest.raises(Refused, match="of 2,970 labelled rows none has every feature"):
        training_set.read(full_lake, training_rows, refusing, "bought")


def test_a_default_replaces_missing_values_in_every_part(full_lake: Lake, plan: FeaturePlan) -> None:
    part = pl.DataFrame({"facts__mood": [None, 2.0], "facts__kind": [None, "old"], "bought": [0, 1]})
    parts = Parts((Fold(part, part, part),), "by hand")
    defaults = msgspec.structs.replace(plan, missing={"facts__mood": -7, "facts__kind": "none"})
    matrices = to_matrices(parts, "bought", defaults)
    assert matrices.encoding.categories == {"facts__kind": ("none", "old")}
    for examples in (matrices.final.train, matrices.final.validation, matrices.test):
        assert examples.matrix.tolist() == [[-7.0, 0.0], [2.0, 1.0]]
