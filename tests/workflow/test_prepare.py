"""prepare and recipes: what they tell is what the data are, counted by hand."""

from __future__ import annotations

import csv
import importlib.resources
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reinforge.data.text import python_documentation
from reinforge.errors import DataError, RecipeError
from reinforge.workflow.columns import aligned
from reinforge.workflow.prepare import Preparation, prepare
from reinforge.workflow.recipes import recipes
from reinforge.workflow.train import train


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")


@pytest.fixture(scope="module")
def penguins() -> Preparation:
    return prepare("penguins")


def test_the_penguins_are_all_there(penguins: Preparation) -> None:
    source = importlib.resources.files("palmerpenguins") / "data" / "penguins.csv"
    with source.open(encoding="utf-8") as file:
        species = Counter(row["species"] for row in csv.DictReader(file))
    assert sum(penguins.sides.values()) == species.total()
    assert {label: sum(counts.values()) for label, counts in penguins.classes["species"].items()} == species
    for side, total in penguins.sides.items():
        assert sum(counts[side] for counts in penguins.classes["species"].values()) == total
    kinds = {f["name"]: (f["role"], f["kind"]) for f in penguins.fields}
    assert kinds["island"] == ("input", "category")
    assert kinds["body_mass_g"] == ("input", "number")
    assert kinds["species"] == ("target", "category")
    assert "year" not in kinds


def test_text_and_summary_tell_the_same(penguins: Preparation) -> None:
    text = penguins.text()
    assert json.loads(json.dumps(penguins.summary()))["sides"] == dict(penguins.sides)
    for wanted in ("# penguins", "Gentoo", "bill_length_mm", penguins.facts["digest"], f"{penguins.sides['train']}"):
        assert wanted in text


def test_it_speaks_chinese(penguins: Preparation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    headings = [line for line in penguins.text().splitlines() if line.startswith("## ")]
    assert headings == ["## 划分", "## 字段", "## species 的类别"]
    assert not {"train", "validation", "input", "digest:"} & set(penguins.text().split())


@pytest.mark.parametrize("name", ["card.json", "card.md"])
def test_output_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    found = prepare("linear-regression", output=path)
    written = path.read_text("utf-8")
    if name.endswith("json"):
        assert json.loads(written) == json.loads(json.dumps(found.summary()))
    else:
        assert written == found.text()


def test_doubts_are_told() -> None:
    rows = {
        "id": list(range(60)), "same": ["x"] * 60, "x": [0.1 * (i % 11) for i in range(60)],
        "y": ["a" if i % 3 else "b" for i in range(60)],
    }  # fmt: skip
    recipe = {"data": {"kind": "table", "targets": ["y"]}, "model": "composed", "objective": "supervised"}
    found = prepare(recipe, data=rows)
    assert any("'id'" in note for note in found.notes)
    assert any("'same'" in note for note in found.notes)
    assert "## Notes" in found.text()


def test_data_in_files_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("x,y\n1,a\n2\n", "utf-8")
    with pytest.raises(DataError, match="line 3"):
        prepare("penguins", [f"data.path={tmp_path / 'bad.csv'}", "data.targets=[y]", "data.drop=[]"])


def test_an_environment_is_told_with_what_chance_returns() -> None:
    recipe = {"data": {"kind": "environment", "id": "CartPole-v1"}, "model": "q-network", "objective": "dqn"}
    found = prepare(recipe)
    assert found.facts["vectorised_itself"]
    assert found.facts["random_episodes"] >= 20
    # Gymnasium's CartPole pays 1 a step; random pushes keep the pole up for about 22.
    assert 15 < found.facts["random_return"] < 35
    assert found.blocks["outputs"]["action"]["size"] == 2


def test_continuous_actions_are_drawn_within_their_bounds() -> None:
    recipe = {
        "data": {"kind": "environment", "id": "Pendulum-v1", "count": 2},
        "model": "q-network",
        "objective": "dqn",
    }
    found = prepare(recipe)
    # Pendulum pays between -16.3 and 0 a step, 200 steps an episode.
    assert -3300 < found.facts["random_return"] < 0


def test_a_text_is_told_with_its_vocabulary() -> None:
    found = prepare({"data": "text", "model": "decoder", "objective": "language"})
    text = python_documentation()
    assert sum(found.sides.values()) == len(text)
    cut = found.sides["train"]
    assert found.facts["vocabulary"] >= len(set(text[:cut]))
    assert text.startswith(found.facts["sample"])


def test_shipped_recipes_are_listed_with_what_they_put_together() -> None:
    found = {recipe.name: recipe for recipe in recipes()}
    assert {"penguins", "linear-regression"} <= set(found)
    penguins = found["penguins"]
    assert (penguins.data, penguins.model, penguins.objective) == ("table", "composed", "supervised")
    assert penguins.summary
    assert "species" in penguins.text
    assert recipes("penguins") == penguins
    assert penguins.recipe.name == "penguins"
    with pytest.raises(RecipeError, match="penguins"):
        recipes("pinguins")


def test_columns_are_aligned_as_a_terminal_shows_them() -> None:
    assert aligned([("企鹅", "1"), ("ab", "22")], indent="") == ["企鹅  1", "ab    22"]
    assert aligned([]) == []
    assert np.char.str_len(aligned([("a", "b"), ("long", "c", "d")])).max() == len("    long  c  d")
    assert aligned([("a\nb", "c"), ("d\t", "e\r\n")], "") == [r"a\nb  c", r"d\t   e\r\n"]


def test_a_table_in_pieces_is_prepared_to_a_folder_and_learned_from(tmp_path: Path) -> None:
    rows = "".join(f"{i % 13},{'ab'[i % 13 > 6]},{i * 7919 % 1000}\n" for i in range(600))
    (tmp_path / "t.csv").write_text("x,y,z\n" + rows)
    recipe = {
        "data": {"kind": "table", "path": str(tmp_path / "t.csv"), "targets": ["y"], "stream": 100},
        "model": "composed", "objective": "supervised", "learn": {"stop": {"epochs": 1}},
    }  # fmt: skip
    for output in (None, tmp_path / "card.html"):
        with pytest.raises(RecipeError, match="written to a folder"):
            prepare(recipe, output=output)
    with pytest.raises(RecipeError, match="prepared before"):
        train(recipe, output=tmp_path / "no")
    found = prepare(recipe, output=tmp_path / "ready")
    assert sum(found.sides.values()) == 600
    assert "y" in (tmp_path / "ready" / "data-card.html").read_text("utf-8")
    whole = prepare({**recipe, "data": {**recipe["data"], "stream": None}})
    assert found.summary()["classes"] == whole.summary()["classes"]
    run = train(
        {**recipe, "data": {"kind": "table", "path": str(tmp_path / "ready"), "targets": ["y"]}}, output=tmp_path / "r"
    )
    assert run.finished
    assert run.bundle_path.exists()
