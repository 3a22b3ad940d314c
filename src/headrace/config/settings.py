"""Settings: headrace.toml and the environment, as one typed, frozen value.

A setting is looked for in this order: the environment (`HEADRACE_LOG`, `HEADRACE_ONLINE`, ...: one
variable a key of the profile), the profile's block in headrace.toml, the embedded default. Secrets
are never settings: they are read from the environment by the room that uses them.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from headrace.kernel.addresses import sqlalchemy_url, sqlite_address
from headrace.kernel.errors import ProjectError
from headrace.kernel.private import make_private

__all__ = ["FILE", "Profile", "Settings", "find_root", "load_settings"]

FILE = "headrace.toml"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
T = TypeVar("T", bound=Struct)


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """One set of addresses a project runs on. Every default is embedded: it needs only Python.

    Attributes:
        log: `sqlite` (one file a topic in the state folder) or `kafka://host:port,...`.
        catalog: the Iceberg catalog: `sqlite` or the address of a REST catalog.
        warehouse: where tables' files lie: `file` (the state folder) or `s3://bucket/path`.
        online: the online store: `sqlite`, `redis://...`, `postgresql://...`.
        schema_registry: the address of a schema registry, for contracts whose format needs one; by
            default none.
        mlflow: `sqlite` or the address of an MLflow server.
        lineage: addresses of OpenLineage endpoints that get every event as well.
        alerts: where alerts go out: `https://host/path`, `slack+https://...`, `mailto:ops@example.com`,
            or `env:NAME`, for an address that is a secret.
        ray: `local` (started for the project) or the address of a cluster.
        serving: where the replicas of the predict endpoint run: `processes` (children of `headrace up`) or
            `ray_serve`. By default as `ray` says: processes where it is local, else Ray Serve.
        replicas: how many processes answer predictions.
        trust: versions (`MODEL@VERSION`) whose bundles are taken though they are unsigned or signed
            with another key.
        host: the address that doors listen on.
        predict_port, collector_port, console_port: the doors' ports; 0 takes a free one.
    """

    log: str = "sqlite"
    catalog: str = "sqlite"
    warehouse: str = "file"
    online: str = "sqlite"
    schema_registry: str = ""
    mlflow: str = "sqlite"
    lineage: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    ray: str = "local"
    serving: Literal["", "processes", "ray_serve"] = ""
    replicas: Annotated[int, Meta(ge=1)] = 1
    trust: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    predict_port: int = 8100
    collector_port: int = 8101
    console_port: int = 8102


class ProjectBlock(Struct, frozen=True, forbid_unknown_fields=True):
    """The `[project]` block: the project's name is also its package's."""

    name: str


class Settings(Struct, frozen=True):
    """What a process knows of the project before it imports it.

    Attributes:
        root: the project's folder, absolute.
        project: the project's name; also the Python package in `root` that declares it.
        profile_name: which profile was chosen.
        profile: its addresses, embedded defaults filled in.
        state: the folder that holds what this project and profile keep on this machine. It is made
            by whoever first writes to it, 0700.
    """

    root: Path
    project: str
    profile_name: str
    profile: Profile
    state: Path

    def place(self, *parts: str) -> Path:
        """A path in the state folder."""
        return self.state.joinpath(*parts)

    def made_state(self) -> Path:
        """The state folder, made (0700) if it was not there."""
        return make_private(self.state)

    @property
    def serving(self) -> str:
        """Where the replicas run: `processes` or `ray_serve`."""
        return self.profile.serving or ("processes" if self.profile.ray == "local" else "ray_serve")

    @property
    def log_url(self) -> str:
        """The log's address: `sqlite:///...` (a folder) or as the profile says."""
        return _embedded(self.profile.log, "sqlite", sqlite_address(self.place("log")))

    @property
    def catalog_url(self) -> str:
        """The Iceberg catalog's address: `sqlite:///...` (a file) or as the profile says."""
        return _embedded(self.profile.catalog, "sqlite", sqlite_address(self.place("lake", "catalog.db")))

    @property
    def warehouse_url(self) -> str:
        """Where tables' files lie: a folder's path or as the profile says.

        The path is no `file://` URL: in such a one PyIceberg ends a path at `#` and `?`.
        """
        return _embedded(self.profile.warehouse, "file", str(self.place("lake", "warehouse")))

    @property
    def online_url(self) -> str:
        """The online store's address: `sqlite:///...` (a file) or as the profile says."""
        return _embedded(self.profile.online, "sqlite", sqlite_address(self.place("online.db")))

    @property
    def mlflow_url(self) -> str:
        """MLflow's tracking and registry address: `sqlite:////...` (SQLAlchemy's form) or as it says."""
        return _embedded(self.profile.mlflow, "sqlite", sqlalchemy_url(self.place("mlflow", "mlflow.db")))


