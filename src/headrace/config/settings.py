"""Settings: headrace.toml and the environment, as one typed, frozen value.

A setting is searched for in this order: the environment (`HEADRACE_LOG`, `HEADRACE_ONLINE`, ...: one variable
per setting), the profile's block in headrace.toml, the embedded default. Each part of Headrace has one settings
class, in one file here. Secrets are never settings: the code that uses them reads them from the environment.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from headrace.config.alerts import AlertSettings
from headrace.config.cluster import ClusterSettings
from headrace.config.databases import DatabaseSettings
from headrace.config.features import FeatureSettings
from headrace.config.formats import FormatSettings
from headrace.config.http import HttpSettings
from headrace.config.lake import LakeSettings
from headrace.config.lineage import LineageSettings
from headrace.config.log import LogSettings
from headrace.config.online import OnlineSettings
from headrace.config.registry import RegistrySettings
from headrace.config.schedules import Schedule, parse_schedules
from headrace.config.serving import ServingSettings
from headrace.config.tables import TableSettings
from headrace.config.tracing import TracingSettings
from headrace.kernel.addresses import find_passwords
from headrace.kernel.errors import ProjectError
from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.kernel.secrets import mask_secrets

__all__ = [
    "FILE",
    "GIVEN",
    "PARTS",
    "Settings",
    "find_root",
    "has_project",
    "load_settings",
    "make_absolute",
    "make_settings",
]

FILE = "headrace.toml"
GIVEN = ("state", "project")
"""Fields of the settings classes that are not settings."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OWNER = "project"  # the file in the state folder with the project's name


class Settings(Struct, frozen=True):
    """A project's settings, which a process knows before it imports the project. `load_settings` loads them.

    Attributes:
        root: the project's folder, absolute.
        project: the project's name; also the Python package in `root` that declares it.
        profile_name: the name of the profile.
        state: the folder for the local state of this project and profile. It is created (0700) at the first
            write.
        values: setting → its value, without defaults.
        schedules: the builds that `up` runs by itself on this profile.
        log, lake, ...: the settings of each part.
    """

    root: Path
    project: str
    profile_name: str
    state: Path
    values: dict[str, Any]
    schedules: tuple[Schedule, ...]
    log: LogSettings
    lake: LakeSettings
    online: OnlineSettings
    features: FeatureSettings
    registry: RegistrySettings
    lineage: LineageSettings
    alerts: AlertSettings
    cluster: ClusterSettings
    serving: ServingSettings
    tables: TableSettings
    http: HttpSettings
    formats: FormatSettings
    databases: DatabaseSettings
    tracing: TracingSettings

    def place(self, *parts: str) -> Path:
        """A path in the state folder."""
        return self.state.joinpath(*parts)

    def make_state(self) -> Path:
        """Creates the state folder (0700) if it does not exist; returns it. Git ignores the folder, and it has
        the project's name."""
        ignore = make_private(self.state) / ".gitignore"
        if not ignore.is_file():  # a project that `headrace init` did not make may have none at its root
            write_file(ignore, b"*\n")
        owner = self.state / _OWNER
        if not owner.is_file():
            write_file(owner, self.project.encode())
        return self.state

    def find_scratch(self) -> Path | None:
        """The place of what a check computes meanwhile: in the state folder, whose disk has room for it.

        None if this user may not write there: kernel.scratch takes the system's temporary folder then.
        """
        try:
            folder = self.make_state()
        except OSError:
            return None
        return folder / "scratch" if os.access(folder, os.W_OK) else None

    @property
    def deployment(self) -> str:
        """Where the replicas of the predict endpoint run: `processes` or `ray_serve`."""
        return self.serving.chosen_deployment or ("processes" if self.cluster.is_local else "ray_serve")

    @property
    def token_paths(self) -> tuple[Path, ...]:
        """The paths of the files with bearer tokens."""
        return tuple(self.root / path for path in self.http.token_files)

    def with_values(self, **values: Any) -> Settings:
        """These settings with other values. Raises ProjectError on an unknown setting or a wrong value."""
        return make_settings(
            self.root,
            self.project,
            self.profile_name,
            state=self.state,
            values={**self.values, **values},
            schedules=self.schedules,
        )

    def with_state(self, state: Path) -> Settings:
        """The same settings with another state folder."""
        return make_settings(
            self.root,
            self.project,
            self.profile_name,
            state=state,
            values=self.values,
            schedules=self.schedules,
        )


