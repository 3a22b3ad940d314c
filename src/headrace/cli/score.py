"""headrace score"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli.call import Call, command
from headrace.cli.output import prepare_output
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError
from headrace.kernel.files import replace_file

if TYPE_CHECKING:
    from headrace.flows.models.score import Scores
    from headrace.flows.models.score_file import Format

__all__ = ["score"]

_REASONS = 3  # that are named, of rows without an answer


@command(
    "score", example="headrace score purchase users.csv > scores.csv\nheadrace score purchase@4 users.parquet"
)
@click.argument("version", metavar="MODEL[@VERSION|@ALIAS]")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--time", metavar="COLUMN", help="The column with each row's moment; default: event_timestamp.")
@click.option("--explain", is_flag=True, help="Add the features as the model saw them.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to a .csv, .ndjson or .parquet file, not to standard output.",
)
def score(call: Call, version: str, file: Path, time: str | None, explain: bool, output: Path | None) -> None:
    """Predict each row of a CSV, NDJSON or Parquet FILE by MODEL, by default by its champion.

    The file has the columns that a request has: entity keys and request fields. Features are joined from the
    tables as they were known at each row's moment, or now if no column has moments. Each row is written with
    its value.
    """
    from headrace.flows.models.score import score as predict
    from headrace.flows.models.score_file import FORMATS, read_rows, write_scores

    model, _, reference = version.partition("@")
    if not model or version.endswith("@"):
        raise CallError(
            f"{version!r} is not a model or a version of one", remedy="Write purchase or purchase@4."
        )
    workspace, target = call.workspace(), None if output is None else prepare_output(output)
    if target is not None and target.suffix.lower() not in FORMATS:
        raise CallError(f"{output} is not a .csv, .ndjson or .parquet file", remedy="Name another file.")
    given = read_rows(file)
    scores = predict(
        workspace, model, given.rows, version=reference or "champion", time=time, is_text=given.format == "csv"
    )
    if target is None:
        format_: Format = "ndjson" if call.json or given.format == "ndjson" else "csv"
        write_scores(sys.stdout.buffer, format_, given, scores, explain=explain)
        sys.stdout.flush()
    else:
        with replace_file(target) as draft:
            write_scores(draft, FORMATS[target.suffix.lower()], given, scores, explain=explain)
    _report(scores, output)


def _report(scores: Scores, output: Path | None) -> None:
    refused = [(number, row) for number, row in enumerate(scores.rows, 1) if row.error is not None]
    where = "" if output is None else f" Wrote {output}."
    rows = plural(len(scores.rows), "row")
    click.echo(f"{scores.model}@{scores.version}: {rows}.{where}", err=True)
    for number, row in refused[:_REASONS]:
        missing = f": {', '.join(row.missing)}" if row.missing else ""
        click.echo(f"  no answer for row {number:,}: {row.error}{missing}", err=True)
    if len(refused) > _REASONS:
        click.echo(f"  no answer for {plural(len(refused), 'row')} in all", err=True)
