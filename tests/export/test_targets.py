"""Each registered target is a subcommand of `headrace export` with its options."""

from __future__ import annotations

import click
import pytest

from headrace.cli.export import export
from headrace.export import TARGETS
from headrace.export.target import Target


def test_help_lists_every_target() -> None:
    text = export.get_help(click.Context(export, info_name="export"))
    assert [target.name for target in TARGETS] == sorted(target.name for target in TARGETS)
    for target in TARGETS:
        assert f"{target.name} " in text


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_each_target_has_its_options_and_an_example(target: Target) -> None:
    command = export.commands[target.name]
    options = {name for parameter in command.params for name in parameter.opts}
    assert options == {"--output", "--json", "--profile", "--project", "--debug"} | {
        f"--{option.name}" for option in target.options
    }
    assert target.example in command.get_help(click.Context(command, info_name=target.name))