PARTS: dict[str, type[Struct]] = {
    "log": LogSettings,
    "lake": LakeSettings,
    "online": OnlineSettings,
    "features": FeatureSettings,
    "registry": RegistrySettings,
    "lineage": LineageSettings,
    "alerts": AlertSettings,
    "cluster": ClusterSettings,
    "serving": ServingSettings,
    "tables": TableSettings,
    "http": HttpSettings,
    "formats": FormatSettings,
    "databases": DatabaseSettings,
    "tracing": TracingSettings,
}
"""Part of Headrace → the class of its settings."""
_TYPES: dict[str, Any] = {
    field.encode_name: field.type
    for part in PARTS.values()
    for field in msgspec.structs.fields(part)
    if field.name not in GIVEN
}
"""Setting → its type."""


def make_settings(
    root: Path,
    project: str,
    profile: str = "local",
    *,
    state: Path | None = None,
    values: Mapping[str, Any] | None = None,
    schedules: tuple[Schedule, ...] = (),
    where: str = "settings",
) -> Settings:
    """Builds settings from values; every other setting has its embedded default.

    Args:
        root: the project's folder, absolute.
        project: its name.
        profile: the profile's name.
        state: the state folder; by default `.headrace/PROFILE` in the root.
        values: setting → value, of the setting's type.
        schedules: the builds that `up` runs by itself.
        where: the origin of the values, for errors.

    Raises:
        ProjectError: an unknown setting, or a value of the wrong type.
    """
    values = dict(values or {})
    state = root / ".headrace" / profile if state is None else state
    _check_names(values, _TYPES, where)
    typed = {name: _convert(value, name, f"{where}.{name}", strict=True) for name, value in values.items()}
    for address in typed.get("databases", {}).values():
        mask_secrets(word for word in find_passwords(address) if len(word) > 2)  # shorter: every text has it
    given = {"state": state, "project": project}
    parts = {}
    for name, part in PARTS.items():
        fields = msgspec.structs.fields(part)
        chosen = {field.name: typed[field.encode_name] for field in fields if field.encode_name in typed}
        parts[name] = part(
            **chosen, **{field.name: given[field.name] for field in fields if field.name in GIVEN}
        )
    return Settings(root, project, profile, state, typed, schedules, **parts)  # type: ignore[arg-type]


def make_absolute(folder: Path) -> Path:
    """The folder's absolute path. One with `..` is resolved: its parents would be folders that it is not in."""
    return folder.resolve() if ".." in folder.parts else folder.absolute()


def has_project(start: Path | None = None) -> bool:
    """Whether `start` (default: the working folder) or a folder above it has a headrace.toml."""
    return _search_upwards(make_absolute(start or Path.cwd())) is not None


def _search_upwards(start: Path) -> Path | None:
    return next((folder for folder in (start, *start.parents) if (folder / FILE).is_file()), None)


def find_root(start: Path | None = None) -> Path:
    """Finds the nearest folder with a headrace.toml, at or above `start` (default: the working folder).

    Raises:
        ProjectError: no folder does.
    """
    start = make_absolute(start or Path.cwd())
    folder = _search_upwards(start)
    if folder is not None:
        return folder
    raise ProjectError(
        f"no {FILE} in this folder or in any folder above",
        where=str(start),
        remedy="Change to a project, name it by --project DIR, or create one: headrace init DIR --example shop",
    )


