"""A misspelt option or command is answered with the right one, in every family of commands."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from wheeltimer.cli import main


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands and groups, with the words that lead to them."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands(main))


def typed(*words: str) -> str:
    done = CliRunner().invoke(main, list(words), prog_name="wheeltimer")
    assert done.exit_code == 2, done.output
    return done.output


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_a_misspelt_option_is_answered_with_the_right_one(
    path: tuple[str, ...], command: click.Command
) -> None:
    options = [name for option in command.params for name in option.opts if name.startswith("--")]
    for option in options:
        for wrong in (option[:-1] + option[-1] * 2, option[:3] + option[4:]):
            if wrong in options or len(wrong) < 5:
                continue
            said = typed(*path, wrong)
            assert f"No such option '{wrong}'" in said
            assert f"'{option}'" in said.partition("Did you mean")[2], said


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_a_misspelt_command_is_answered_with_the_right_one(path: tuple[str, ...]) -> None:
    *before, name = path
    said = typed(*before, name + name[-1])
    assert f"'{name}'" in said.partition("Did you mean")[2], said


def test_a_sentence_has_one_end() -> None:
    assert typed("list", "--quee", "a") == (
        "wheeltimer: No such option '--quee'. Did you mean '--queue'? Try `wheeltimer list --help`.\n"
    )
    assert "Try `wheeltimer list --help`." in typed("list", "--nothing-like-it")
