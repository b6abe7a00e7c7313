"""The lesson's program: its switches do what the page says, and its seeds share nothing."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest

from benchmarks.from_the_guide import STAGES, Switches, figure, learn, table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "rl" / "from-the-guide.md"


def test_each_stage_is_the_one_before_and_one_repair() -> None:
    stages = list(STAGES.values())
    assert stages[0] == Switches()
    for number, (before, after) in enumerate(itertools.pairwise(stages)):
        names = [field.name for field in dataclasses.fields(Switches)]
        assert dataclasses.replace(before, **{names[number]: True}) == after


@pytest.mark.parametrize("name", ["as printed", "schedule"])
def test_seeds_that_learn_side_by_side_share_nothing(name: str) -> None:
    alone, (first, second) = learn(STAGES[name], 1, 1_100)[0], learn(STAGES[name], 2, 1_100)
    assert first["training"][:20] == alone["training"][:20]
    assert first["training"] != second["training"]


def test_table_and_figure_have_every_stage() -> None:
    found = {name: [{"greedy": [10.0, 20.0], "training": [9.0] * 60}] * 2 for name in STAGES}
    assert all(name in table(found) for name in STAGES)
    drawn = figure(found)
    assert drawn.count("<svg") == 1 + len(STAGES)
    assert "var(" not in drawn


def test_the_page_tells_of_every_stage_and_shows_the_figure() -> None:
    text = PAGE.read_text("utf-8")
    rows = re.findall(r"^\| \+? ?([a-z ]+?) \| \d", text, re.MULTILINE)
    assert rows == list(STAGES)
    assert (PAGE.parent / "from-the-guide.svg").read_text("utf-8").startswith("<svg xmlns")
