from pathlib import Path

import pytest
from tests.flows.traced import Traced, traced


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A small shop with one logged prediction, made once a module: it is only read."""
    made: Path = tmp_path_factory.mktemp("traced")
    return traced(made)
