"""The connection to a Kafka cluster: its settings, the first contact, and errors as Unavailable with a remedy.

A broker that restarts may report for a moment that there are no brokers. librdkafka then forgets all of them
and never finds one again (confluentinc/librdkafka#5301). So any client whose request timed out is discarded and
replaced: here, in the writer, the readers, the members and the forwarder.

The other settings of the clients (TLS, SASL) come from the environment: HEADRACE_KAFKA_SECURITY_PROTOCOL is
librdkafka's `security.protocol`, and so on.
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

__all__ = ["SECONDS", "KafkaConnection"]

SECONDS = 30.0
"""How long the broker may take to answer."""
_ENVIRONMENT = "HEADRACE_KAFKA_"
_ACCESS_DENIED = (
    ck.KafkaError._AUTHENTICATION,
    ck.KafkaError._SSL,
    ck.KafkaError.SASL_AUTHENTICATION_FAILED,
)
_NO_ANSWER = (ck.KafkaError._TRANSPORT, ck.KafkaError._TIMED_OUT, ck.KafkaError._ALL_BROKERS_DOWN)
_TRY_SECONDS = 1.0  # for one attempt at the first contact
_CONTACT_SECONDS = 10.0  # for the first contact
_logger = logging.getLogger(__name__)


class KafkaConnection:
    """The settings, the admin client and the error handling of all clients of one cluster.

    Args:
        brokers: `host:port,...`.

    Attributes:
        where: the cluster's address, for errors.
        config: settings of every client.
        admin: the client for everything but records.

    Raises:
        ProjectError: the client does not accept a setting.
    """

    def __init__(self, brokers: str) -> None:
        self.where = f"kafka://{brokers}"
        self.config = {
            "bootstrap.servers": brokers,
            "logger": _logger,
            "log_level": 2,  # failures are raised here; failed attempts to connect are not worth a line each
            "error_cb": self._note_error,
            **_settings_from_environment(),
        }
        try:
            self.admin = ck_admin.AdminClient(self.config)
        except ck.KafkaException as error:
            raise ProjectError(
                f"Kafka's client does not accept a setting: {clean_text(error.args[0].str())}",
                where=f"the environment: {_ENVIRONMENT}*",
                remedy="Use librdkafka's names: HEADRACE_KAFKA_SASL_MECHANISM is sasl.mechanism.",
            ) from None  # the client's own error may quote the setting
        self._has_answered = False
        self._denial: str | None = None  # why the broker denied access
        self._connect_error: str | None = None  # why the last connection failed

    @contextmanager
    def name_errors(self) -> Iterator[None]:
        """Makes the first contact, then turns the client's errors in the block into Unavailable."""
        try:
            self._make_contact()
            yield
        except (ck.KafkaException, TimeoutError) as error:
            message = error.args[0].str() if isinstance(error, ck.KafkaException) else "no answer in time"
            self.admin.poll(0)
            denial, self._denial = self._denial, None
            why = denial or (None if self._has_answered else self._connect_error) or message
            is_timeout = isinstance(error, TimeoutError) or error.args[0].code() in _NO_ANSWER
            if self._has_answered and is_timeout:
                self.admin = ck_admin.AdminClient(self.config)
            problem = "a request to Kafka failed" if self._has_answered else "Kafka cannot be reached"
            raise Unavailable(
                f"{problem}: {clean_text(why)}",
                where=self.where,
                remedy="Check that the broker runs, can be reached from here, and accepts this user.",
            ) from error

    def _make_contact(self) -> None:
        """Waits for the first answer in short attempts, so that denied access is reported at once."""
        deadline = monotonic() + _CONTACT_SECONDS
        while not self._has_answered:
            try:
                self.admin.list_topics(timeout=_TRY_SECONDS)
                self._has_answered = True
            except ck.KafkaException:
                self.admin.poll(0)
                if self._denial is not None or monotonic() > deadline:
                    raise

    def _note_error(self, error: ck.KafkaError) -> None:
        if error.code() in _ACCESS_DENIED:
            self._denial = error.str()
        elif error.code() in (ck.KafkaError._TRANSPORT, ck.KafkaError._RESOLVE):
            self._connect_error = error.str()


def _settings_from_environment() -> dict[str, str]:
    """librdkafka's settings: HEADRACE_KAFKA_SASL_PASSWORD is `sasl.password`."""
    return {
        name.removeprefix(_ENVIRONMENT).lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith(_ENVIRONMENT)
    }
