"""Pages of the site that are made from other files: the README, the examples, the changelog, the reference.

MkDocs calls the functions `on_config` and `on_files` (its setting `hooks`). Where a README links to a file
outside `docs`, such as a module of an example, the link leads to a page that shows the file.
"""

from __future__ import annotations

import inspect
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import headrace
from headrace import api
from headrace.cli.main import COMMANDS, cli
from headrace.config import settings
from headrace.events.contracts.shape import CODES
from headrace.flows.project.graph import graph
from headrace.flows.project.graph_svg import to_svg
from headrace.workspace import Workspace

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".json": "json", ".sql": "sql"}
PYTHON = {
    "Events": ["event", "Alerts", "changes", "current", "Outcomes"],
    "Tables": [
        "table", "source", "query", "hour", "day", "month", "by", "satisfies", "references", "fresh_within",
        "rows_like_before", "publish", "Dimension", "Fact",
    ],
    "Features": ["TableSource", "Precision", "SavedDatasetTable", "LoggingTable"],
    "Models": [
        "Model", "XGBoost", "Sklearn", "Torch", "MLP", "SeasonalNaive", "ByTime", "WalkForward", "ByGroup",
        "Stratified", "Tune", "choice", "integers", "uniform", "loguniform", "at_least", "at_most",
        "better_than_baseline", "not_worse_than_champion", "params", "find_interpreter",
    ],
    "A project": ["project", "Demo", "HeadraceError", "Refused"],
}  # fmt: skip
"""Page of the Python reference → the public names on it."""
missing = {*headrace.__all__} - {
    "__version__",
    "Meta",
    "Struct",
    *(name for names in PYTHON.values() for name in names),
}
assert not missing, f"public names without a page: {missing}"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the examples and the decisions in the navigation."""
    sections = {title: section for entry in config.nav or [] for title, section in entry.items()}
    decisions = next(entry["Decisions"] for entry in sections["About"] if "Decisions" in entry)
    sections["Examples"].extend(f"examples/{path.parent.name}.md" for path in find_examples())
    sections["Reference"][:0] = [{"Python": [python_page(section) for section in PYTHON]}]
    decisions.extend(f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md")))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file of `docs` holds."""
    copies = {ROOT / "README.md": "index.md", ROOT / "CHANGELOG.md": "changelog.md"}
    copies |= {path: f"examples/{path.parent.name}.md" for path in find_examples()}
    shown: dict[Path, str] = {}
    pages = {page: copy_page(path, page, copies, shown) for path, page in copies.items()}
    pages |= {page: show_file(path) for path, page in shown.items()}
    pages |= {python_page(section): "\n".join(list_names(section)) for section in PYTHON}
    pages["reference/cli.md"] = "\n".join(list_commands())
    pages["reference/settings.md"] = "\n".join(list_settings())
    pages["reference/verdicts.md"] = "\n".join(list_codes())
    for path in find_examples():
        picture, page = draw_example(path.parent), f"examples/{path.parent.name}.md"
        if picture is not None:
            place = f"examples/{path.parent.name}.svg"
            files.append(File.generated(config, place, content=picture))
            title, _, rest = pages[page].partition("\n")
            name = posixpath.basename(place)
            pages[page] = f"{title}\n\n![What {path.parent.name} is made of]({name})\n{rest}"
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def find_examples() -> list[Path]:
    """The READMEs of the examples."""
    return sorted((ROOT / "examples").glob("*/README.md"))


def draw_example(folder: Path) -> str | None:
    """The example as `headrace graph --declared --format svg` draws it; None if nothing is drawn."""
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / folder.name
        shutil.copytree(folder, project, ignore=shutil.ignore_patterns("__pycache__", ".headrace", "variants"))
        with Workspace(settings.load_settings(project, "local")) as workspace:
            drawn = graph(workspace)
    return to_svg(drawn) if drawn.nodes else None


