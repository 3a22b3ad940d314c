"""MLflow: versions, aliases, signed bundles.

`open(settings)` gives the registry. MLflow itself (4 s to import) is loaded when it is first needed; a
process that only reads bundles already on this machine never loads it.
"""

from headrace.registry.store import Registry, open  # noqa: A004
from headrace.registry.version import Version

__all__ = ["Registry", "Version", "open"]
