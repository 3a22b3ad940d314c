"""headrace check parity|skew|leakage|contracts|tables"""

from __future__ import annotations

import click
import msgspec

from headrace.cli import show
from headrace.cli.call import Call, command, group
from headrace.features.checks.future import FutureCheck
from headrace.flows.events.contracts import ContractCheck, check_contracts
from headrace.flows.project.check_tables import TableCheck, check_tables
from headrace.flows.trace.leakage import leakage as check_leakage
from headrace.flows.trace.parity import parity as check_parity
from headrace.flows.trace.skew import skew as check_skew
from headrace.kernel.counts import plural

__all__ = ["check"]


@group("check", example="headrace check parity")
def check() -> None:
    """Check features that are served or trained on, contracts, and the audits of tables."""


@command("parity", example="headrace check parity purchase")
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="How many predictions.")
def parity(call: Call, model: str | None, limit: int) -> int:
    """Recompute the features of logged predictions at their times and positions, and compare.

    Exit code 1 if any value differs. If a rowwise function was edited since, its values are not compared but
    counted as "code changed".
    """
    reports = check_parity(call.workspace(), model, limit=limit)
    if call.json:
        show.json(reports)
    else:
        rows = [
            (
                *(name, report.checked, report.equal, report.values_differing),
                *(report.code_changed, sum(report.not_checkable.values())),
            )
            for name, report in reports.items()
        ]
        headings = ["version", "checked", "equal", "values that differ", "code changed", "not checkable"]
        show.table(None, headings, rows)
        for name, report in reports.items():
            for difference in report.differing[:10]:
                click.echo(
                    f"  {name} {difference.id} {difference.column}: served {difference.served},"
                    f" recomputed {difference.recomputed}"
                )
            for reason, count in report.not_checkable.items():
                click.echo(f"  {name}: {count:,} not checkable: {reason}")
            if report.code_changed:
                click.echo(
                    f"  {name}: a rowwise function was edited since this version was trained; its values for"
                    f" {plural(report.code_changed, 'prediction', 'is', 'are')} not compared"
                )
    return 1 if any(report.values_differing for report in reports.values()) else 0


@command("skew", example="headrace check skew purchase")
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="How many predictions.")
def skew(call: Call, model: str | None, limit: int) -> int:
    """Compare served features with those that a training set made now has, and say why they differ.

    Exit code 1 if any value differs. For a table that is built later than its rows say, the output names the
    delay with which most predictions would see the row that was served.
    """
    reports = check_skew(call.workspace(), model, limit=limit)
    if call.json:
        show.json(reports)
    else:
        rows = [
            (
                *(name, view, skew.predictions, f"{skew.equal / max(skew.predictions, 1):.1%}"),
                ", ".join(f"{count:,} {reason}" for reason, count in skew.reasons.items()),
            )
            for name, report in reports.items()
            for view, skew in report.views.items()
        ]
        show.table(None, ["version", "view", "predictions", "equal", "reasons"], rows)
        for name, report in reports.items():
            for example in report.examples:
                click.echo(
                    f"  {name} {example.id} {example.column}: served {example.served}, in training"
                    f" {example.trained}: {example.reason}"
                )
            for view, skew in report.views.items():
                if skew.better_delay is not None:
                    click.echo(
                        f'  {view}: with delay="{skew.better_delay:g}s" (now {skew.delay:g} s),'
                        f" {skew.equal_rows:,} of {skew.predictions:,} predictions see the row that was served"
                    )
            if report.failed:
                click.echo(f"  {name}: {report.failed:,} not compared: an on-demand function fails on them")
    return 1 if any(report.equal < report.predictions for report in reports.values()) else 0


@command("leakage", example="headrace check leakage purchase\nheadrace check leakage purchase --bound 0.9")
@click.argument("model")
@click.option(
    "--bound",
    type=float,
    default=0.95,
    show_default=True,
    help="The score from which a feature leaks.",
)
@click.option(
    "--moments",
    type=click.IntRange(0, 20),
    default=2,
    show_default=True,
    help="After how many instants rows are changed; 0: do not look for features that read the future.",
)
def leakage(call: Call, model: str, bound: float, moments: int) -> int:
    """Name features that know the target too well, and features that read the future of a label.

    A score is the area under the ROC curve (binary), R² (regression), or the share of errors that the feature
    avoids (multiclass), on rows that the scoring did not learn from. Then every table is made once more from
    rows that are shuffled and left out after an instant: the features of the labels before it must not move.
    Exit code 1 if any feature leaks.
    """
    report = check_leakage(call.workspace(), model, bound=bound, moments=moments)
    if call.json:
        show.json(msgspec.to_builtins(report, enc_hook=str))
        return 1 if report.finds_leaks else 0
    rows = [
        (score.feature, f"{score.score:.3f}", f"{score.share:.1%}", "knows the target" if score.leaks else "")
        for score in report.features
    ]
    show.table(None, ["feature", "score", "rows with a value", ""], rows)
    click.echo(f"  score: {report.measure}, on {plural(report.rows, 'labelled row')}; bound {report.bound:g}")
    if report.future is not None:
        _show_future(report.future)
    return 1 if report.finds_leaks else 0


