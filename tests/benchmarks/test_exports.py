"""The tables of exports: every recipe is in them, and a figure that is missing says why."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import exports
from reinforge import recipe as recipes
from reinforge.recipe.loading import SHIPPED


def test_every_recipe_that_ships_is_measured_or_left_out_with_a_reason() -> None:
    shipped = {path.stem for path in SHIPPED.glob("*.yaml")}
    assert {*exports.recipes(), *exports.LEFT_OUT} == shipped
    assert {*exports.WHOLE, *exports.START, *exports.START.values(), *exports.OTHER_DATA} <= shipped


@pytest.mark.parametrize("name", ["arithmetic-grpo", "lunarlander-dqn", "reviews", "char-lm"])
def test_a_few_updates_of_each_stage(name: str) -> None:
    told: Any = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text("utf-8"))
    short = exports.shortened(told)
    recipes.load(short)
    for part in [short, *short.get("stages", [])]:
        assert part["learn"]["stop"] == {"updates": exports.UPDATES}


def test_what_the_tables_say() -> None:
    rows = [
        exports.Row("penguins", "whole", {"onnx": 1e-6, "torch-export": 0.0, "executorch": "no operation"},
                    {"torch": 0.2, "onnxruntime": 0.05, "int8": 0.21}, "", {}),
        exports.Row("char-lm", "20 updates", {"onnx": 2e-6, "huggingface": 3e-6, "gguf": "no tokenizer"}, {}, "", {}),
        exports.Row("chat", "20 updates", {"executorch": "no operation"}, {}, "", {}),
    ]  # fmt: skip
    text = exports.tables(rows)
    assert "| penguins | whole | 1.0e-06 | 0.0e+00 | refused | 0.200 |  | 0.050 |  |  | 0.210 |" in text
    assert "| char-lm | 3.0e-06 | refused |  |" in text
    assert "- executorch of penguins, chat: no operation." in text
    assert "Not measured yet: acrobot-dqn, " in text
    assert "| penguins | " in text.split("\n\n")[0]
    assert "penguins" not in text.split("\n\n")[1], "it is no language model"


def test_the_page_is_written_and_what_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    row = exports.Row("wine", "whole", {"onnx": 1e-6}, {"torch": 0.2}, exports.digest("wine"), exports.versions())
    (tmp_path / "wine.json").write_text(json.dumps(asdict(row)))
    assert exports.kept(tmp_path, "wine") == row
    assert exports.complete(row, False)
    assert not exports.complete(row, True), "it was not compiled"
    for stale in (replace(row, versions={}), replace(row, digest="of another recipe")):
        (tmp_path / "penguins.json").write_text(json.dumps(asdict(stale)))
        assert exports.kept(tmp_path, "penguins") is None
    assert exports.digest("chat-lora") != exports.digest("chat-sft")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{exports.BEGIN}\nold\n{exports.END}\nafter\n")
    exports.write(tmp_path, page)
    exports.write(tmp_path, page)
    text = page.read_text()
    assert text.startswith(f"before\n{exports.BEGIN}\n\n| recipe |")
    assert text.endswith(f"{exports.END}\nafter\n")
    assert "old" not in text
    assert text.count("| wine | whole | 1.0e-06 |") == 1
