"""A model whose answer is NaN or infinite: no client gets null in its place, and no log has it as an answer."""

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor
from tests.serving.running import run_endpoint, ship_predictions
from tests.serving.small_project import make_project, plan_of, put_features, put_release

from headrace import Sklearn, registry
from headrace.features.plan import encode_plan
from headrace.features.values.matrix import Encoding
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving.release import Arm
from headrace.serving.servable import find_no_numbers
from headrace.training.trainers import trainer_for
from headrace.training.trainers.folder import save_model
from headrace.training.trainers.port import Budget, Examples, ModelMeta, TrainingData

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
COLUMNS = ("facts__mean_price", "facts__views")


def put_exponential(settings):
    """A version that answers exp(mean price), which is infinite over 710."""
    declared, encoding = Sklearn(PoissonRegressor(alpha=0.0)), Encoding(COLUMNS)
    matrix = np.random.default_rng(4).normal(size=(200, 2)).astype(np.float32)
    examples = Examples(matrix, np.exp(matrix[:, 0]))
    trainer = trainer_for(declared)
    data = trainer.prepare(TrainingData("regression", encoding, (), examples, examples))
    fitted = trainer.fit(data, declared, {}, seed=1, budget=Budget())
    place = registry.open(settings).bundle_folder("purchase", 1)
    place.mkdir(parents=True)
    (place / "plan.json").write_bytes(encode_plan(plan_of()))
    meta = ModelMeta(trainer=trainer.name, task="regression", encoding=encoding)
    save_model(place / "model", fitted.files, meta)
    (place / "training.json").write_text("{}")
    seal(place, signing_key(settings))


def test_a_request_without_an_answer_that_is_a_number_is_refused_and_logged_as_failed(tmp_path):
    settings = make_project(tmp_path / "p")
    put_exponential(settings)
    put_features(settings, plan_of(), {7: (9.5, 190)})
    put_release(settings, Arm(1))
    prices = [1.0, 800.0, 2.0, 900.0]
    instances = [{COLUMNS[0]: price, COLUMNS[1]: 1} for price in prices]
    tensor = {"name": "rows", "datatype": "FP32", "shape": [4, 2], "data": [v for p in prices for v in (p, 1)]}
    with run_endpoint(settings) as client:
        assert client.post("/predict/purchase", json=instances[0]).json()["value"] == pytest.approx(np.e, 0.01)
        alone = client.post("/predict/purchase", json=instances[1])
        several = client.post("/predict/purchase", json={"instances": instances})
        others = [
            client.post("/v1/models/purchase:predict", json={"instances": instances}),
            client.post("/v2/models/purchase/infer", json={"inputs": [tensor]}),
            client.post("/invocations", json={"dataframe_records": instances}),
        ]
        text = client.get("/metrics").text
    assert [answer.status_code for answer in (alone, several, *others)] == [422] * 5
    error = several.json()["error"]
    assert (error["code"], error["field"], error["instances"]) == ("model_failed", "instances[1]", [1, 3])
    assert error["message"] == "Instance 1: The model's answer is not a finite number."
    assert alone.json()["error"]["code"] == "model_failed"
    assert all("not a finite number" in answer.text for answer in others)
    predictions = ship_predictions(settings)
    assert [p.error for p in predictions] == [None, "model_failed", *["model_failed"] * 8]
    assert [p.instance for p in predictions] == [0, 0, *[1, 3] * 4]
    assert [p.value is None for p in predictions] == [False, *[True] * 9]
    assert 'code="model_failed"' in text


def test_the_rows_without_a_number_are_found():
    huge = np.full(3, 1.7e308)
    assert find_no_numbers(huge) == find_no_numbers(np.zeros(0)) == find_no_numbers(np.zeros((2, 3))) == []
    assert find_no_numbers(np.array([np.inf, 1, -np.inf])) == [0, 2]
    assert find_no_numbers(np.array([[0.5, 0.5], [np.nan, 0.5]])) == [1]
