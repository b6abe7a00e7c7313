"""docs/llm: links lead somewhere, and recipes, options and commands that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reinforge.cli.application import VERBS
from reinforge.recipe import shipped

PAGES = sorted((Path(__file__).parents[2] / "docs" / "llm").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target.partition("#")[0]).resolve().exists(), target
    verbs = {verb.__name__ for verb, _purpose in VERBS}
    assert set(re.findall(r"^ +reinforge (\w+)", text, re.MULTILINE)) <= verbs
    names = {recipe.name for recipe in shipped()}
    assert set(re.findall(r"reinforge train ([a-z][\w-]+)(?![\w.-])", text)) <= names
