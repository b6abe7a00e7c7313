"""Recipes: what they load to, and that they come back equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reinforge import recipe
from reinforge.errors import RecipeError
from reinforge.recipe import Recipe
from reinforge.recipe.yaml_form import read, read_value, write
from tests.recipe.conftest import TEXT, Lamp, Room, Torch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "house.yaml"
    path.write_text(TEXT)
    return path


def test_components_become_their_own_options(file: Path) -> None:
    loaded = recipe.load(file)
    assert loaded.name == "house"
    assert loaded.data == Lamp()
    assert loaded.model == Room(light=Torch(batteries=2))
    assert loaded.objective == Lamp(watts=7)
    assert loaded.learn.lr == 3e-4
    assert loaded.learn.optimizer is not None
    assert loaded.learn.optimizer.model_dump()["momentum"] == 0.9


def test_dump_loads_back_equal(file: Path, tmp_path: Path) -> None:
    loaded = recipe.load(file, ["model.more.hall=torch", "model.more.hall.batteries=4", "learn.steps.critic.lr=0.1"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(recipe.dump(loaded))
    assert recipe.load(resolved) == loaded
    assert recipe.load(loaded) == loaded
    # The resolved recipe says every option, so that a later default can't change what it means.
    assert yaml.safe_load(recipe.dump(loaded))["learn"]["stop"]["epochs"] == 10.0


@pytest.mark.parametrize("shipped", [entry.name for entry in recipe.shipped()])
def test_shipped_recipes_load_by_name_and_come_back_equal(shipped: str, tmp_path: Path) -> None:
    loaded = recipe.load(shipped)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(recipe.dump(loaded))
    assert recipe.load(resolved) == loaded
    assert next(entry.summary for entry in recipe.shipped() if entry.name == shipped)


def test_a_recipe_in_python_is_the_same(file: Path) -> None:
    built = {"data": Lamp(), "model": Room(light=Torch(batteries=2)), "objective": Lamp(watts=7)}
    written = recipe.load(file)
    assert recipe.load(built) == recipe.load({"data": "lamp", "model": written.model, "objective": written.objective})
    assert Recipe(data=Lamp(), model=Room(), objective=Lamp()) == recipe.load(
        {"data": "lamp", "model": "room", "objective": "lamp"}
    )


def test_loading_does_not_change_a_mapping_or_a_recipe() -> None:
    mapping = {"data": "lamp", "model": {"kind": "room"}, "objective": "lamp"}
    loaded = recipe.load(mapping, ["model.size=4"])
    assert mapping == {"data": "lamp", "model": {"kind": "room"}, "objective": "lamp"}
    again = recipe.load(loaded, ["model.size=5"])
    assert (loaded.model.model_dump()["size"], again.model.model_dump()["size"]) == (4, 5)


# Plain data of every scalar that YAML can mistake for another.
tricky = st.sampled_from(
    ["on", "no", "yes", "3e-4", "1_000", "0x10", "0o7", "null", "~", "", "true", ".inf", "2020-01-01", "1:30",
     "a: b", "- a",
     "#", "'", '"', "\n", " a", "012", "=", "<<", "*a", "&a", "!a", "@", "%", "中文", "\x85", "\ufeff", "é"]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | tricky | st.text()
keys = tricky | st.text()
data = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(keys, data, min_size=1, max_size=4))
def test_any_plain_data_survives_yaml(values: dict[str, object]) -> None:
    assert read(write(values), "x.yaml").data == values


@pytest.mark.parametrize("text", ["1", "-7", "0.5", "1e3", "true", "null", "[1, 2]", "{a: 1}", "plain", "'1'", "a b"])
def test_scalars_agree_with_pyyaml_where_both_versions_agree(text: str) -> None:
    # 1e3 is the one of these on which YAML 1.1 and 1.2 differ.
    assert read_value(text, "here") == (1000.0 if text == "1e3" else yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("on", "on"), ("no", "no"), ("50_000", 50000), ("0x1f", 31), ("010", 10), ("1:30", "1:30"),
     ("2020-01-01", "2020-01-01"), (".inf", float("inf")), ("-.inf", -float("inf")), ("+5", 5), (".5", 0.5), ("",
      None)],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read_back = read_value(text, "here")
    assert read_back == value
    assert type(read_back) is type(value)


def test_loading_imports_no_torch(file: Path) -> None:
    code = (
        "import sys; from reinforge import recipe; recipe.json_schema(); recipe.shipped()\n"
        "recipe.load({'data': {'kind': 'environment', 'id': 'x'}, 'model': 'composed', 'objective': 'supervised'})\n"
        "print([m for m in ('torch', 'polars', 'gymnasium', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


class TestStages:
    def recipe(self, *stages: dict[str, object]) -> dict[str, object]:
        return {
            "data": "lamp", "model": {"kind": "room", "size": 2}, "objective": {"kind": "lamp", "watts": 7},
            "learn": {"lr": 0.5, "optimizer": {"kind": "sgd", "momentum": 0.9}}, "stages": list(stages),
        }  # fmt: skip

    def test_a_stage_is_the_whole_with_its_part_laid_over(self) -> None:
        loaded = recipe.load(self.recipe({"name": "a"}, {"name": "b", "learn": {"lr": 0.25}, "seed": 4}))
        first, second = loaded.stages
        assert first.learn == loaded.learn
        assert (second.name, second.seed, second.learn.lr) == ("b", 4, 0.25)
        assert second.learn.optimizer == loaded.learn.optimizer
        assert second.stages == ()

    def test_another_kind_drops_the_options_of_the_one_before(self) -> None:
        adam = {"kind": "adam", "eps": 1e-3}
        loaded = recipe.load(self.recipe({"name": "a", "learn": {"optimizer": adam}, "objective": "lamp"}))
        assert loaded.stages[0].learn.optimizer is not None
        assert loaded.stages[0].learn.optimizer.model_dump()["eps"] == 1e-3
        assert loaded.stages[0].objective == Lamp()

    def test_required_sections_may_stand_in_stages_alone(self) -> None:
        whole = {"model": "room", "stages": [{"name": "a", "data": "lamp", "objective": {"kind": "lamp", "watts": 2}}]}
        loaded = recipe.load(whole)
        assert loaded.stages[0].objective == loaded.objective == Lamp(watts=2)

    def test_they_come_back_equal(self, tmp_path: Path) -> None:
        more = {"name": "b", "model": {"light": {"kind": "torch", "batteries": 1}}, "learn": {"optimizer": None}}
        loaded = recipe.load(self.recipe({"name": "a"}, more), ["stages.b.learn.lr=1e-3", "stages.0.seed=9"])
        assert (loaded.stages[1].learn.lr, loaded.stages[0].seed) == (1e-3, 9)
        path = tmp_path / "resolved.yaml"
        path.write_text(recipe.dump(loaded))
        again = recipe.load(path)
        assert again == loaded
        assert recipe.load(again) == loaded

    def test_overrides_reach_what_stages_inherit(self) -> None:
        loaded = recipe.load(self.recipe({"name": "a"}), ["learn.lr=0.125"])
        assert loaded.stages[0].learn.lr == 0.125

    def test_names_are_needed_and_unique(self) -> None:
        with pytest.raises(RecipeError, match="a stage needs a name"):
            recipe.load(self.recipe({"seed": 1}))
        with pytest.raises(RecipeError, match="'a' stands twice"):
            recipe.load(self.recipe({"name": "a"}, {"name": "a"}))
        with pytest.raises(RecipeError, match="only the whole recipe"):
            recipe.load(self.recipe({"name": "a", "stages": []}))


class TestUserCode:
    CODE = """\
