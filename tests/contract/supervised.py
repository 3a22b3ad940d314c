"""A deployment of the predict endpoint that a thread supervises, as `up` does."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import httpx
from tests.flows.processes import descendants
from tests.until import until

from headrace.config.settings import Settings
from headrace.kernel.ports import find_free_port
from headrace.serving import deployment as deployments
from headrace.serving.deployment import Deployment

__all__ = ["INSTANCE", "RAY_WARNINGS", "SupervisedDeployment"]

INSTANCE = {"user_id": 1, "product_id": 7, "price": 3.5}
RAY_WARNINGS = "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20"


class SupervisedDeployment:
    """A deployment that a thread supervises, as `up` does.

    Attributes:
        reports: what the deployment reported.
        roll: set it to begin a rolling restart.
        answers: how many predictions were answered with 200.
    """

    def __init__(self, settings: Settings) -> None:
        self.port = find_free_port()
        self.reports: list[str] = []
        self.answers = 0
        self.roll = threading.Event()
        self._settings = settings
        self._started, self._stop = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self.deployment: Deployment = deployments.start(self._settings, port=self.port)
        except BaseException as error:
            self._error = error
            self._started.set()
            return
        self._started.set()
        while not self._stop.wait(0.1):
            self.deployment.supervise(self.reports.append)
            if self.roll.is_set():
                self.roll.clear()
                self.deployment.roll(self.reports.append)
        self.deployment.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def begin_roll(self) -> int:
        """Begins a rolling restart. Returns the process id of the first new replica, which is starting."""
        before = set(descendants(os.getpid()))
        self.roll.set()
        until(lambda: set(descendants(os.getpid())) - before)
        return (set(descendants(os.getpid())) - before).pop()

    def count_replicas(self) -> tuple[int, int]:
        """How many replicas have ended and started on Ray Serve, as reported since it was ready."""
        report = re.compile(r"ray-serve: (\d+) replicas? of the endpoint (ended|started)")
        changes = [match.groups() for line in self.reports if (match := report.fullmatch(line))]
        ended, started = (sum(int(n) for n, what in changes if what == kind) for kind in ("ended", "started"))
        return ended, started

    def predict(self) -> dict[str, Any]:
        response = self.post("/predict/purchase", INSTANCE)
        response.raise_for_status()
        return dict(response.json())

    def post(self, path: str, body: object) -> httpx.Response:
        response = httpx.post(f"{self.deployment.url}{path}", json=body, timeout=30)
        self.answers += response.status_code == 200
        return response

    def is_answering(self) -> bool:
        try:
            self.predict()
        except httpx.HTTPError:
            return False
        return True
