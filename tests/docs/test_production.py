"""The page on production, followed on a broker, an object store, an Iceberg REST catalog and Redis.

Its MLflow is a file here: a server of it takes longer to start than all else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from services.catalog import Catalog
from services.kafka import Broker
from services.s3 import Store
from tests.docs.blocks import PORT_VARIABLES, Reader

from headrace.flows.project.init import init

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run_in_production.md"


@pytest.mark.soak  # 50 s of CPU, a third of it by the servers
def test_the_page_on_production_works_on_servers(
    tmp_path: Path, empty_broker: Broker, empty_redis: str, object_store: Store, rest_catalog: Catalog
) -> None:
    folder = init(tmp_path / "payments", "minimal").folder
    subprocess.run([sys.executable, "generate.py"], cwd=folder, check=True)
    reader = Reader(
        folder,
        **object_store.environment,
        **dict.fromkeys(PORT_VARIABLES, "0"),
        HEADRACE_PROFILE="production",
        HEADRACE_LOG=empty_broker.url,
        HEADRACE_CATALOG=rest_catalog.url,
        HEADRACE_WAREHOUSE=object_store.url,
        HEADRACE_ONLINE=empty_redis,
        HEADRACE_MLFLOW="sqlite",
        HEADRACE_REPLICAS="1",
        HEADRACE_TOKEN="a-token-of-the-test",
        HEADRACE_SIGNING_KEY="a-key-of-the-test",
    )
    try:
        reader.follow(PAGE)
        answer = "id ...\nmodel refusal\nversion 1\narm champion\nvalue 0...\nmissing ...\n"
        reader.run("headrace predict refusal card=17 amount=120", f"...\n{answer}", PAGE.name)
        reader.run("headrace why ID", "...\nEvery recomputed feature equals the served one.\n...\n", PAGE.name)
    finally:
        code = reader.stop()
    assert code == 0
