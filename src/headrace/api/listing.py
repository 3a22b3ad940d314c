"""Listings: what a project has, by name, so that a notebook can list, complete and open it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from headrace.kernel.errors import CallError
from headrace.kernel.html import html_table

__all__ = ["Listing"]

T = TypeVar("T")


class Listing(Mapping[str, T], Generic[T]):
    """Things of one kind by name: a mapping that is read anew at each use.

    `listing["NAME"]` opens a thing, and so does `listing.NAME` if the name is an identifier. Both can be
    completed with Tab.

    Args:
        kind: what they are, for texts.
        list_names: returns the names.
        open_item: opens the thing with a name.
        remedy: what to do while there is none.
        describe: returns the columns of a table of all, and its rows, each with the name first; by default
            only the names are shown.
    """

    def __init__(
        self,
        kind: str,
        list_names: Callable[[], Sequence[str]],
        open_item: Callable[[str], T],
        *,
        remedy: str = "",
        describe: Callable[[], tuple[Sequence[str], Sequence[Sequence[object]]]] | None = None,
    ) -> None:
        self._kind, self._list_names, self._open_item = kind, list_names, open_item
        self._remedy, self._describe = remedy, describe

    def __getitem__(self, name: str | int) -> T:
        name = str(name)  # versions["2"] and versions[2] are the same
        names = self._list_names()
        if name not in names:
            listed = f"There are: {', '.join(names)}." if names else self._remedy or None
            raise _NoSuchItem(f"{self._kind} {name!r} does not exist", remedy=listed)
        return self._open_item(name)

    def __getattr__(self, name: str) -> T:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except _NoSuchItem as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._list_names())

    def __len__(self) -> int:
        return len(self._list_names())

    def __contains__(self, name: object) -> bool:
        return str(name) in self._list_names()

    def __dir__(self) -> list[str]:
        return [name for name in self._list_names() if name.isidentifier()]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._list_names())

    def __repr__(self) -> str:
        return f"<{self._kinds}: {', '.join(self) or 'none'}>"

    def _repr_html_(self) -> str:
        """A table of all, for a notebook."""
        columns, rows = self._describe() if self._describe else ((self._kind,), [(name,) for name in self])
        return html_table(f"{self._kinds}: {len({row[0] for row in rows})}", columns, rows)

    @property
    def _kinds(self) -> str:
        head, of, rest = self._kind.partition(" of ")
        return f"{head}s{of}{rest}"


class _NoSuchItem(CallError, KeyError):
    """A thing of this name does not exist: also a KeyError, as a mapping raises it."""

    __str__ = CallError.__str__
