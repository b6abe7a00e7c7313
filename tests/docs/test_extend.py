"""docs/extend.md: its file of components is loaded as --use loads it, and its recipes train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reinforge import recipe as recipes
from reinforge.registry import REGISTRY
from reinforge.workflow.train import train

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    *components, script = blocks("python")
    folder = tmp_path_factory.mktemp("extend")
    (folder / "mine.py").write_text("\n".join(components), "utf-8")
    (folder / "script.py").write_text("\n".join([*components[:1], "import numpy as np", script]), "utf-8")
    for text in blocks("yaml"):
        name = re.search(r"^name: (\w+)", text)
        assert name
        (folder / f"{name[1]}.yaml").write_text(text, "utf-8")
    return folder


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> object:
    list(REGISTRY.kinds())
    before = dict(REGISTRY._components)
    yield
    REGISTRY._components.clear()
    REGISTRY._components.update(before)


def test_a_recipe_trains_with_components_of_ones_own(mine: Path, tmp_path: Path) -> None:
    run = train(mine / "mine.yaml", use=[mine / "mine.py"], output=tmp_path / "run")
    assert run.finished
    assert "test/median-error" in run.metrics
    rows = list(run.log())
    assert any("model/size" in row for row in rows)
    assert [c.name for c in REGISTRY.all("source") if c.name == "bootstrap"]
    assert str((mine / "mine.py").resolve()) in run.recipe.use
    # An augmentation and an environment of the same file.
    plain = train(mine / "jittered.yaml", output=tmp_path / "plain", overrides=["source.augment=[]"])
    jittered = train(mine / "jittered.yaml", output=tmp_path / "jittered")
    assert plain.metrics["train/loss"] != jittered.metrics["train/loss"]
    run = train(mine / "corridor.yaml", output=tmp_path / "corridor")
    assert run.metrics["final/return"] == 1.0


def test_without_the_file_the_error_tells_what_is_missing(mine: Path) -> None:
    with pytest.raises(recipes.loading.RecipeError, match="waves"):
        recipes.load(mine / "mine.yaml")


def test_a_module_of_ones_own_trains_from_python(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine / "script.py"
    exec(compile(path.read_text("utf-8"), str(path), "exec"), {"__name__": "script"})
    r2, prediction = capsys.readouterr().out.splitlines()
    assert float(r2) <= 1.0
    assert "'y': {'value':" in prediction
