"""Prepared models: copies of loaded models, from which a replica has a model in a fraction of the time.

Some libraries check and build a model object by object in Python: 13 ms for 20 small trees, in which the
requests of a replica wait for the interpreter. The first process that loads a version, which is the one that
tries its release, keeps the loaded model as a pickle. A pickle can run any code, so it is signed with the
project's key, and read only if the signature holds. It is not in the bundle, and never leaves this machine.
"""

from __future__ import annotations

import logging
import pickle
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from headrace.kernel.digest import digest_file, short_digest
from headrace.registry import Registry
from headrace.registry.bundle import MANIFEST
from headrace.training.files import MODEL
from headrace.training.trainers import trainer_by_name
from headrace.training.trainers.folder import Predictor, load_model, read_meta

__all__ = ["load_prepared"]

_log = logging.getLogger("headrace.serving")
_FORMAT = 1  # of what is pickled


def load_prepared(registry: Registry, bundle: Path) -> Predictor:
    """The model of a verified bundle: from its prepared copy, or loaded, and prepared for the next time.

    Raises:
        HeadraceError: the bundle does not hold a model that can be loaded.
    """
    packages = trainer_by_name(read_meta(bundle / MODEL).trainer).prepared_for
    if not packages:
        return load_model(bundle / MODEL)
    name, files = f"{digest_file(bundle / MANIFEST)}-{_describe_environment(packages)}", registry.signed_files
    content = files.read(name)
    if content is not None:
        try:
            predictor: Predictor = pickle.loads(content)  # noqa: S301 - this project's key has signed it
            return predictor
        except Exception as error:  # a class of the library has changed although its version has not
            _log.warning("a prepared model is made again: %s: %s", type(error).__name__, error)
    predictor = load_model(bundle / MODEL)
    try:
        files.write(name, pickle.dumps(predictor, pickle.HIGHEST_PROTOCOL))
    except (OSError, pickle.PicklingError) as error:
        _log.warning("a model cannot be prepared, and is loaded anew each time: %s", error)
    return predictor


@cache
def _describe_environment(packages: tuple[str, ...]) -> str:
    """A digest of the versions on which a pickle depends."""
    versions = [f"{package} {version(package)}" for package in ("headrace", "numpy", *packages)]
    return short_digest("\n".join([str(_FORMAT), sys.version, *versions]).encode())
