"""The internals of Feast that Headrace uses are where they are listed, and another Feast is refused."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64

from headrace.features.feast.internals import (
    INTERNALS,
    FeastInternal,
    service_entries,
    skip_inference,
)


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: f"{internal.module}.{internal.name}")
def test_an_internal_is_where_it_is_listed(internal: FeastInternal) -> None:
    owner, *attributes = internal.name.split(".")
    value = getattr(importlib.import_module(internal.module), owner)
    if owner == "FeatureService":  # an annotation: only instances have it
        assert attributes[0] in value.__annotations__
    else:
        reduce(getattr, attributes, value)


def test_a_services_entries_are_its_views_and_texts_in_their_order() -> None:
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    view = FeatureView(name="facts", entities=[user], schema=[Field(name="x", dtype=Int64)])
    entries = service_entries(FeatureService(name="service", features=[view, "other:y"]))
    assert [entry if isinstance(entry, str) else entry.name for entry in entries] == ["facts", "other:y"]


def test_feast_does_not_call_a_function_whose_inference_is_skipped() -> None:
    asked = RequestSource(name="asked", schema=[Field(name="x", dtype=Int64)])
    calls = []

    @on_demand_feature_view(sources=[asked], schema=[Field(name="y", dtype=Int64)], mode="python")
    def double(inputs):  # type: ignore[no-untyped-def]
        calls.append(inputs)
        return {"y": inputs["x"]}

    double.infer_features()
    assert len(calls) == 1
    skip_inference(double)
    double.infer_features()
    assert len(calls) == 1


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_feast_imports_pytorch_only_when_it_is_needed() -> None:
    program = (
        "import sys, headrace.features.feast, feast.online_response as response\n"
        "assert 'torch' not in sys.modules\n"
        "assert response.get_torch() is sys.modules['torch']"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_feast_makes_no_folder_that_a_killed_process_would_leave(tmp_path: Path) -> None:
    program = (
        "import os, signal, headrace.features.feast, feast.metrics\n"
        "feast.metrics.push_request_count.labels('source', 'online').inc()\n"
        "assert not [name for name in os.environ if 'MULTIPROC' in name.upper()]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {name: value for name, value in os.environ.items() if "MULTIPROC" not in name.upper()}
    killed = subprocess.run([sys.executable, "-c", program], env=environment | {"TMPDIR": str(tmp_path)})
    assert (killed.returncode, list(tmp_path.iterdir())) == (-signal.SIGKILL, [])
