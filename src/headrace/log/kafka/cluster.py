"""A Kafka cluster: how it is reached, and what is said where it is not.

A broker that comes back may tell for a moment that there is no broker at all. librdkafka then forgets them
all, and never finds one again (confluentinc/librdkafka#5301). So a client that got no answer is not
gone on with: here, in the writer, the readers, the members and the forwarder.

What the clients need beside its address (TLS, SASL) comes from the environment:
HEADRACE_KAFKA_SECURITY_PROTOCOL is librdkafka's `security.protocol`, and so on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import confluent_kafka as ck
from confluent_kafka import admin as ck_admin

from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.secrets import clean_text

__all__ = ["SECONDS", "Cluster"]

SECONDS = 30.0  # how long the broker may take to answer
_ENVIRONMENT = "HEADRACE_KAFKA_"
_NOT_LET_IN = (
    ck.KafkaError._AUTHENTICATION,
    ck.KafkaError._SSL,
    ck.KafkaError.SASL_AUTHENTICATION_FAILED,
)
_NO_ANSWER = (ck.KafkaError._TRANSPORT, ck.KafkaError._TIMED_OUT, ck.KafkaError._ALL_BROKERS_DOWN)
_TRY = 1.0  # seconds for one try of the first contact
_CONTACT = 10.0  # seconds that it may take
_logger = logging.getLogger(__name__)


class Cluster:
    """A cluster, and how far it has been met.

    Args:
        brokers: `host:port,...`.

    Attributes:
        where: its address, for errors.
        config: the clients' settings.
        admin: the client that asks and orders.

    Raises:
        ProjectError: the client does not know a setting, or not its value.
    """

    def __init__(self, brokers: str) -> None:
        self.where = f"kafka://{brokers}"
        self.config = {
            "bootstrap.servers": brokers,
            "logger": _logger,
            "log_level": 2,  # what fails is raised here; each vain try to connect need not be told
            "error_cb": self._hear,
            **_from_environment(),
        }
        try:
            self.admin = ck_admin.AdminClient(self.config)
        except ck.KafkaException as error:
            raise ProjectError(
                f"Kafka's client does not take a setting: {clean_text(error.args[0].str())}",
                where=f"the environment: {_ENVIRONMENT}*",
                remedy="They are named after librdkafka's: HEADRACE_KAFKA_SASL_MECHANISM is sasl.mechanism.",
            ) from None  # the client's own error may quote the setting
        self._met = False
        self._refused: str | None = None  # why the broker did not let us in
        self._unreached: str | None = None  # why it was not reached, the last time

    @contextmanager
    def reached(self) -> Iterator[None]:
        """For the block, what the client raises becomes Unavailable; before it the first contact is made."""
        try:
            self._meet()
            yield
        except (ck.KafkaException, TimeoutError) as error:
            said = error.args[0].str() if isinstance(error, ck.KafkaException) else "no answer in time"
            self.admin.poll(0)
            refused, self._refused = self._refused, None
            why = refused or (None if self._met else self._unreached) or said
            if self._met and (isinstance(error, TimeoutError) or error.args[0].code() in _NO_ANSWER):
                self.admin = ck_admin.AdminClient(self.config)
            raise Unavailable(
                f"Kafka {'did not do it' if self._met else 'is not reached'}: {clean_text(why)}",
                where=self.where,
                remedy="See that the broker runs, is reached from here, and lets this user in.",
            ) from error

    def _meet(self) -> None:
        """The first contact: in short tries, so that a broker that does not let us in is told at once."""
        deadline = monotonic() + _CONTACT
        while not self._met:
            try:
                self.admin.list_topics(timeout=_TRY)
                self._met = True
            except ck.KafkaException:
                self.admin.poll(0)
                if self._refused is not None or monotonic() > deadline:
                    raise

    def _hear(self, error: ck.KafkaError) -> None:
        if error.code() in _NOT_LET_IN:
            self._refused = error.str()
        elif error.code() in (ck.KafkaError._TRANSPORT, ck.KafkaError._RESOLVE):
            self._unreached = error.str()


def _from_environment() -> dict[str, str]:
    """librdkafka's settings: HEADRACE_KAFKA_SASL_PASSWORD is `sasl.password`."""
    return {
        name.removeprefix(_ENVIRONMENT).lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith(_ENVIRONMENT)
    }
