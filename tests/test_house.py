"""The rules of the house that a program can check: measures, names, exports, imports."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests.longest import LONGEST

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "headrace"
TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}
TEST_TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "tests").rglob("*.py"))}
Function = (ast.FunctionDef, ast.AsyncFunctionDef)

CATCH_ALL = {"utils", "util", "common", "helpers", "base", "manager", "misc"}
STAND_INS = {"one", "some", "found", "made", "told", "said", "held", "this"}
IRREGULAR_PARTICIPLES = """
    begun bound bought broken brought built chosen come done drawn driven eaten fallen fed felt forgotten found
    frozen given gone grown heard held hidden kept known laid led left lost made meant met paid said seen sent
    shown slept sold spent spoken stolen struck sworn taken taught thought thrown told torn understood woken
    won worn written
"""
NOT_PARTICIPLES = {"embed", "exceed", "feed", "need", "proceed", "seed", "speed"}
REFUSED_BY_NOUN = re.compile(r"(?<!there )(?<!There )\b(is|are) no\b(?! (longer|more)\b)")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Each module's name and tree."""
    for path, tree in TREES.items():
        name = ".".join(("headrace", *path.relative_to(SOURCE).with_suffix("").parts))
        yield name.removesuffix(".__init__"), tree


def lengths(
    kind: type[ast.AST] | tuple[type[ast.AST], ...], trees: dict[Path, ast.Module] = TREES
) -> dict[str, int]:
    """The place of each definition of this kind, and its number of lines."""
    return {
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, kind)
    }


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(SOURCE)): text.count("\n") for path, text in TEXTS.items()}
    assert {name: n for name, n in lines.items() if n > 600} == {}
    assert statistics.median(lines.values()) <= 150


def test_functions_and_classes_are_short() -> None:
    assert {name: n for name, n in lengths(Function).items() if n > 60} == {}
    assert {name: n for name, n in lengths(ast.ClassDef).items() if n > 300} == {}


def test_no_length_is_kept_by_leaving_lines_unformatted() -> None:
    """Without `# fmt: skip` every function and class still has an allowed length."""
    trees = {}
    for path, text in TEXTS.items():
        if "fmt: skip" in text:
            plain = re.sub(r"  # fmt: skip.*", "", text)
            command = [Path(sys.executable).with_name("ruff"), "format", "--stdin-filename", path, "-"]
            formatted = subprocess.run(
                command, input=plain, capture_output=True, text=True, check=True, cwd=ROOT
            )
            trees[path] = ast.parse(formatted.stdout)
    assert {name: n for name, n in lengths(Function, trees).items() if n > 60} == {}
    assert {name: n for name, n in lengths(ast.ClassDef, trees).items() if n > 300} == {}


def test_no_room_or_file_holds_everything() -> None:
    assert [str(path) for path in TREES if path.stem in CATCH_ALL or path.parent.name in CATCH_ALL] == []


def test_every_module_has_a_docstring() -> None:
    assert [name for name, tree in modules() if not ast.get_docstring(tree)] == []


def is_participle(name: str) -> bool:
    """Whether a function's name begins with a past participle."""
    word = name.strip("_").split("_")[0]
    return (word.endswith("ed") and word not in NOT_PARTICIPLES) or word in IRREGULAR_PARTICIPLES.split()


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


@pytest.mark.parametrize("trees", [TREES, TEST_TREES], ids=["src", "tests"])
def test_functions_are_not_named_by_participles(trees: dict[Path, ast.Module]) -> None:
    """Less than one in a hundred: a function that does something is an imperative verb."""
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    names = [node.name for node in functions if is_participle(node.name) and not is_property(node)]
    assert len(names) < len(functions) / 100, sorted(names)


@pytest.mark.parametrize("trees", [TREES, TEST_TREES], ids=["src", "tests"])
def test_variables_say_what_they_hold(trees: dict[Path, ast.Module]) -> None:
    places = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            name = node.arg if isinstance(node, ast.arg) else getattr(node, "id", "")
            is_bound = isinstance(node, ast.arg) or (
                isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            )
            if is_bound and name in STAND_INS:
                places.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert places == []


def test_a_public_class_name_stands_once() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_messages_say_what_a_value_is_not() -> None:
    """'x' is not a valid topic name; never: 'x' is no topic's name."""
    places = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and REFUSED_BY_NOUN.search(node.value)
    ]
    assert places == []