def _show_future(future: FutureCheck) -> None:
    if not future.moments:
        click.echo("  future: not checked, because all labels have one moment")
        return
    instants = ", ".join(f"{moment:%F %T}" for moment in future.moments)
    click.echo(
        f"  future: rows after {instants} UTC were changed,"
        f" {plural(future.labels, 'label')} before them compared"
    )
    for moved in future.moved:
        label = show.readable(", ".join(f"{name}={value}" for name, value in moved.label.items()))
        click.echo(
            f"  {moved.feature} reads the future: it moved for"
            f" {plural(moved.labels, 'label')} ({moved.share:.1%});"
            f" {label}: {moved.value} became {moved.changed}"
            + (f", because {moved.error}" if moved.error else "")
        )
    if not future.moved:
        click.echo("  no feature moved")
    if future.unchanged:
        click.echo(f"  not changed, because their time is not known: {', '.join(future.unchanged)}")
    if future.left_out:
        click.echo("  a function fails on shuffled rows, so later rows were only left out")


@command("contracts", example="headrace check contracts\nheadrace check contracts user_behaviour --json")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
def contracts(call: Call, topics: tuple[str, ...]) -> int:
    """Compare the contracts with those stored with their tables, and list what is affected.

    Ingest accepts compatible changes. A change that tightens (events that were good are refused) or breaks (a
    reader loses a field) needs a higher version in the declaration. A change that the table cannot store needs
    a new name. Exits with 1 if ingest would not start, or if this project still names a removed field.
    """
    checks = check_contracts(call.workspace(), topics)
    if call.json:
        show.json([{**msgspec.to_builtins(check), "breaks": check.breaks} for check in checks])
        return 1 if any(check.breaks for check in checks) else 0
    rows = [(check.topic, _version(check), check.fingerprint, _OUTCOMES[check.outcome]) for check in checks]
    show.table(None, ["topic", "version", "fingerprint", "outcome"], rows)
    for check in checks:
        if check.effects:
            click.echo(f"\n{check.topic}")
        for effect in check.effects:
            change = effect.change
            click.echo(f"  {change.level:16}  {change.field or 'the contract'}: {change.text}")
            if effect.affects_producers:
                click.echo(f"{'':20}affects: producers of {check.topic}")
            for dependent in effect.dependents:
                through = f" (through {dependent.through})" if dependent.through else ""
                click.echo(f"{'':20}affects: {dependent.kind} {dependent.name}{through}")
        if check.remedy:
            click.echo(f"  {check.remedy}")
    return 1 if any(check.breaks for check in checks) else 0


_OUTCOMES = {
    "new": "no contract is stored with the table yet",
    "unchanged": "the same as the stored contract",
    "compatible": "compatible: ingest evolves the table",
    "accepted": "the higher version accepts the changes",
    "refused": "ingest will not start",
}


def _version(check: ContractCheck) -> str:
    same = check.stored_version in (None, check.version)
    return str(check.version) if same else f"{check.stored_version} → {check.version}"


@command("tables", example="headrace check tables\nheadrace check tables clean_events --json")
@click.argument("names", nargs=-1, metavar="[TABLE]...")
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="How many failing rows.")
def tables(call: Call, names: tuple[str, ...], rows: int) -> int:
    """Show each table's audits, what came of them in the last build, and rows that failed.

    How fresh a table is, is looked up now. Exits with 1 if an audit of severity "error" fails. All failing rows
    that are kept are in the table headrace_failing_TABLE.
    """
    checks = check_tables(call.workspace(), names, shown=rows)
    if call.json:
        show.json([{**msgspec.to_builtins(check, enc_hook=str), "fails": check.fails} for check in checks])
        return 1 if any(check.fails for check in checks) else 0
    lines = [
        (check.table, result.rule, result.severity, "passed" if result.passed else "FAILED", result.what)
        for check in checks
        for result in check.results
    ]
    show.table(None, ["table", "audit", "severity", "result", "found"], lines)
    for check in checks:
        _show_rows(check)
    return 1 if any(check.fails for check in checks) else 0


def _show_rows(check: TableCheck) -> None:
    if check.at is None:
        click.echo(f"{check.table}: not audited yet: headrace build {check.table}")
        return
    outcome = "readers see the rows of the build before" if check.state == "refused" else "published"
    kept = f", {plural(check.kept, 'failing row', 'is', 'are')} kept" if check.kept else ""
    click.echo(f"{check.table}: audited {check.at:%F %T} UTC, {outcome}{kept}")
    if check.is_outdated:
        click.echo("  The project's code was edited since; headrace build audits it as it is declared now.")
    if check.examples:
        columns = list(dict.fromkeys(name for row in check.examples for name in row))
        show.table(None, columns, [[row.get(name) for name in columns] for row in check.examples])


check.add_command(parity)
check.add_command(tables)
check.add_command(skew)
check.add_command(leakage)
check.add_command(contracts)
