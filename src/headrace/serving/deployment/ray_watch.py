"""Reports what happens to the endpoint while Ray Serve supervises its replicas."""

from __future__ import annotations

from collections import Counter

from headrace.kernel.child import report_event

__all__ = ["ENDPOINT", "EndpointWatch"]

ENDPOINT = "Replica"
"""The name of the endpoint's deployment; the others are named after their MLflow models."""

_REPLICA = "SERVE_REPLICA::"  # the names of Serve's replicas are SERVE_REPLICA::<application>#<deployment>#<id>


class EndpointWatch:
    """Reports which replicas ended and started since the last check, and when the endpoint stops answering.

    Args:
        application: the name of the application on Serve.
    """

    def __init__(self, application: str) -> None:
        self._prefix = f"{_REPLICA}{application}#"
        self._replicas = self._find_replicas()
        self._has_answered = True

    def check(self, *, does_answer: bool) -> None:
        """Reports the changes since the last check.

        Args:
            does_answer: whether the endpoint answers now.
        """
        replicas = self._find_replicas()
        ended, started = self._replicas - replicas, replicas - self._replicas
        for names, change in ((ended, "ended"), (started, "started")):
            for deployment, count in Counter(map(_describe, names)).items():
                report_event(f"{count} replica{'s'[: count > 1]} of {deployment} {change}")
        if does_answer != self._has_answered:
            report_event(f"the predict endpoint {'answers again' if does_answer else 'does not answer'}")
        self._replicas, self._has_answered = replicas, does_answer

    def _find_replicas(self) -> set[str]:
        """The replicas of the application: `deployment#id`."""
        from ray.util import list_named_actors

        names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]
        return {name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)}


def _describe(replica: str) -> str:
    name = replica.split("#")[0]
    return "the endpoint" if name == ENDPOINT else f"model {name}"
