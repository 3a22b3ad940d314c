"""Scores of a frame and of files: equal to the endpoint's answers, and wrong input told by row and field."""

from __future__ import annotations

import csv
import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pytest
from tests.e2e.minimal import build_minimal

from headrace.api import OpenProject
from headrace.cli.main import main
from headrace.flows.models.predictions import find_prediction
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.html import LIMIT
from headrace.workspace import Workspace


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> OpenProject:
    return build_minimal(tmp_path_factory.mktemp("score") / "payments")


@pytest.fixture(scope="module")
def answers(project: OpenProject) -> pl.DataFrame:
    """Answers of the endpoint, with the moment of each."""
    draw = random.Random(3)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREDICT", "COLLECTOR", "CONSOLE"):
            patch.setenv(f"HEADRACE_{name}_PORT", "0")
        import headrace

        opened = headrace.project(project.settings.root, profile="local")
        with opened.up() as up, httpx.Client(base_url=up.predict) as client:
            for card in [*draw.sample(range(400), 60), 1_000_000]:
                body = {"card": card, "amount": round(draw.lognormvariate(3, 1), 2)}
                assert client.post("/predict/refusal", json=body).status_code == 200
            several = [{"card": card, "amount": 7.5} for card in range(5)]
            assert client.post("/predict/refusal", json={"instances": several}).status_code == 200
            assert opened.predict("refusal", card=17, amount=120.0)._repr_html_().count("<td>") > 10
        opened.ingest()
        rows = opened.table("headrace_predictions").to_polars().filter("_valid")
    parse = pl.col("entity").str.json_path_match("$.card").cast(pl.Int64)
    amount = pl.col("request").str.json_path_match("$.amount").cast(pl.Float64)
    value = pl.col("value").str.json_decode(pl.Float64)
    served = pl.col("features")
    frame = rows.select("id", parse.alias("card"), amount.alias("amount"), "at", value.alias("answer"), served)
    assert len(frame) == 67
    return frame.sort("at", "card")


def test_scores_equal_the_endpoints_answers_to_the_last_bit(
    project: OpenProject, answers: pl.DataFrame
) -> None:
    scores = project.score("refusal", answers.drop("features"), time="at", explain=True)
    assert scores["value"].to_list() == scores["answer"].to_list()
    assert scores["value"].n_unique() > 30
    for row, served in zip(scores.to_dicts(), answers["features"], strict=True):
        features = {name: value for name, value in json.loads(served).items() if value is not None}
        assert features == {name: row[name] for name in features}
    assert scores.columns[:4] == ["id", "card", "amount", "at"]
    unknown = scores.row(by_predicate=pl.col("card") == 1_000_000, named=True)
    assert unknown["missing"] == ["card_activity__mean_amount_1d", "request__amount_vs_usual"]
    assert scores["error"].null_count() == len(scores)
    assert set(scores["version"]) == {1}


@pytest.mark.parametrize("kind", ["pandas", "arrow", "lazy"])
def test_frames_of_other_libraries_give_the_same(
    project: OpenProject, answers: pl.DataFrame, kind: str
) -> None:
    frame = answers.select("card", "amount", "at")
    other: Any = {"pandas": frame.to_pandas, "arrow": frame.to_arrow, "lazy": frame.lazy}[kind]()
    assert project.score("refusal", other, time="at")["value"].to_list() == answers["answer"].to_list()


def test_without_moments_rows_are_scored_as_of_now(project: OpenProject) -> None:
    now = datetime.now(UTC)
    frame = pl.DataFrame({"card": [17, 18], "amount": [120.0, 3.0]})
    latest = project.score("refusal", frame)
    dated = project.score("refusal", frame.with_columns(event_timestamp=pl.lit(now)))
    assert latest["value"].to_list() == dated["value"].to_list()  # the windows have steps of an hour


def test_a_moment_before_all_events_has_no_features(project: OpenProject) -> None:
    frame = pl.DataFrame(
        {"card": [17], "amount": [120.0], "event_timestamp": [datetime(2020, 1, 1, tzinfo=UTC)]}
    )
    (row,) = project.score("refusal", frame, version=1).to_dicts()
    assert row["missing"] == ["card_activity__mean_amount_1d", "request__amount_vs_usual"]


