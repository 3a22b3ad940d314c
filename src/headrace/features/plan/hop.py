"""The hop of a window: the step by which its start moves."""

from __future__ import annotations

from datetime import timedelta

from headrace.kernel.errors import ProjectError

__all__ = ["hop_of"]

_FIVE_MINUTES = timedelta(minutes=5)


def hop_of(window: timedelta, *, slide: timedelta | None = None, tiling: timedelta | None = None) -> timedelta:
    """The hop of a window, which begins at floor(t - window, hop).

    Args:
        window: the window's length.
        slide: Feast's slide_interval; ignored if it equals the window, because Feast sets it so by default.
        tiling: the view's tiling_hop_size; it overrides the others.

    Returns:
        `tiling`, else `slide`, else 1 d for windows of at least 12 d, 1 h for at least 12 h, else 5 min.

    Raises:
        ProjectError: the window or the hop is not positive, or the hop is longer than the window.
    """
    if tiling is not None:
        hop = tiling
    elif slide is not None and slide != window:
        hop = slide
    elif window >= timedelta(days=12):
        hop = timedelta(days=1)
    elif window >= timedelta(hours=12):
        hop = timedelta(hours=1)
    else:
        # A window shorter than five minutes slides by its own length at most.
        hop = min(_FIVE_MINUTES, window)
    if window <= timedelta(0) or not timedelta(0) < hop <= window:
        raise ProjectError(f"a window of {window} cannot have a hop of {hop}: 0 < hop ≤ window")
    return hop
