"""A Kafka broker in KRaft mode, one node, on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import Missing, accepts, jars, serving

__all__ = ["Broker", "broker"]

_JAVA = ("java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:+UseSerialGC", "-Xms64m", "-Xss512k",
         "-XX:MaxDirectMemorySize=128m", "-XX:TieredStopAtLevel=1")  # fmt: skip
_ONE = (
    "log.cleaner.threads",
    "num.partitions",
    *(f"offsets.topic.{what}" for what in ("num.partitions", "replication.factor")),
    *(
        f"{topic}.{what}"
        for topic in ("transaction.state.log", "share.coordinator.state.topic")
        for what in ("num.partitions", "replication.factor", "min.isr")
    ),
)
_SESSION_MS = 1_000  # the shortest session a consumer may ask for: tests do not wait for ten seconds


class Broker:
    """A broker whose data lie in a folder. It may be stopped, as orders or kill -9 do, and started again
    with all it had, under the same address.

    Attributes:
        url: what a profile's `log` setting takes.
        port: its port on the loopback address.
        environment: what a process's environment holds to use it: its address, and what lets it in.
    """

    def __init__(self, folder: Path, port: int | None = None, password: str | None = None) -> None:
        """Args:
        folder: an existing folder.
        port: the port to listen on; a free one where none is named.
        password: where given, the port speaks TLS and lets in with it only users `headrace`, who may do
            everything, and `guest`, who may do what access control lists allow.
        """
        self.port = port or find_free_port()
        self.url = f"kafka://127.0.0.1:{self.port}"
        self.environment = {"HEADRACE_LOG": self.url}
        self._folder = folder
        self._properties = folder / "server.properties"
        self._controller, self._inner = find_free_port(), find_free_port()
        self._classpath = f"{jars('kafka')}/*"
        self._running = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        values = self._plain() if password is None else self._secure(password)
        self._properties.touch(mode=0o600)
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def __str__(self) -> str:
        return self.url

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    def start(self) -> None:
        """Starts it and returns when it accepts connections.

        Raises:
            Missing: there is no Java.
            RuntimeError: it ended, or did not come up.
        """
        data = self._folder / "data"
        if not data.exists():
            try:
                subprocess.run(
                    [*_JAVA, "-cp", self._classpath, "kafka.tools.StorageTool", "format", "-t",
                     "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(self._properties)],
                    check=True, capture_output=True,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise Missing("java is not installed") from error
        command = [*_JAVA, "-Xmx192m", "-cp", self._classpath, "kafka.Kafka", str(self._properties)]
        self._process = self._running.enter_context(
            serving(command, lambda: accepts(self.port), folder=self._folder)
        )

    def stop(self, *, hard: bool = False) -> None:
        """Ends it: by SIGTERM, or `hard` by SIGKILL. Nothing happens where it does not run."""
        if hard and self._process is not None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._running.close()
        self._process = None

    def _plain(self) -> dict[str, object]:
        return self._values({"PLAINTEXT": f"PLAINTEXT://127.0.0.1:{self.port}"})

    def _secure(self, password: str) -> dict[str, object]:
        authority, identity = certificates(self._folder)
        self.environment |= {
            "HEADRACE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "HEADRACE_KAFKA_SASL_MECHANISM": "PLAIN",
            "HEADRACE_KAFKA_SASL_USERNAME": "headrace",
            "HEADRACE_KAFKA_SASL_PASSWORD": password,
            "HEADRACE_KAFKA_SSL_CA_LOCATION": str(authority),
        }
        module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        users = " ".join(f'user_{user}="{password}"' for user in ("headrace", "guest"))
        return {
            **self._values(
                {
                    "PLAINTEXT": f"PLAINTEXT://127.0.0.1:{self._inner}",  # the broker's own way to itself
                    "SASL_SSL": f"SASL_SSL://127.0.0.1:{self.port}",
                }
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{module} {users};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:headrace;User:ANONYMOUS",  # that is the broker itself
            "listener.name.sasl_ssl.ssl.keystore.type": "PEM",
            "listener.name.sasl_ssl.ssl.keystore.location": identity,
        }

    def _values(self, listeners: dict[str, str]) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": ",".join([*listeners.values(), f"CONTROLLER://127.0.0.1:{self._controller}"]),
            "advertised.listeners": ",".join(listeners.values()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(
                [*(f"{name}:{name}" for name in listeners), "CONTROLLER:PLAINTEXT"]
            ),
            "log.dirs": self._folder / "data",
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": _SESSION_MS,
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3_000,  # one that was killed comes back only when this is over
            "log.cleaner.dedupe.buffer.size": 8_388_608,
            **dict.fromkeys(_ONE, 1),
        }


@contextlib.contextmanager
def broker(folder: Path, port: int | None = None, *, password: str | None = None) -> Iterator[Broker]:
    """A running broker (see Broker); it is stopped at the block's end.

    Raises:
        Missing: there is no Maven, Java or (with a password) openssl.
    """
    one = Broker(folder, port, password)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def certificates(folder: Path) -> tuple[Path, Path]:
    """PEM files: an authority made for this folder alone, and the loopback address's key and certificate."""
    authority, key, identity = folder / "authority.pem", folder / "key.pem", folder / "identity.pem"
    made = folder / "made.pem"
    if identity.exists():
        return authority, identity

    def openssl(*arguments: str | Path) -> None:
        try:
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)
        except FileNotFoundError as error:
            raise Missing("openssl is not installed") from error

    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
    openssl("req", "-x509", *elliptic, "-keyout", "authority-key.pem", "-out", authority,
            "-subj", "/CN=authority of a test", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    openssl("req", "-x509", *elliptic, "-keyout", key, "-out", made, "-subj", "/CN=127.0.0.1",
            "-CA", authority, "-CAkey", "authority-key.pem",
            "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    identity.touch(mode=0o600)
    identity.write_text(key.read_text() + made.read_text())
    return authority, identity