from typing import Literal
from reinforge.registry import Options, register

@register("light", "nowhere:build")
class Candle(Options):
    kind: Literal["candle"] = "candle"
    wicks: int = 1
"""

    def test_a_named_file_is_imported_once_and_recorded(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.py"
        file.write_text(self.CODE)
        house = {"data": "lamp", "model": {"kind": "room", "light": "candle"}, "objective": "lamp"}
        with pytest.raises(RecipeError, match="no light called 'candle'"):
            recipe.load(house)
        loaded = recipe.load(house, use=[file])
        assert loaded.use == (str(file),)
        assert recipe.load(house, use=[file]) == loaded
        again = recipe.load(loaded)
        assert again == loaded

    def test_a_recipe_never_loads_code_itself(self, tmp_path: Path) -> None:
        file = tmp_path / "evil.py"
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        house = {"data": "lamp", "model": {"kind": "room", "light": "evil"}, "objective": "lamp", "use": [str(file)]}
        with pytest.raises(RecipeError) as caught:
            recipe.load(house)
        assert not (tmp_path / "ran").exists()
        assert f"--use {file}" in str(caught.value)

    def test_a_file_that_fails_is_named_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "broken.py"
        file.write_text("x = 1\nraise ValueError('boom')\n")
        with pytest.raises(RecipeError, match=r"broken\.py:2: ValueError: boom"):
            recipe.load({}, use=[file])
        file.write_text("x = (\n")
        with pytest.raises(RecipeError, match=r"broken\.py:1: SyntaxError"):
            recipe.load({}, use=[file])
        with pytest.raises(RecipeError, match="no such Python file"):
            recipe.load({}, use=[tmp_path / "absent.py"])


def test_data_say_which_model_and_objective_go_with_them() -> None:
    table = {"kind": "table", "targets": ["y"]}
    alone = recipe.load({"data": table})
    assert recipe.load({"data": table, "model": "composed", "objective": "supervised"}) == alone
    chosen = recipe.load({"data": table}, ["model.body.sizes=[4]"])
    assert chosen.model.model_dump()["body"]["sizes"] == (4,)
    staged = recipe.load({"data": table, "stages": [{"name": "a"}, {"name": "b", "data": {"drop": ["x"]}}]})
    assert [stage.model.model_dump()["kind"] for stage in staged.stages] == ["composed", "composed"]
    with pytest.raises(RecipeError, match=r"model: it is missing"):
        recipe.load({"data": {"kind": "environment", "id": "CartPole-v1"}})


@pytest.mark.parametrize(
    ("objective", "source", "kind"),
    [("supervised", {"augment": ["flip"]}, "loader"), ("dqn", {"capacity": 9}, "replay"),
     ({"kind": "curious", "of": "sac"}, {}, "replay"), ({"kind": "curious"}, {"steps": 4}, "rollout")],
)  # fmt: skip
def test_options_of_a_source_alone_are_those_of_what_the_objective_needs(
    objective: object, source: dict[str, object], kind: str
) -> None:
    loaded = recipe.load({"data": "lamp", "model": "room", "objective": objective, "source": source})
    assert loaded.source is not None
    assert loaded.source.model_dump()["kind"] == kind
    with pytest.raises(RecipeError, match="objective"):
        recipe.load({"data": "lamp", "model": "room", "objective": "nonesuch", "source": source})
