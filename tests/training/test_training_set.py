import polars as pl
import pytest

from headrace.declare.model import Model
from headrace.declare.project import Project
from headrace.features.plan import Plan
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.run import RunEvent, recorder_added
from headrace.lake import Lake
from headrace.training import training_set


class Heard:
    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        self.events.append(event)


def test_it_is_a_pinned_table_and_its_inputs_are_pinned(
    project: Project, filled: Lake, model: Model, plan: Plan
) -> None:
    with recorder_added(Heard()) as heard:
        made = training_set.make(project, filled, model, plan)
    assert (made.table, made.rows, made.refused) == ("training_purchase", 2970, 30)
    heads = {name: filled.table(name).head().id for name in ("facts", "outcomes", "training_purchase")}
    assert made.inputs == {name: heads[name] for name in ("outcomes", "facts")}
    assert made.snapshot == heads["training_purchase"]
    for name, snapshot in heads.items():
        assert snapshot in filled.table(name).pins().values()

    rows = training_set.read(filled, made, plan, "bought").frame
    assert rows.columns == ["event_timestamp", "bought", "facts__mood", "facts__kind"]
    assert rows["bought"].null_count() == 0
    users = filled.table("training_purchase").scan(made.snapshot).collect()
    facts = filled.table("facts").scan().select("user_id", "mood", "kind").collect()
    joined = users.join(facts, on="user_id")
    assert joined.filter(pl.col("mood") != pl.col("facts__mood")).is_empty()
    assert len(joined) == 2970

    ended = heard.events[-1].run
    assert heard.events[-1].outcome == "COMPLETE"
    assert {one.name for one in ended.inputs} == {"outcomes", "facts"}
    assert [one.position.snapshot_id for one in ended.outputs] == [made.snapshot]


def test_the_same_inputs_make_the_same_training_set(
    project: Project, filled: Lake, model: Model, plan: Plan
) -> None:
    first = training_set.make(project, filled, model, plan)
    assert training_set.make(project, filled, model, plan) == first
    facts = filled.table("facts")
    facts.replace(facts.scan().with_columns(mood=pl.lit(0.0)).collect().to_arrow())
    second = training_set.make(project, filled, model, plan)
    assert second.snapshot != first.snapshot
    assert training_set.read(filled, second, plan, "bought").frame["facts__mood"].to_list() == [0.0] * 2970
    assert training_set.read(filled, first, plan, "bought").frame["facts__mood"].n_unique() > 100

    then = training_set.make(project, filled, model, plan, inputs=first.inputs)
    assert then.inputs == first.inputs
    assert training_set.read(filled, then, plan, "bought").frame.equals(
        training_set.read(filled, first, plan, "bought").frame
    )


def test_a_table_that_was_not_built(project: Project, opened: Lake, model: Model, plan: Plan) -> None:
    with pytest.raises(CallError, match="outcomes"):
        training_set.make(project, opened, model, plan)


def test_no_labels_and_no_class(project: Project, filled: Lake, model: Model, plan: Plan) -> None:
    opened = filled
    outcomes = opened.table("outcomes")
    rows = outcomes.scan().collect()
    outcomes.replace(rows.with_columns(bought=pl.lit(None, pl.Int64)).to_arrow())
    with pytest.raises(Refused, match="no row with a label"):
        training_set.make(project, opened, model, plan)
    outcomes.replace(rows.with_columns(bought=pl.lit(2, pl.Int64)).to_arrow())
    with pytest.raises(Refused, match="is 0 or 1; there is 2"):
        training_set.make(project, opened, model, plan)
    outcomes.replace(rows.clear().to_arrow())
    with pytest.raises(Refused, match="no row"):
        training_set.make(project, opened, model, plan)


def test_what_no_version_was_made_of_is_let_go(
    project: Project, filled: Lake, model: Model, plan: Plan
) -> None:
    facts = filled.table("facts")

    def again(mood: float) -> training_set.TrainingSet:
        facts.replace(facts.scan().with_columns(mood=pl.lit(mood)).collect().to_arrow())
        return training_set.make(project, filled, model, plan)

    first = training_set.make(project, filled, model, plan)
    training_set.keep_for(filled, first, 1)
    again(0.0)  # nothing is registered of this one
    third = again(1.0)
    training_set.keep_for(filled, third, 2)
    training_set.keep_for(filled, third, 2)  # as after a kill
    rows = filled.table("training_purchase")
    assert set(rows.pins().values()) == {first.snapshot, third.snapshot}
    assert set(facts.pins().values()) == {first.inputs["facts"], third.inputs["facts"]}
    newest = again(2.0)
    assert newest.snapshot in rows.pins().values()
    assert rows.pins()["version.purchase.1"] == first.snapshot