def copy_page(path: Path, page: str, copies: dict[Path, str], shown: dict[Path, str]) -> str:
    """The text of a file, with links that fit its place in the site.

    Args:
        path: the file.
        page: its place in the site.
        copies: file → page, of every file that is copied.
        shown: file → page, of files that are linked to; this function adds to it.
    """

    def relink(match: re.Match[str]) -> str:
        target = (path.parent / match[1]).resolve()
        if target.is_dir():
            target = next(
                file for file in (target / "README.md", target / "0001-position.md") if file.is_file()
            )
        if target in copies:
            place = copies[target]
        elif target.is_relative_to(ROOT / "docs"):
            place = target.relative_to(ROOT / "docs").as_posix()
        else:
            place = shown.setdefault(target, f"files/{target.relative_to(ROOT).as_posix()}.md")
        return posixpath.relpath(place, posixpath.dirname(page))

    return LINK.sub(relink, path.read_text())


def show_file(path: Path) -> str:
    """A page that shows a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    header = "---\nsearch: {exclude: true}\n---\n"
    return f"{header}# {name}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}````\n"


def python_page(section: str) -> str:
    """The place of the page with a section of the Python API."""
    return f"reference/{section.lower().replace(' ', '_')}.md"


def list_names(section: str) -> Iterator[str]:
    """The reference of the public names of one section of the Python API."""
    yield f"# {section}\n\nThese are public names of `headrace`.\n"
    for name in PYTHON[section]:
        value = getattr(headrace, name)
        if (value.__init__.__doc__ or "").startswith("Method generated by attrs"):
            value.__init__.__doc__ = None  # it says nothing to a reader
        yield f"::: {value.__module__}.{value.__qualname__}\n"
    if "project" in PYTHON[section]:
        for name in sorted({*api.__all__} - {"project"}):
            yield f"::: headrace.api.{name}\n"


def list_commands() -> Iterator[str]:
    """The reference of the command line: what `--help` prints, of every command."""
    yield "# Command line\n\nWhat `headrace COMMAND --help` prints. `headrace --help` lists the commands."
    for name in (name for name, (_, line) in COMMANDS.items() if line):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield from show_command(command, f"headrace {name}", 2)


def show_command(command: click.Command, name: str, level: int) -> Iterator[str]:
    """A section with a command's help, and one for each command of a group."""
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    yield f"\n{'#' * level} {name}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            nested = command.get_command(context, inner)
            assert nested is not None
            yield from show_command(nested, f"{name} {inner}", level + 1)


def list_settings() -> Iterator[str]:
    """The reference of the settings of a profile, from the typed settings and their docstrings."""
    yield (
        "# Settings\n\nA setting stands in a profile of `headrace.toml`, or in an environment variable, which"
        " has precedence. Every setting has a default, so the profile `local` may be empty.\n\n"
        '```toml\n[project]\nname = "shop"\n\n[profile.production]\nlog = "kafka://broker:9092"\n```'
    )
    for part in settings.PARTS.values():
        texts = read_attributes(part)
        yield f"\n## {read_first_line(part)}\n\n| setting | default | |\n| --- | --- | --- |"
        for field in msgspec.structs.fields(part):
            if field.name not in settings.GIVEN:
                name = field.encode_name
                default = msgspec.json.encode(
                    field.default_factory() if field.default is msgspec.NODEFAULT else field.default
                ).decode()
                text = texts[field.name].removeprefix(f"setting `{name}`: ")
                yield f"| `{name}`<br>`HEADRACE_{name.upper()}` | `{default}` | {text} |"


def read_first_line(part: type) -> str:
    """The first line of a class's docstring, without its full stop."""
    return (inspect.getdoc(part) or "").splitlines()[0].rstrip(".")


def read_attributes(part: type) -> dict[str, str]:
    """Attribute → its text, from the section `Attributes:` of a class's docstring."""
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(part) or "").partition("Attributes:\n")[2].splitlines():
        match = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if match:
            names = match[1].split(", ")
        for name in names:
            texts[name] = f"{texts.get(name, '')} {match[2] if match else line.strip()}".strip()
    return texts


def list_codes() -> Iterator[str]:
    """The reference of the codes of refused events."""
    yield (
        "# Verdict codes\n\nA refused event has one of these codes in `_code` of its table, the first invalid"
        " field in `_field`, and the reason in words in `_reason`."
        " `headrace quarantine list TOPIC` counts them.\n\n"
        "| code | the event is refused because |\n| --- | --- |"
    )
    for code, meaning in CODES.items():
        yield f"| `{code}` | {meaning} |"
