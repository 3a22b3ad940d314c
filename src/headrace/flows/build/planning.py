"""What a build would run, and why, without writing anything: for --dry-run and status."""

from __future__ import annotations

from datetime import timedelta

from headrace.config.settings import Settings
from headrace.flows.build import refresh
from headrace.flows.build.graph import Stage, stages_for, stages_of
from headrace.flows.build.pipeline import recorded
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.reasons import Planned, plan
from headrace.flows.build.sources import current
from headrace.flows.build.standing import displaced
from headrace.flows.build.work import Workshop
from headrace.kernel.errors import ProjectError

__all__ = ["extra_files", "planned", "stages"]


def stages(shop: Workshop) -> list[Stage]:
    """Every stage of the project as it now is."""
    read_by_tables = [name for name, held in shop.code["outside"]["files"].items() if held]
    return stages_of(shop.code, shop.settings.project, (*extra_files(shop.settings), *read_by_tables))


def extra_files(settings: Settings) -> tuple[str, ...]:
    """What the code stage depends on beside the package and what tables read: headrace.toml, the locks."""
    from headrace.config.settings import FILE
    from headrace.flows.build.code import LOCKS

    return tuple(name for name in (FILE, *LOCKS) if (settings.root / name).is_file())


def planned(settings: Settings, targets: tuple[str, ...] = ()) -> list[Planned]:
    """Every stage of the targets but `code`, in order, with the reasons why it is stale.

    Raises:
        ProjectError, CallError: the project is wrong; there is no such target.
        Unavailable: the catalog is away, or a topic has no events yet.
    """
    shop = Workshop(settings)

    def taken(model: str, stale: bool) -> str | None:
        try:
            inputs = shop.inputs_of(model)
        except ProjectError:  # a table was never built
            return "it was never trained"
        # A table that will be made again will have a snapshot that nobody knows yet.
        return shop.taken_because(model, {**inputs, "?": 0} if stale else inputs)

    return plan(
        settings.root,
        stages_for(stages(shop), targets),
        recorded(settings.root),
        shop.code,
        current(settings, shop.code),
        displaced(settings, stages(shop)),
        taken,
    )


def next_due(shop: Workshop) -> dict[str, str]:
    """Model → when inputs that are held back will be taken (ISO), for those that hold any back."""
    found = {}
    for name, told in shop.code["models"].items():
        held = shop.pointers.read(Pointers.path("inputs", name))
        moment = refresh.due_at(held, shop.inputs_of(name), timedelta(seconds=told["refresh"]))
        if moment is not None:
            found[name] = moment.isoformat()
    return found
