"""Deployments on Ray Serve: what Serve reports about a model becomes a line that says why."""

from __future__ import annotations

import pytest

from headrace.serving.mlflow_models.ray_deployments import explain_failure

TRACEBACK = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:predict:model-tiny.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
  File "artifacts.py", line 50, in find_artifact
    raise Refused(
headrace.kernel.errors.Refused: /state/artifacts/0: a file of its artefact was changed
  Run headrace deploy.
"""
UNSCHEDULED = (
    "Deployment 'model-tiny' in application 'predict' has 1 replicas that have taken more than 30s to be"
    " scheduled. This may be due to waiting for the cluster to auto-scale or for a runtime environment to be"
    ' installed. Resources required for each replica: {"CPU": 64.0}, total resources available: {"CPU": 0.5}.'
    " Use `ray status` for more details."
)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (TRACEBACK, "/state/artifacts/0: a file of its artefact was changed. Run headrace deploy"),
        (
            UNSCHEDULED,
            'Ray has no room for it: a replica requires {"CPU": 64.0}, and {"CPU": 0.5} are free',
        ),
        ("A replica's health check failed.\nIt is started again.\n", "It is started again."),
        ("", ""),
    ],
)
def test_a_failure_is_explained_in_a_line(message: str, line: str) -> None:
    assert explain_failure(message) == line