@pytest.mark.parametrize(
    ("column", "values", "what", "where"),
    [
        ("card", [1, None, 3], "missing required field `card`", "row 2, field card"),
        ("card", ["1", "2", "3"], "Expected `int`, got `str`: '1'", "row 1, field card"),
        ("card", [1.0, 2.0, 2.5], "Expected `int`, got `float`: 1.0", "row 1, field card"),
        ("amount", [1.0, float("nan"), 1.0], "Expected `float`, got `null`: nan", "row 2, field amount"),
        ("amount", [object()] * 3, "object", "row 1"),
        ("event_timestamp", [datetime(2026, 3, 1)] * 3, "timezone", "row 1, field event_timestamp"),
    ],
)
def test_a_wrong_row_is_told_with_its_field(
    project: OpenProject, column: str, values: list[Any], what: str, where: str
) -> None:
    frame = pl.DataFrame({"card": [1, 2, 3], "amount": [1.0, 2.0, 3.0]}).with_columns(pl.Series(column, values))
    with pytest.raises(CallError) as raised:
        project.score("refusal", frame)
    assert what in raised.value.what
    assert raised.value.where == where


def test_a_column_with_the_name_of_an_answer_is_refused(project: OpenProject) -> None:
    with pytest.raises(CallError, match="'value'"):
        project.score("refusal", pl.DataFrame({"card": [1], "amount": [1.0], "value": [0]}))
    with pytest.raises(CallError, match="not a frame"):
        project.score("refusal", [1])  # type: ignore[arg-type]
    with pytest.raises(CallError, match="has no version 9"):
        project.score("refusal", pl.DataFrame({"card": [1], "amount": [1.0]}), version=9)


def test_an_empty_frame_gives_an_empty_frame(project: OpenProject) -> None:
    empty = pl.DataFrame(schema={"card": pl.Int64, "amount": pl.Float64})
    scores = project.score("refusal", empty)
    assert scores.columns == ["card", "amount", "value", "missing", "error", "version"]
    assert scores.is_empty()


def test_events_that_are_not_ingested_stop_scores_of_their_time(project: OpenProject, tmp_path: Path) -> None:
    payment = {"payment": "late", "paid_at": datetime.now(UTC).isoformat(), "card": 17, "amount": 5.0}
    file = tmp_path / "late.ndjson"
    file.write_text(json.dumps({**payment, "is_refused": True}))
    project.send("payments", file, live=True)
    moment = datetime.now(UTC) + timedelta(seconds=1)
    frame = pl.DataFrame({"card": [17], "amount": [120.0], "event_timestamp": [moment]})
    with pytest.raises(Unavailable, match="payments"):
        project.score("refusal", frame)
    assert len(project.score("refusal", frame.drop("event_timestamp"))) == 1
    project.ingest()
    project.build("card_payments", "payment_labels")


@pytest.mark.parametrize("ending", ["csv", "ndjson", "parquet"])
def test_the_command_line_scores_files_of_each_kind(
    project: OpenProject, answers: pl.DataFrame, tmp_path: Path, ending: str
) -> None:
    file, output = tmp_path / f"rows.{ending}", tmp_path / f"scores.{ending}"
    frame = answers.select("id", "card", "amount", pl.col("at").dt.to_string("iso:strict"))
    if ending == "parquet":
        frame = answers.select("id", "card", "amount", "at")
    getattr(frame, f"write_{ending}")(file)
    command = ["score", "refusal@champion", str(file), "--time", "at", "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--project", str(project.settings.root)])
    assert ended.value.code == 0
    if ending == "csv":
        with output.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        values = [float(row["value"]) for row in rows]
        assert rows[0].keys() == {"id", "card", "amount", "at", "value", "missing", "error", "version"}
    elif ending == "ndjson":
        values = [json.loads(line)["value"] for line in output.read_text().splitlines()]
    else:
        scores = pl.read_parquet(output)
        assert (scores["error"].dtype, scores["missing"].dtype) == (pl.String, pl.List(pl.String))
        values = scores["value"].to_list()
    assert values == answers["answer"].to_list()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_scores_of_no_rows_have_the_columns_of_scores(
    project: OpenProject, tmp_path: Path, ending: str
) -> None:
    file, output = tmp_path / f"rows.{ending}", tmp_path / f"scores.{ending}"
    getattr(pl.DataFrame(schema={"card": pl.Int64, "amount": pl.Float64}), f"write_{ending}")(file)
    with pytest.raises(SystemExit) as ended:
        main(["score", "refusal", str(file), "--output", str(output), "--project", str(project.settings.root)])
    assert ended.value.code == 0
    scores = getattr(pl, f"read_{ending}")(output)
    assert scores.columns == ["card", "amount", "value", "missing", "error", "version"]
    assert scores.is_empty()


