"""KEY=VALUE: types, kinds, lists, order, errors."""

from __future__ import annotations

import itertools

import pytest

from reinforge import recipe
from reinforge.errors import RecipeError
from reinforge.recipe import Recipe
from tests.recipe.conftest import Lamp, Room, Torch

HOUSE = {
    "data": "lamp",
    "model": {"kind": "room", "light": {"kind": "lamp", "watts": 3}},
    "objective": {"kind": "lamp", "watts": 2, "shades": [1, 2]},
    "learn": {"optimizer": {"kind": "sgd", "momentum": 0.5}},
}


def load(*overrides: str) -> Recipe:
    return recipe.load(HOUSE, overrides)


def test_values_are_yaml() -> None:
    loaded = load(
        "learn.lr=3e-4", "learn.compile=on", "learn.clip=null", "objective.shades=[4, 5]", "name=a=b".replace("=b", "b")
    )
    assert (loaded.learn.lr, loaded.learn.compile, loaded.learn.clip) == (3e-4, "on", None)
    assert isinstance(loaded.learn.lr, float)
    assert loaded.objective == Lamp(watts=2, shades=(4, 5))
    assert loaded.name == "ab"


def test_another_kind_drops_the_old_options_and_the_same_keeps_them() -> None:
    assert load("model.light.kind=torch", "model.light.batteries=1").model == Room(light=Torch(batteries=1))
    assert load("model.light.kind=lamp").model == Room(light=Lamp(watts=3))
    assert load("model.light=lamp").model == Room(light=Lamp())
    assert load("model.light={kind: torch, batteries: 5}").model == Room(light=Torch(batteries=5))


def test_a_component_written_as_its_name_takes_options() -> None:
    assert load("data.watts=9").data == Lamp(watts=9)


def test_options_of_what_stands_there_by_default_need_no_kind() -> None:
    house = {**HOUSE, "model": "room"}
    assert recipe.load(house, ["model.light.watts=9"]).model == Room(light=Lamp(watts=9))
    assert recipe.load({**house, "model": {"kind": "room", "light": {"watts": 9}}}).model == Room(light=Lamp(watts=9))
    with pytest.raises(RecipeError, match=r"model.light.wats: there is no such key\n  Did you mean 'watts'\?"):
        recipe.load(house, ["model.light.wats=9"])
    with pytest.raises(RecipeError, match=r"model.light.batteries: there is no such key"):
        recipe.load(house, ["model.light.batteries=9"])


def test_the_order_never_loses_one() -> None:
    overrides = ["model.light=lamp", "model.light.kind=torch", "model.light.batteries=3", "learn.lr=1", "learn.lr=2"]
    for order in itertools.permutations(overrides[:3]):
        assert load(*order).model == Room(light=Torch(batteries=3))
    assert load(*overrides).learn.lr == 2


def test_a_mapping_of_dotted_keys() -> None:
    assert recipe.load(HOUSE, {"learn.lr": 0.25, "data": Lamp(watts=1)}).data == Lamp(watts=1)


def test_list_items_go_by_index() -> None:
    assert load("objective.shades.1=7").objective == Lamp(watts=2, shades=(1, 7))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learn.lr", "override 'learn.lr': an override is written KEY=VALUE"),
        ("=3", "an override is written KEY=VALUE"),
        ("learn..lr=3", "an override is written KEY=VALUE"),
        ("learn.lr=abc", "override 'learn.lr=abc': learn.lr: it must be a number, not 'abc'"),
        ("learn.lr=[1", "override 'learn.lr=[1': this is no YAML"),
        ("learn.lrr=1", "learn.lrr: there is no such key\n  Did you mean 'lr'?"),
        ("lern.lr=1", "lern: there is no such key\n  Did you mean 'learn'?"),
        ("objective.watts.deep=1", "objective.watts: it is no section, so it has no key 'deep'"),
        ("objective.shades.5=1", "objective.shades: the list has no item '5'\n  Known: 0, 1."),
        ("objective.kind=lmp", "there is no objective called 'lmp'\n  Did you mean 'lamp'?"),
        ("learn.schedule.floor=0.5", "learn.schedule: it needs a schedule, by name or with its name under 'kind'"),
        ("model=null", "model: it needs a model"),
    ],
)
def test_errors_name_the_override(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(override)
    assert said in str(caught.value)
