"""Stock clients, unchanged, get the answers of the own protocol: KServe's, Triton's and MLflow's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from services import clients
from tests.serving.running import FEW_VIEWS, INSTANCE, run_endpoint

from headrace.config.settings import Settings

INSTANCES = [INSTANCE, FEW_VIEWS, {**INSTANCE, "user_id": 2}]


def test_kserves_and_tritons_clients(project: Settings) -> None:
    script = Path(__file__).with_name("stock_clients.py")
    with run_endpoint(project) as client:
        predictions = client.post("/predict/purchase", json={"instances": INSTANCES}).json()["predictions"]
        command = [str(clients.python()), str(script), str(client.base_url), json.dumps(INSTANCES)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout.splitlines()[-1])
    values, is_ready = [prediction["value"] for prediction in predictions], [True] * 3
    assert answers["kserve"] == {"v1": values, "ready": is_ready, "v2": [values] * 2}
    assert answers["triton"] == {"v2": [values] * 4, "ready": is_ready, "inputs": list(INSTANCE)}


@pytest.mark.filterwarnings("ignore:.*AnyType:UserWarning")  # of the import of mlflow.pyfunc
def test_mlflows_client(project: Settings) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    with run_endpoint(project) as client:
        predictions = client.post("/predict/purchase", json={"instances": INSTANCES}).json()["predictions"]
        address = urlsplit(str(client.base_url))
        scoring = ScoringServerClient(address.hostname, address.port)
        scoring.ping()
        answer = scoring.invoke(pd.DataFrame(INSTANCES))
        version = scoring.get_version()
    assert answer.get_predictions()[0].tolist() == [prediction["value"] for prediction in predictions]
    assert version
