"""HTTP protocols of the predict endpoint, one module each. To add one, write its module and list it here."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.serving.protocols import (
    data_list,
    features,
    kserve_v1,
    mlflow_scoring,
    native,
    open_inference,
    openapi,
)
from headrace.serving.protocols.port import HttpProtocol

__all__ = ["PROTOCOLS"]

PROTOCOLS: Sequence[HttpProtocol] = (
    native,
    features,
    kserve_v1,
    open_inference,
    mlflow_scoring,
    openapi,
    data_list,
)
"""The protocols, in the order in which the endpoint matches their routes."""
