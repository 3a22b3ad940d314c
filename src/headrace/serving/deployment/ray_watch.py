"""Reports what happens to the endpoint while Ray Serve supervises its replicas."""

from __future__ import annotations

from collections import Counter

from headrace.kernel.child import report_event

__all__ = ["ENDPOINT", "EndpointWatch"]

ENDPOINT = "Replica"
"""The name of the endpoint's deployment; the others are named after their MLflow models."""

_REPLICA = "SERVE_REPLICA::"  # the names of Serve's replicas are SERVE_REPLICA::<application>#<deployment>#<id>


class EndpointWatch:
    """Reports which replicas ended and started since the last check, and when the endpoint stops answering."""

    def __init__(self) -> None:
        self._replicas = _find_replicas()
        self._has_answered = True

    def check(self, *, does_answer: bool) -> None:
        """Reports the changes since the last check.

        Args:
            does_answer: whether the endpoint answers now.
        """
        replicas = _find_replicas()
        ended, started = self._replicas - replicas, replicas - self._replicas
        for names, change in ((ended, "ended"), (started, "started")):
            for deployment, count in Counter(map(_deployment_of, names)).items():
                report_event(f"{count} replica{'s'[: count > 1]} of {deployment} {change}")
        if does_answer != self._has_answered:
            report_event(f"the predict endpoint {'answers again' if does_answer else 'does not answer'}")
        self._replicas, self._has_answered = replicas, does_answer


def _find_replicas() -> set[str]:
    from ray.util import list_named_actors

    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
    return {name for name in names if name.startswith(_REPLICA)}


def _deployment_of(replica: str) -> str:
    name = replica.removeprefix(_REPLICA).split("#")[1]
    return "the endpoint" if name == ENDPOINT else f"model {name}"
