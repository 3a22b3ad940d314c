"""Prepared models: copies of loaded models, from which a replica has a model in a fraction of the time.

Some libraries check and build a model object by object in Python: 13 ms for 20 small trees, in which the
requests of a replica wait for the interpreter. The first process that loads a version, which is the one that
tries its release, keeps the loaded model as a pickle. A pickle can run any code, so it is signed with the
project's key, and read only if the signature holds. It is not in the bundle, and never leaves this machine.

A replica removes the copies that neither a release in force nor the rollback from it needs, once no process has
used them for a week: other projects, or other versions of the libraries, may use the same folder.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from headrace.kernel.digest import digest_file, short_digest
from headrace.kernel.errors import HeadraceError
from headrace.registry import Registry
from headrace.registry.bundle import MANIFEST
from headrace.training.files import MODEL
from headrace.training.trainers import trainer_by_name
from headrace.training.trainers.folder import Predictor, load_model, read_meta

__all__ = ["load_prepared", "remove_unneeded"]

_log = logging.getLogger("headrace.serving")
_FORMAT = 1  # of what is pickled
_UNUSED = 7 * 24 * 3_600.0  # seconds after which a copy that no release needs is removed


def load_prepared(registry: Registry, bundle: Path) -> Predictor:
    """The model of a verified bundle: from its prepared copy, or loaded, and prepared for the next time.

    Raises:
        HeadraceError: the bundle does not hold a model that can be loaded.
    """
    name, files = _find_name(bundle), registry.signed_files
    if name is None:
        return load_model(bundle / MODEL)
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


def remove_unneeded(registry: Registry, versions: Iterable[tuple[str, int]]) -> None:
    """Removes the copies that none of these versions needs, and that were not used for a week.

    A copy that is missed later is made again. If one cannot be removed, that is logged.

    Args:
        registry: the registry with the versions.
        versions: model and version; those that this machine does not have need no copy.
    """
    names = set[str | None]()
    for model, number in versions:
        with suppress(HeadraceError, OSError):  # it is not on this machine, or not whole
            names.add(_find_name(registry.bundle_folder(model, number)))
    try:
        registry.signed_files.remove_unused(names, _UNUSED)
    except OSError as error:
        _log.warning("prepared models that nobody needs cannot be removed: %s", error)


def _find_name(bundle: Path) -> str | None:
    """The name of the copy that the libraries of this process can read; None: the model needs none.

    Raises:
        HeadraceError, OSError: the folder does not hold a bundle.
    """
    packages = trainer_by_name(read_meta(bundle / MODEL).trainer).prepared_for
    return f"{digest_file(bundle / MANIFEST)}-{_describe_environment(packages)}" if packages else None


@cache
def _describe_environment(packages: tuple[str, ...]) -> str:
    """A digest of the versions on which a pickle depends."""
    versions = [f"{package} {version(package)}" for package in ("headrace", "numpy", *packages)]
    return short_digest("\n".join([str(_FORMAT), sys.version, *versions]).encode())
