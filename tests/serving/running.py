"""Runs the endpoint of a small project, and reads what it logged."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import msgspec

from headrace import log
from headrace.http.serve import serve
from headrace.serving.endpoint import Endpoint
from headrace.serving.metrics_slot import clear_metrics
from headrace.serving.models import Models
from headrace.serving.prediction import TOPIC, Prediction
from headrace.serving.shipper import ship

__all__ = ["FEW_VIEWS", "INSTANCE", "run_endpoint", "ship_predictions"]

FEW_VIEWS = {"user_id": 1, "product_id": 8, "price": 3.5}
INSTANCE = {"user_id": 1, "product_id": 7, "price": 3.5}


@contextmanager
def run_endpoint(settings, host="127.0.0.1", **access):
    clear_metrics(settings.place("serving", "metrics"))  # as a deployment does
    endpoint = Endpoint(Models(settings), settings.place("serving"), host, **access)
    with serve(endpoint.app, "127.0.0.1", 0) as served, httpx.Client(base_url=served.url) as client:
        client.endpoint = endpoint
        yield client
    endpoint.close()


def ship_predictions(settings):
    """Ships the spool; the predictions on the log, oldest first."""
    topics = log.open(settings.log.url)
    topics.create(TOPIC)
    ship(settings.place("serving", "spool"), topics)
    values = topics.read(TOPIC, {0: 0}, 100_000).values
    topics.close()
    return [msgspec.json.decode(value, type=Prediction) for value in values]
