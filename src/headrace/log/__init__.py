"""Logs: store topics. Only `open(url)` chooses between the implementations."""

from __future__ import annotations

from headrace.kernel.addresses import path_of
from headrace.kernel.errors import ProjectError
from headrace.log.port import Batch, Log, Member, append_fitting, lag, record_sizes

__all__ = ["Batch", "Log", "Member", "append_fitting", "lag", "open", "record_sizes"]


def open(url: str) -> Log:  # noqa: A001
    """Opens the log at an address.

    `sqlite:///folder` holds one SQLite file for each topic. `kafka://host:port,.../PROJECT` is a cluster with
    the system topics of a project, `kafka://host:port,...` one without any. A project's log is at
    `settings.log.url`.

    Raises:
        ProjectError: the address is neither of these, or holds a password.
        Unavailable: the folder cannot be created or written, or the package for Kafka is missing.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        from headrace.log.sqlite.log import SqliteLog

        return SqliteLog(str(path_of(url)))
    brokers, slash, project = rest.partition("/")
    if separator and scheme == "kafka" and (project.isidentifier() or not slash):
        if "@" in brokers:
            raise ProjectError(
                "the address of a log must not hold a user or a password",
                where="headrace.toml: log",
                remedy="Set HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD in the environment.",
            )
        from headrace.log.kafka.log import KafkaLog

        return KafkaLog(brokers, project or None)
    raise ProjectError(
        f"{url!r} is not a valid log address",
        where="headrace.toml: log",
        remedy='Write log = "sqlite" for the embedded log, or log = "kafka://host:port".',
    )