def test_the_command_line_tells_the_row_and_the_field(
    project: OpenProject, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("card,amount,comment\n1,2.5,\n2,abc,x\n")
    root = str(project.settings.root)
    with pytest.raises(SystemExit) as ended:
        main(["score", "refusal", str(file), "--project", root])
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert "'abc'" in error
    assert "row 2, field amount" in error
    file.write_text("card,amount,comment\n1,2.5,\n")
    with pytest.raises(SystemExit):
        main(["score", "refusal@1", str(file), "--project", root, "--explain"])
    output = capfd.readouterr().out
    (row,) = csv.DictReader(output.splitlines())
    assert row["comment"] == ""
    assert float(row["value"]) > 0
    assert "card_activity__refused_1d" in row


def test_a_project_lists_what_it_has(project: OpenProject) -> None:
    assert {"payments", "card_payments", "payment_labels", "training_refusal"} <= set(project.tables)
    assert "card_payments" in dir(project.tables)
    assert list(project.topics) == project.topics._ipython_key_completions_() == ["payments"]
    assert project.topics.payments.key == "card"
    assert list(project.models) == ["refusal"]
    model = project.models.refusal
    assert list(model.versions) == ["1", "champion"]
    assert model.versions["champion"].version == model.versions[1].version == 1
    with pytest.raises(CallError, match="no arm is named"):
        project.release("refusal")
    assert list(project.feature_services) == ["refusal"]
    assert project.feature_services["refusal"].name == "refusal"
    with pytest.raises(KeyError):
        project.tables["nothing"]
    with pytest.raises(AttributeError, match="There are: payments"):
        project.topics.nothing  # noqa: B018
    labels, payments = project.tables("payment_labels", "payments")
    assert (labels.name, len(labels)) == ("payment_labels", labels.to_arrow().num_rows)
    assert isinstance(model.training_set.to_arrow(), pa.Table)
    frame = payments.to_pandas()
    assert frame["card"].sum() == payments.to_polars()["card"].sum()


def test_everything_shows_itself_in_a_notebook(project: OpenProject, answers: pl.DataFrame) -> None:
    shown = [
        project.tables,
        project.topics,
        project.models,
        project.models.refusal,
        project.models.refusal.versions,
        project.models.refusal.versions["1"],
        project.feature_services,
        project.feature_services["refusal"],
        project.status(),
        project.table("payments"),
        project.training_set("refusal"),
        project.why(answers["id"][0]),
    ]
    for item in shown:
        text = item._repr_html_()
        assert "<table>" in text
        assert len(text.encode()) <= LIMIT
        assert len(repr(item)) < 400  # what a terminal shows
    assert repr(project.tables).startswith("<tables: card_payments, ")
    services = project.feature_services._repr_html_()
    for text in ("feature services: 1", "<td>refused_1d, mean_amount_1d</td>", "<td>amount_vs_usual</td>"):
        assert text in services
    assert repr(shown[4]) == "<versions of refusal: 1, champion>"
    assert repr(shown[5]).startswith("<version 1 of refusal, champion: ")
    assert "; refusal@1 answered 0." in repr(shown[-1])
    assert "20,00" in project.tables._repr_html_()
    assert "every recomputed feature is equal" in shown[-1]._repr_html_()
    assert re.search(
        r"<td>card=\d+  paid_at=[\d-]+ [\d:.+]+  (refused=\d+  )?amount=[\d.]+</td>", shown[-1]._repr_html_()
    )
    with Workspace(project.settings) as workspace:
        assert find_prediction(workspace, answers["id"][0])[0].model == "refusal"
