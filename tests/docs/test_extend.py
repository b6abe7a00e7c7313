"""docs/extend.md: its file of components is loaded as --use loads it, and its recipes train."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


def test_layers_of_ones_own(mine: Path) -> None:
    names = runpy.run_path(str(mine / "mine.py"))
    assert names["check"]()
    assert REGISTRY.find("body", "settle").options.__name__ == "SettleOptions"
    torch.manual_seed(0)
    body = names["Settle"](names["SettleOptions"](tolerance=1e-3), 3)
    with torch.no_grad():
        body.enter.bias.zero_()
    x = torch.cat([torch.zeros(1, 3), torch.randn(4, 3) * 3])
    calls: list[int] = []
    body.again.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    rows, _ = body(x)
    # Fewer and fewer rows go on moving, and a row's result is its own.
    assert calls[0] == 5
    assert calls == sorted(calls, reverse=True)
    assert calls[-1] < 5
    torch.testing.assert_close(body(x[2:3])[0], rows[2:3])
    encoder = names["Ranks"](names["RanksOptions"](), names["Input"](form="numbers", shape=(2,)))
    seen = torch.rand(1000, 2)
    encoder.observe(seen)
    torch.testing.assert_close(encoder(seen), seen, atol=0.1, rtol=0)
    # It is told which rows those are by the training itself.
    overrides = ["model.encoders.numbers=ranks", "learn.stop.epochs=1"]
    run = train(mine / "mine.yaml", use=[mine / "mine.py"], overrides=overrides, output=mine / "ranks")
    assert run.bundle_path is not None
    weights = load_file(run.bundle_path / "weights.safetensors")
    assert any(
        name.endswith("numbers.edges") and bool(value.diff(dim=0).gt(0).all()) for name, value in weights.items()
    )


def test_without_the_file_the_error_tells_what_is_missing(mine: Path) -> None:
    with pytest.raises(recipes.loading.RecipeError, match="waves"):
        recipes.load(mine / "mine.yaml")


def test_a_module_of_ones_own_trains_from_python(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mine / "script.py"
    exec(compile(path.read_text("utf-8"), str(path), "exec"), {"__name__": "script"})
    r2, prediction = capsys.readouterr().out.splitlines()
    assert float(r2) <= 1.0
    assert "'y': {'value':" in prediction
