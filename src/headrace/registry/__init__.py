"""The registry of model versions, aliases and signed bundles, on MLflow.

`open(settings)` returns the registry. MLflow takes 4 s to import, so it is loaded when it is first needed; a
process that only reads bundles already on this machine never loads it.
"""

from headrace.registry.store import Registry, open  # noqa: A004
from headrace.registry.version import Version

__all__ = ["Registry", "Version", "open"]
