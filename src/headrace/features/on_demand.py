"""On-demand views: features that a function makes at the moment of asking, offline and online alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.features.plan import OnDemandView
from headrace.kernel.errors import HeadraceError

__all__ = ["OnDemand"]


class OnDemand:
    """One on-demand view, ready to be called.

    A function's input is known to it by its name, and a feature also as `view__name`. A missing
    input reaches the function as None (NaN in mode `pandas`); None or NaN from it is a
    missing feature.

    Attributes:
        view: what it is.
        names: its features.
        inputs: each name that the function is given a value under, and what that is.
    """

    def __init__(self, view: OnDemandView) -> None:
        """Defines the view's function. That runs its text: the plan must be trusted."""
        self.view = view
        self.names = tuple(one.name for one in view.features)
        self.inputs = tuple(
            (name, one)
            for one in view.inputs
            for name in ((one.name,) if one.view is None else (one.name, f"{one.view}__{one.name}"))
        )
        self._function: Callable[[Any], Any] = view.defined

    def row(self, inputs: Mapping[str, object]) -> list[object]:
        """The features of one row, in their order, from its inputs by name.

        Raises:
            HeadraceError: the function failed or returned something else than its features.
        """
        if self.view.mode == "row":
            made = self._call(inputs)
            return [_present(self._named(made, name)) for name in self.names]
        return [values[0] for values in self.columns({name: [value] for name, value in inputs.items()}, 1)]

    def columns(self, inputs: Mapping[str, list[object]], count: int) -> list[list[object]]:
        """The features of `count` rows, a list for each feature in their order.

        Raises:
            HeadraceError: the function failed or returned something else than its features.
        """
        if self.view.mode == "row":
            rows = [self.row(dict(zip(inputs, row, strict=True))) for row in zip(*inputs.values(), strict=True)]
            return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in self.names]
        if self.view.mode == "pandas":
            import pandas as pd

            made = self._call(pd.DataFrame(dict(inputs)))
        else:
            made = self._call(dict(inputs))
        columns = [[_present(value) for value in self._named(made, name)] for name in self.names]
        for name, column in zip(self.names, columns, strict=True):
            if len(column) != count:
                raise self._wrong(f"{name} has {len(column)} values for {count} rows")
        return columns

    def _call(self, inputs: Any) -> Any:
        try:
            return self._function(inputs)
        except Exception as error:
            raise self._wrong(f"{type(error).__name__}: {error}") from error

    def _named(self, made: Any, name: str) -> Any:
        try:
            return made[name]
        except (KeyError, TypeError) as error:
            raise self._wrong(f"it returned no {name!r}") from error

    def _wrong(self, what: str) -> HeadraceError:
        return HeadraceError(
            f"the on-demand view failed: {what}",
            where=self.view.name,
            remedy="Its function must return each of its features; an input that is missing comes as None.",
        )


def _present(value: Any) -> object:
    """A plain value, None for NaN; numpy's scalars become Python's."""
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value
