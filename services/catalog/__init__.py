"""An Iceberg REST catalog: the Java implementation's own test server, over a SQLite file.

It listens on every address and asks nobody who they are: for tests alone.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import Server, jars, serving

__all__ = ["JAVA", "Catalog", "catalog"]

JAVA = ("java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-XX:+UseSerialGC", "-Xss512k",
        "-XX:TieredStopAtLevel=1")  # fmt: skip


class Catalog(Server):
    """A running catalog; its URL is what a profile's `catalog` setting takes."""

    @property
    def environment(self) -> dict[str, str]:
        """What makes a project's profile use it."""
        return {"HEADRACE_CATALOG": self.url}


@contextlib.contextmanager
def catalog(
    folder: Path,
    warehouse: str | None = None,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Catalog]:
    """A catalog whose records lie in `folder`; started again there, it has what it had.

    Args:
        folder: an existing folder.
        warehouse: where tables lie: `s3://bucket/path`, or by default a folder in `folder`.
        port: the port to listen on; a free one where none is named.
        environment: how an object store is found (services.s3.Store.environment).
    """
    port = port or find_free_port()
    given = dict(environment or {})
    settings = {
        "CATALOG_REST_PORT": str(port),
        "CATALOG_URI": f"jdbc:sqlite:{folder / 'catalog.db'}",
        "CATALOG_JDBC_SCHEMA__VERSION": "V1",
        "CATALOG_WAREHOUSE": warehouse or (folder / "warehouse").as_uri(),
        "CATALOG_IO__IMPL": "org.apache.iceberg.hadoop.HadoopFileIO",
    }
    if warehouse is not None and warehouse.startswith("s3://"):
        settings |= {
            "CATALOG_IO__IMPL": "org.apache.iceberg.aws.s3.S3FileIO",
            "CATALOG_S3_ENDPOINT": given["AWS_ENDPOINT_URL_S3"],
            "CATALOG_S3_PATH__STYLE__ACCESS": "true",
        }
    command = [*JAVA, "-Xmx512m", "-cp", f"{jars('catalog')}/*", "org.apache.iceberg.rest.RESTCatalogServer"]
    with serving(command, lambda: _answers(port), folder=folder, environment={**given, **settings}) as process:
        yield Catalog(f"http://127.0.0.1:{port}", port, process.pid)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/config")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
