"""Ray's internals that Headrace uses are where they are listed, and another Ray is refused in one sentence."""

import importlib
import inspect
from functools import reduce

import pytest

from headrace.cluster.internals import INTERNALS, Internal


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of importing ray.serve
@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: f"{internal.module}.{internal.name}")
def test_an_internal_is_where_it_is_listed(internal: Internal) -> None:
    module = importlib.import_module(internal.module)
    value = reduce(getattr, internal.name.split("."), module)
    if internal.parameters:
        assert tuple(inspect.signature(value).parameters)[: len(internal.parameters)] == internal.parameters
