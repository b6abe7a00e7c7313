"""The table of presets: what is cached, what makes it stale, what it says. One short run is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import trim_mean

import reinforge
from benchmarks import rl_table as table
from reinforge import recipe as recipes
from reinforge.recipe.loading import SHIPPED

SAID = table.recipe_digest("cartpole-dqn", table.PRESETS["cartpole-dqn"])


def result(
    seed: int, value: float, *, name: str = "cartpole-dqn", said: str = SAID, who: str = "reinforge"
) -> table.Result:
    return table.Result(name, who, seed, said, "0.1.0", value, 1.0, None, 1000, 60.0, 30.0, {"torch": "2"})


def test_every_recipe_of_an_environment_is_a_preset() -> None:
    names = {each.name for each in recipes.shipped() if recipes.load(each.name).data.kind == "environment"}  # type: ignore[attr-defined]
    assert names == set(table.PRESETS | table.LONG)


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cache, trained = table.Cache(tmp_path), []

    def works(until: int) -> list[table.Work]:
        def run(seed: int) -> table.Result | None:
            trained.append(seed)
            return result(seed, 500.0) if seed < until else None

        return [
            table.Work("cartpole-dqn", "reinforge", seed, SAID, "0.1.0", lambda s=seed: run(s)) for seed in range(5)
        ]

    told: list[table.Result] = []
    assert not table.fill(cache, works(until=2), told.append)
    assert trained == [0, 1, 2]
    assert [each.seed for each in told] == [0, 1]
    assert table.fill(cache, works(until=5), told.append)
    assert trained == [0, 1, 2, 2, 3, 4]
    assert table.fill(cache, works(until=5), told.append)
    assert len(trained) == 6
    assert cache.newest("cartpole-dqn", "reinforge", SAID) == [result(seed, 500.0) for seed in range(5)]
    assert not table.fill(table.Cache(tmp_path / "other"), works(until=5), told.append, until=0.0)
    assert len(trained) == 6


def test_a_changed_recipe_is_trained_anew(tmp_path: Path) -> None:
    preset = table.PRESETS["cartpole-dqn"]
    text = (SHIPPED / "cartpole-dqn.yaml").read_text("utf-8")

    def said(changed: str, preset: table.Preset = preset) -> str:
        (tmp_path / "cartpole-dqn.yaml").write_text(changed)
        return table.recipe_digest("cartpole-dqn", preset, tmp_path)

    assert said(text) == SAID
    assert said("# another comment\n" + text.replace("seed: 0", "seed: 7")) == SAID
    assert said(text.replace("gamma: 0.98", "gamma: 0.97")) != SAID
    assert said(text, preset._replace(overrides=("learn.stop.updates=1",))) != SAID
    cache = table.Cache(tmp_path / "cache")
    cache.put(result(0, 100.0, said=said(text.replace("gamma: 0.98", "gamma: 0.97"))))
    assert cache.get("cartpole-dqn", "reinforge", 0, SAID, "0.1.0") is None
    assert cache.newest("cartpole-dqn", "reinforge", SAID) == []
    cache.put(result(0, 500.0))
    assert [each.value for each in cache.newest("cartpole-dqn", "reinforge", SAID)] == [500.0]
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1, "what is stale goes"


def test_another_version_is_trained_anew_and_shown_until_then(tmp_path: Path) -> None:
    cache = table.Cache(tmp_path)
    for seed in range(2):
        cache.put(replace(result(seed, 400.0), version="0.9.0"))
    assert cache.get("cartpole-dqn", "reinforge", 0, SAID, "0.10.0") is None
    assert len(cache.newest("cartpole-dqn", "reinforge", SAID)) == 2
    cache.put(replace(result(0, 500.0), version="0.10.0"))
    assert [each.value for each in cache.newest("cartpole-dqn", "reinforge", SAID)] == [500.0]


def test_the_peer_is_kept_by_its_version_and_its_settings(tmp_path: Path) -> None:
    preset = table.PRESETS["halfcheetah-sac"]
    chosen = {"halfcheetah-sac": preset}
    pytest.importorskip("stable_baselines3")
    works = list(table.work(chosen, 2, True, tmp_path))
    assert [(each.who, each.seed) for each in works] == [("reinforge", 0), ("reinforge", 1), ("sb3", 0), ("sb3", 1)]
    assert works[2].version == table.version("stable-baselines3")
    assert [each.who for each in table.work(chosen, 2, False, tmp_path)] == ["reinforge", "reinforge"]
    peer = preset.peer
    assert peer is not None
    assert works[2].digest == table.digest(peer) != table.digest(peer._replace(steps=7))


def test_what_the_page_says(tmp_path: Path) -> None:
    cache = table.Cache(tmp_path)
    values = [480.0, 500.0, 500.0, 499.0, 90.0]
    for seed, value in enumerate(values):
        cache.put(result(seed, value))
    page = table.page(cache)
    (row,) = [line for line in page.splitlines() if line.startswith("| `cartpole-dqn`")]
    assert f"| {trim_mean(values, 0.25):.1f} |" in row
    assert "missed" in row
    assert "| 1,000 | 1.0 | 0.5 |" in row
    assert "480.0, 500.0, 500.0, 499.0, 90.0" in row
    assert "reinforge train cartpole-dqn --seeds 5" in row
    assert "Not measured yet" in page
    assert "`acrobot-ppo`" in page
    peer = table.PRESETS["hopper-sac"].peer
    own = table.recipe_digest("hopper-sac", table.PRESETS["hopper-sac"])
    for seed in range(2):
        cache.put(result(seed, 900.0 + seed, name="hopper-sac", said=own))
        cache.put(replace(result(seed, 800.0, name="hopper-sac", said=table.digest(peer), who="sb3"), version="2.9"))
    page = table.page(cache)
    ours, theirs = [line for line in page.splitlines() if line.startswith("| `hopper-sac`")]
    assert "| ours | 900.5 | 900.0 to 901.0 | reached so far |" in ours
    assert "| SB3 2.9 | 800.0 |" in theirs
    told = {row["name"]: row for row in table.rows(cache)}
    assert told["rl/hopper-sac"]["ratio"] == pytest.approx(900.5 / 800, abs=1e-3)
    assert told["rl/cartpole-dqn"]["verdict"] == "missed"


@pytest.mark.parametrize(
    ("values", "target", "said"),
    [
        ([-80.0] * 5, -81.0, "reached"),
        ([-80.0] * 5, -79.0, "missed"),
        ([-70.0, -70.0, -70.0, -70.0, -99.0], -75.0, "mean only"),
        ([-80.0] * 3, -81.0, "reached so far"),
        ([-70.0] * 5, None, ""),
    ],
)
def test_the_verdict(values: list[float], target: float | None, said: str) -> None:
    assert table.verdict(table.summary([result(i, v) for i, v in enumerate(values)]), target) == said


def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = table.Preset(None, ("learn.stop={updates: 64}", "evaluate={final: 2}", "source.learning_starts=200"))
    whole = table.ours("cartpole-dqn", preset, 3, tmp_path / "whole")
    assert whole is not None
    assert (whole.seed, whole.digest) == (3, table.recipe_digest("cartpole-dqn", preset))
    assert whole.processor is not None
    assert list((tmp_path / "whole").iterdir()) == []
    real = reinforge.train

    def stopped(*given: object, **named: object) -> object:
        run = real(*given, **named)  # type: ignore[arg-type]
        shutil.rmtree(run.folder / "bundle")
        run.write_status(state="interrupted")
        return run

    monkeypatch.setattr(reinforge, "train", stopped)
    assert table.ours("cartpole-dqn", preset, 3, tmp_path) is None
    monkeypatch.setattr(reinforge, "train", real)
    gone_on = table.ours("cartpole-dqn", preset, 3, tmp_path)
    assert gone_on is not None
    assert (gone_on.value, gone_on.steps) == (whole.value, whole.steps)


def test_the_page_is_current() -> None:
    assert table.PAGE.read_text("utf-8") == table.page(table.Cache(table.RESULTS)), f"run: {table.COMMAND} --page"


def test_what_is_cached_can_be_read() -> None:
    for path in table.RESULTS.rglob("*.json"):
        each = table.Result(**json.loads(path.read_text("utf-8")))
        assert path == table.Cache(table.RESULTS).path(each.preset, each.who, each.seed, each.digest, each.version)