def load_settings(root: Path | None = None, profile: str | None = None) -> Settings:
    """Loads the settings of the project at `root` (default: the project of the working folder).

    The profile is `profile`, else `HEADRACE_PROFILE`, else `local`.

    Raises:
        ProjectError: no headrace.toml, no valid TOML, an unknown block, setting or profile, a value
            of the wrong type, a password in an address of the file. The error names the file and the setting,
            or the environment variable.
    """
    root = find_root(root) if root is None or not (root / FILE).is_file() else make_absolute(root)
    path = root / FILE
    document = _read(path)
    name = profile or os.environ.get("HEADRACE_PROFILE") or "local"
    profiles = document.get("profile", {})
    if not isinstance(profiles, dict) or (name not in profiles and name != "local"):
        known = sorted({"local", *profiles}) if isinstance(profiles, dict) else ["local"]
        raise ProjectError(
            f"profile {name!r} does not exist",
            where=str(path),
            remedy=f"Its profiles are {', '.join(known)}; add [profile.{name}] or name another.",
        )
    project = _project_name(document.get("project", {}), path)
    state = _find_state(root, project, name)
    where = f"{path}: profile.{name}"
    in_file = profiles.get(name, {})
    make_settings(root, project, name, state=state, values=in_file, where=where)  # checked even if overridden
    _refuse_passwords(in_file, where)
    schedules = parse_schedules(document.get("schedule", {}), name, {"local", *profiles}, str(path))
    values = {**in_file, **_read_environment()}
    return make_settings(root, project, name, state=state, values=values, schedules=schedules, where=where)


def _refuse_passwords(values: Mapping[str, Any], where: str) -> None:
    """Raises ProjectError if an address among the values of the file has a password in it."""
    for name, value in values.items():
        addresses = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(address, str) and find_passwords(address) for address in addresses):
            other = ' Or write "env:NAME", with the address in that variable.' if name == "alerts" else ""
            raise ProjectError(
                "the address has a password in it",
                where=f"{where}.{name}",
                remedy="Take it out of the file: the page on environment variables says where each password"
                f" goes.{other} HEADRACE_{name.upper()} in the environment replaces the setting.",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"it is not valid TOML: {error}", where=str(path)) from error
    _check_names(document, ("project", "profile", "schedule"), str(path))
    return document


def _project_name(block: Any, path: Path) -> str:
    _check_names(block, ("name",), f"{path}: project")
    name = block.get("name", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ProjectError(
            f"{name!r} is not a valid project name",
            where=f"{path}: project.name",
            remedy="Use lower-case letters, digits and _, as for a Python package.",
        )
    return name


def _find_state(root: Path, project: str, profile: str) -> Path:
    """The state folder. Raises ProjectError if HEADRACE_STATE names the folder of another project's state."""
    default = root / ".headrace"
    home = Path(os.environ.get("HEADRACE_STATE") or default)
    owner = home / profile / _OWNER
    if home.resolve() != default.resolve() and owner.is_file() and owner.read_text() != project:
        raise ProjectError(
            f"{owner.parent} has the state of project {owner.read_text()!r}, not of {project!r}",
            where="the environment: HEADRACE_STATE",
            remedy=f"Give each project its own folder, such as {home / project}. If this project was renamed,"
            f" delete {owner}.",
        )
    return home / profile


def _read_environment() -> dict[str, Any]:
    values = {}
    for name, type_ in _TYPES.items():
        variable = f"HEADRACE_{name.upper()}"
        text = os.environ.get(variable)
        if text is not None:
            where = f"the environment: {variable}"
            parsed: Any = text
            if type_ == tuple[str, ...]:
                parsed = [item.strip() for item in text.split(",") if item.strip()]
            elif type_ == dict[str, str]:
                parsed = _parse_object(text, where)
            values[name] = _convert(parsed, name, where, strict=False)
    return values


def _parse_object(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ProjectError(
            f'it is not an object of JSON, such as {{"shop": "..."}}: {error}', where=where
        ) from error


def _convert(value: Any, name: str, where: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, _TYPES[name], strict=strict)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")  # msgspec's form for the item of a list
        choices = [repr(choice) for choice in _find_choices(_TYPES[name])]
        raise ProjectError(
            problem,
            where=where + place.rstrip("`"),
            remedy=f"It is one of {', '.join(choices)}." if choices else None,
        ) from error


def _find_choices(type_: Any) -> list[str]:
    """The values that a setting of this type may have, if they are listed."""
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [choice for part in get_args(type_) for choice in _find_choices(part)]


def _check_names(values: Any, known: Collection[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ProjectError("it must be a block of settings", where=where)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ProjectError(
                f"setting {name!r} does not exist",
                where=where,
                remedy=f"Did you mean {near[0]!r}?" if near else f"The settings are: {', '.join(known)}.",
            )