def _embedded(value: str, word: str, address: str) -> str:
    return address if value == word else value


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: here) that holds a headrace.toml.

    Raises:
        ProjectError: there is none.
    """
    start = (start or Path.cwd()).absolute()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder
    raise ProjectError(
        f"there is no {FILE} here or in any folder above",
        where=str(start),
        remedy="Go to a project, name one with --project DIR, or make one: headrace init DIR --example shop",
    )


def load_settings(root: Path | None = None, profile: str | None = None) -> Settings:
    """The settings of the project at `root` (default: the one around the working folder).

    The profile is the one named, else `HEADRACE_PROFILE`, else `local`.

    Raises:
        ProjectError: no headrace.toml, no valid TOML, an unknown block, setting or profile, a value
            of the wrong type.
    """
    root = find_root(root) if root is None or not (root / FILE).is_file() else root.absolute()
    path = root / FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"it is not valid TOML: {error}", where=str(path)) from error
    _only(document, ("project", "profile"), where=str(path))
    block = _typed(document.get("project", {}), ProjectBlock, f"{path}: project")
    if not _NAME.fullmatch(block.name):
        raise ProjectError(
            f"{block.name!r} is no project name",
            where=f"{path}: project.name",
            remedy="Use lower-case letters, digits and _, as for a Python package.",
        )
    name = profile or os.environ.get("HEADRACE_PROFILE") or "local"
    profiles = document.get("profile", {})
    if not isinstance(profiles, dict) or (name not in profiles and name != "local"):
        known = sorted({"local", *profiles}) if isinstance(profiles, dict) else ["local"]
        raise ProjectError(
            f"there is no profile {name!r}",
            where=str(path),
            remedy=f"Its profiles are {', '.join(known)}; add [profile.{name}] or name another.",
        )
    return Settings(
        root=root,
        project=block.name,
        profile_name=name,
        profile=_profile(profiles.get(name, {}), f"{path}: profile.{name}"),
        state=Path(os.environ.get("HEADRACE_STATE") or root / ".headrace") / name,
    )


def _profile(values: Any, where: str) -> Profile:
    fields = {field.name: field for field in msgspec.structs.fields(Profile)}
    environment: dict[str, Any] = {}
    for name, field in fields.items():
        text = os.environ.get(f"HEADRACE_{name.upper()}")
        if text is not None:
            environment[name] = text.split(",") if field.type == tuple[str, ...] else text
    if not environment:
        return _typed(values, Profile, where)
    _typed(values, Profile, where)  # what the file says must be right even where it is overridden
    return _typed({**values, **environment}, Profile, f"{where} with HEADRACE_* variables", strict=False)


def _typed(values: Any, kind: type[T], where: str, *, strict: bool = True) -> T:
    _only(values, kind.__struct_fields__, where=where)
    try:
        return msgspec.convert(values, kind, strict=strict)
    except msgspec.ValidationError as error:
        # msgspec ends with " - at `$.field`": the place goes where places go.
        what, _, place = str(error).partition(" - at `$")
        raise ProjectError(what, where=where + place.rstrip("`")) from error


def _only(values: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(values, dict):
        raise ProjectError("a block of settings is expected here", where=where)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ProjectError(
                f"there is no setting {name!r}",
                where=where,
                remedy=f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}.",
            )
