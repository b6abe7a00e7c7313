"""Every error names file, line and key, and how to mend it; several are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from reinforge import recipe
from reinforge.errors import RecipeError
from tests.recipe.conftest import TEXT


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    file = tmp_path / "house.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(file, overrides)
    assert caught.value.exit_status == 2
    return str(caught.value).replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 3", "sead: 3", "house.yaml:2: sead: there is no such key\n  Did you mean 'seed'?"),
        ("seed: 3", "seed: three", "house.yaml:2: seed: it must be a whole number, not 'three'"),
        ("seed: 3", "seed: -1", "house.yaml:2: seed: it must be at least 0, not -1"),
        ("seed: 3", "name: 3", "house.yaml:2: name: it must be text, not 3\n  Put it in quotes: \"3\""),
        ("seed: 3", "name: ../up", "house.yaml:2: name: '../up' does not have the form"),
        ("watts: 7", "wats: 7", "house.yaml:9: objective.wats: there is no such key\n  Did you mean 'watts'?"),
        ("watts: 7", "watts: .inf", "house.yaml:9: objective.watts: it must be a finite number"),
        ("batteries: 2", "cells: 2", "house.yaml:6: model.light.batteries: it is missing"),
        ("kind: torch", "kind: tork", "house.yaml:6: model.light.kind: there is no light called 'tork'\n"
                                      "  Did you mean 'torch'?"),
        ("kind: torch", "kind: 3",
         "house.yaml:6: model.light: it needs a light, by name or with its name under 'kind'\n  Known: lamp, torch."),
        ("{kind: torch, batteries: 2}", "torch", "house.yaml:6: model.light.batteries: it is missing"),
        ("{kind: torch, batteries: 2}", "3", "house.yaml:6: model.light: it needs a light"),
        ("momentum: 0.9", "momentun: 0.9",
         "learn.optimizer.momentun: there is no such key\n  Did you mean 'momentum'?"),
        ("  kind: room", "  kind: room\n  size: big", "house.yaml:6: model.size: it must be a number, not 'big'; or it "
                                                      "must be one of 'auto', not 'big'"),
        ("  kind: room", "  kind: room\n  more: {a: {kind: lamp, wats: 1}}", "house.yaml:6: model.more.a.wats: there is"
                                                                           " no such key\n  Did you mean 'watts'?"),
        ("data: lamp", "data:\n  kind: lamp\n  shades: [1, 2,\n    x]",
         "house.yaml:6: data.shades.2: it must be a whole"),
        ("data: lamp", "data: {kind: lamp, shades: []}", "house.yaml:3: data.shades: it needs at least 1 item"),
        ("data: lamp\n", "", "house.yaml: data: it is missing"),
        ("learn:\n", "learn: 3\nlog:\n", "house.yaml:10: learn: it must be a section with keys, not 3"),
        ("seed: 3", "seed: 3\nseed: 4", "house.yaml:3: seed: this key stands twice\n  It stands in line 2 already."),
        ("seed: 3", "seed: [3", "house.yaml:"),
        ("seed: 3", "seed: &a 3\nname: *a", "house.yaml:3: this is no YAML: aliases are not allowed"),
        ("seed: 3", "seed: !!python/object:os.system x", "house.yaml:2: seed: tags such as"),
        ("seed: 3", "seed: !!int x", "house.yaml:2: seed: invalid literal"),
        ("seed: 3", "? [a]\n: 3", "house.yaml:2: a key must be text"),
        ("seed: 3", "seed: " + "[" * 70 + "]" * 70, "it is nested too deeply"),
        ("seed: 3", "seed: " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
        (TEXT, "", "house.yaml: it is empty"),
        (TEXT, "- a", "house.yaml:1: a recipe is made of sections"),
        (TEXT, TEXT + "---\na: 1", "this is no YAML: but found another document"),
        (TEXT, "x: " + "y" * 1_000_001, "house.yaml: it is too long"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    assert said in message(tmp_path, TEXT.replace(old, new))


def test_a_list_with_a_wrong_item_is_not_called_short_as_well(tmp_path: Path) -> None:
    text = TEXT.replace("data: lamp", "data: {kind: lamp, shades: [x]}")
    assert message(tmp_path, text) == "house.yaml:3: data.shades.0: it must be a whole number, not 'x'"


def test_the_kind_of_a_split_is_one_that_there_is(tmp_path: Path) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(
        "data: {kind: table, path: a.csv, targets: [y],\n  split: {kind: strat}}\nmodel: composed\n"
        "objective: supervised\nlearn: {stop: {epochs: 1}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    expected = "'random', 'stratified', 'group', 'time', 'given', 'folds'"
    assert str(caught.value).endswith(f"birds.yaml:2: data.split.kind: it must be one of {expected}, not 'strat'")


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("seed: 3", "seed: x").replace("watts: 7", "watts: -7").replace("lr: 3e-4", "rl: 3e-4")
    lines = message(tmp_path, text, "learn.batch=0").splitlines()
    assert lines[0] == "house.yaml: 4 problems"
    assert sorted(line.split(": it")[0].split(": there")[0].strip() for line in lines[1:]) == [
        "house.yaml:11: learn.rl",
        "house.yaml:2: seed",
        "house.yaml:9: objective.watts",
        "override 'learn.batch=0': learn.batch",
    ]


def test_what_stages_inherit_is_told_once(tmp_path: Path) -> None:
    text = TEXT.replace("seed: 3", "sed: 3") + "stages:\n- name: a\n- name: b\n  learn: {lr: x}\n"
    lines = message(tmp_path, text).splitlines()
    assert lines[1:] == [
        "  house.yaml:2: sed: there is no such key. Did you mean 'seed'?",
        "  house.yaml:16: stages.1.learn.lr: it must be a number, not 'x'",
    ]


def test_options_of_another_kind_are_refused() -> None:
    from tests.recipe.conftest import Room

    with pytest.raises(RecipeError, match="Room are no registered options of a data"):
        recipe.load({"data": Room(), "model": "room", "objective": "lamp"})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe called 'nonesuch'"):
        recipe.load("nonesuch")
    with pytest.raises(RecipeError, match="there is no such file"):
        recipe.load(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="it is a folder"):
        recipe.load(tmp_path)
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecipeError, match=r"mine\.csv: this is a table, not a recipe\n  .*path: mine\.csv"):
        recipe.load(tmp_path / "mine.csv")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match=r"latin\.yaml: it is no UTF-8 text"):
        recipe.load(tmp_path / "latin.yaml")


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "penguins.yaml").write_text("# Penguins.\nname: p\n")
    monkeypatch.setattr("reinforge.recipe.loading.SHIPPED", tmp_path)
    for near in ("pengins", "recipes/pengins.yaml"):
        with pytest.raises(RecipeError, match="Did you mean 'penguins'"):
            recipe.load(near)
    with pytest.raises(RecipeError, match=r"Known: penguins\."):
        recipe.load("zzz")
