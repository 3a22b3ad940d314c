"""Nothing to do, decided by one digest before anything heavy is imported.

The digest covers the project's files, its lock, the pointers, dvc.yaml and dvc.lock, the profile, Feast's
registry, and the files and environment variables that tables declare to read. With it the lake is looked at:
the sources' newest snapshots, and whether each table stands where its pointer says. A build that brought
everything up to date keeps both in the state folder.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from headrace import __version__
from headrace.code.fingerprint import digest, external_digests
from headrace.config.settings import FILE, Settings
from headrace.features.checks.applied import registry_digest
from headrace.flows.build.pointers import write_whole
from headrace.flows.build.sources import stamps
from headrace.flows.build.standing import FILE as STANDING
from headrace.kernel.time import now
from headrace.lake.snapshot_ids import current_snapshot_ids, rows_snapshot_ids
from headrace.projects.loader import project_files

__all__ = ["nothing_new", "remember"]

_FILE = "built.json"
_WRITTEN = ("dvc.yaml", "dvc.lock", FILE)


def nothing_new(settings: Settings) -> bool:
    """Whether everything is as the last whole build left it, and no model's refresh has fallen due."""
    try:
        kept = json.loads(settings.place(_FILE).read_bytes())
        used, made, due = kept["heads"], kept["made"], kept["due"]
    except (FileNotFoundError, ValueError, KeyError):  # there is none, or it is another version's
        return False
    if due is not None and now() >= datetime.fromisoformat(due):
        return False
    return bool(
        current_snapshot_ids(settings, used) == used
        and rows_snapshot_ids(settings, made) == made
        and digest_of(settings, kept["files"], kept["env"]) == kept["digest"]
    )


def remember(
    settings: Settings,
    used: dict[str, int],
    made: dict[str, int],
    files: list[str],
    env: list[str],
    due: datetime | None,
) -> None:
    """Everything is up to date with these heads of the topics' tables and these sources.

    Args:
        settings: whose project.
        used: topic's table → the snapshot that was built on, which newer ones may have followed.
        made: table → the snapshot that its pointer names.
        files: the paths of the sources, and of the files that tables read by themselves.
        env: the environment variables that tables read.
        due: when inputs that are held back for `refresh` will be taken.
    """
    kept: dict[str, Any] = {
        "heads": used,
        "made": made,
        "files": files,
        "env": env,
        "due": None if due is None else due.isoformat(),
        "digest": digest_of(settings, files, env),
    }
    settings.made_state()
    write_whole(settings.place(_FILE), json.dumps(kept, sort_keys=True).encode())


def digest_of(settings: Settings, files: list[str], env: list[str]) -> str:
    """The digest of all but what stands in the lake."""
    from headrace.flows.build.code import LOCKS

    root = settings.root
    written = [root / name for name in (*_WRITTEN, *LOCKS) if (root / name).is_file()]
    texts = [*project_files(settings).values(), *written, *sorted((root / "pointers").rglob("*.json"))]
    written_texts = {str(path.relative_to(root)): path.read_text() for path in texts}
    notes = settings.place(STANDING)
    written_texts[STANDING] = notes.read_text() if notes.is_file() else ""
    profile = [settings.profile_name, repr(settings.profile), registry_digest(settings)]
    outside = external_digests(root, env=env)
    return digest([__version__, profile, written_texts, outside, stamps(root, [*files, "models"])])
