"""The recipes as pages: short, linked, and no command in them that no test runs."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.process.daemon import ROOT
from tests.recipes.conftest import ONCE, Open
from tests.recipes.world import FOLDER, Answer, Page
from wheeltimer.cli import main

INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")
LINES_MAX = {"python.md": 320}  # whole programs
PROGRAMS = ("python.md",)  # their commands start servers: test_python.py
each_page = pytest.mark.parametrize("name", PAGES)


def test_every_page_is_in_the_index_and_the_index_is_found() -> None:
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", INDEX)) == PAGES
    assert "wheeltimer/docs/recipes/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "recipes/README.md" in (FOLDER.parent / "protocol.md").read_text(encoding="utf-8")


@each_page
def test_a_page_is_short_and_its_links_lead_somewhere(name: str) -> None:
    page = Page(name)
    assert page.text.count("\n") <= LINES_MAX.get(name, 120)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.text + INDEX):
        assert (FOLDER / link).exists(), link
    known = {"sh", "json", "text", "toml"} | ({"python"} if name in PROGRAMS else set())
    assert {kind for kind, _ in page.blocks} <= known
    assert page.text.count("```") == 2 * len(page.blocks), "a block that no test would find"


@ONCE
@pytest.mark.parametrize("name", [name for name in PAGES if name not in PROGRAMS])
def test_the_page_from_top_to_bottom(open_world: Open, name: str) -> None:
    """As a reader would: every block of commands, one after the other, while the receiver fails.

    What a command needs (a task that is dead) is there by then, or it says how many there were: 0.
    """
    world = open_world(Page(name))
    world.receiver.answers = {path: [Answer(410)] for path in ("/webhook", "/notify")}
    for block in world.page.of("sh"):
        assert world.shell(block)
        world.settle()


@each_page
def test_commands_in_the_text_are_commands(name: str) -> None:
    """`wheeltimer redrive order-42 --queue orders` in a sentence is parsed as the shell would give it."""
    text = re.sub(r"^```.*?^```$", "", Page(name).text, flags=re.DOTALL | re.MULTILINE)
    shown = re.findall(r"`(wheeltimer [^`]+)`", text)
    shown += [line[2:] for block in Page(name).of("text") for line in block.splitlines() if line[:2] == "$ "]
    for command in shown:
        _, word, *args = shlex.split(command)
        found = main.commands[word]
        found.make_context(word, args)