def test_all_lists_what_other_modules_import() -> None:
    listed = {}
    for name, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed[name] = {ast.literal_eval(element) for element in node.value.elts}
    names, missing = {name for name, _ in modules()}, set()
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in listed and node.module != name:
                for alias in node.names:
                    is_module = f"{node.module}.{alias.name}" in names
                    if alias.name not in listed[node.module] and not is_module:
                        missing.add(f"{node.module}.{alias.name}")
    assert missing == set()


def test_records_are_structs_or_attrs_classes() -> None:
    """No dataclass, and no `__init__` that sets the attributes of a frozen record. A NamedTuple is a tuple."""
    of_dataclasses = re.compile(
        r"^\s*(import dataclasses|from dataclasses import .*\bdataclass\b)", re.MULTILINE
    )
    assert [str(path) for path, text in TEXTS.items() if of_dataclasses.search(text)] == []
    assert [str(path) for path, text in TEXTS.items() if "object.__setattr__" in text] == []


@pytest.mark.parametrize(
    ("call", "homes"),
    [
        # The journal of a table's parts is appended to; Ray's agent loads the standard library alone.
        (r"\bos\.replace\(|\bos\.fsync\(", {"kernel/files.py", "tables/staged.py", "cluster/lean_agent.py"}),
        (r"\bfcntl\.", {"kernel/lock.py"}),
        (r"\bhashlib\.blake2b|\bblake2b\(", {"serving/split.py", "training/splits/hashing.py"}),
        (r"\*\*\*\"", {"kernel/secrets.py"}),
        (r"\bpl\.scan_(parquet|iceberg)\(", {"lake/reading/parquet.py"}),
        # Another reader of predictions would not know the columns that the table may still lack.
        (r"\btable\(\w*(TABLE|PREDICTIONS)\)\s*\.scan\(", {"alerts/record.py", "serving/prediction.py"}),
    ],
    ids=["atomic files", "locks", "shares", "masks", "scans of Parquet files", "scans of predictions"],
)
def test_a_tool_has_no_second_form(call: str, homes: set[str]) -> None:
    users = {str(path.relative_to(SOURCE)) for path, text in TEXTS.items() if re.search(call, text)}
    assert users == homes


def test_no_import_goes_round_the_layers() -> None:
    """Modules of Headrace are imported by statements, which import-linter sees. Only a package looks up its own
    modules by name: where a name is first used, or a setting chooses. A database's driver is chosen too."""
    dynamic = {str(path.relative_to(SOURCE)) for path, text in TEXTS.items() if "import_module(" in text}
    assert dynamic <= {
        "cli/main.py",
        "__init__.py",
        "features/online/store.py",
        "lake/__init__.py",
        "projects/loader.py",
        "serving/deployment/__init__.py",
        "tables/databases.py",
    }
    by_command = {
        str(path.relative_to(SOURCE))
        for path, text in TEXTS.items()
        if "headrace.cli" in text and path.relative_to(SOURCE).parts[0] != "cli"
    }
    assert by_command == {"__main__.py"}  # python -m headrace


def test_every_imported_package_is_declared_and_every_declared_one_imported() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *metadata["dependencies"],
        *(r for e in metadata["optional-dependencies"].values() for r in e),
    ]
    declared = {
        re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements
    }
    distributions = packages_distributions()
    imported = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [node.module]
            imported |= {name.split(".")[0] for name in names}
    outside = {name for name in imported if name not in sys.stdlib_module_names and name != "headrace"}
    homes = {
        name: {home.lower().replace("_", "-") for home in distributions.get(name, [name])} for name in outside
    }
    assert {name: places for name, places in homes.items() if not places & declared} == {}
    by_name = {
        "adbc-driver-postgresql",  # a database's address chooses its driver
        "adbc-driver-sqlite",
        "grpcio-health-checking",  # feast ui imports it, and Feast declares it with an extra alone
    }
    assert declared - set().union(*homes.values()) == by_name


def test_the_longest_files_of_tests_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_no_test_module_is_imported() -> None:
    """What several test modules use is in a module of its own, which says so by its name."""
    imported = [
        f"{path}: {node.module}"
        for path, tree in TEST_TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[-1].startswith("test_")
    ]
    assert imported == []
