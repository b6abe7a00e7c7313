"""Bundles of whatever kind behind HTTP: the server's answers are those of `Bundle.predict`."""

import json
import math
from importlib import resources

import httpx
import numpy as np
import pytest

import reinforge
from reinforge.bundle import golden
from reinforge.errors import MissingExtra, ReinforgeError
from reinforge.models.classic.options import ForestOptions
from reinforge.models.decoder import Decoder
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from tests.export import everything
from tests.serving.test_embeddings import by_hand

RECIPES = sorted(each.name.removesuffix(".yaml") for each in resources.files("reinforge.recipes").iterdir())
# A model of 124 million weights, and games that take hours until the first update.
LARGE = {"gpt2-124m", "pong-dqn"}
SMALL = {"sizes": (8,)}
KINDS = {
    "everything": everything.table,
    "forest": lambda path: everything.table(path, ForestOptions(trees=3), image=False, text=False),
    "discrete": lambda path: everything.policy(path, QNetworkOptions(**SMALL)),
    "multi-discrete": lambda path: everything.policy(path, ActorCriticOptions(**SMALL), action="multi-discrete"),
    "continuous": lambda path: everything.policy(path, SquashedGaussianOptions(**SMALL), action="continuous"),
    "frames": lambda path: everything.policy(path, SquashedGaussianOptions(frames=3, **SMALL), action="continuous"),
    "memory": lambda path: everything.policy(path, ActorCriticOptions(memory=MemoryOptions(size=8), **SMALL)),
    "images": lambda path: everything.policy(path, QNetworkOptions(**SMALL), image=True),
}


def same(one, other):
    """Equal to rounding: rows are computed with whoever asks at the same time."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-5)
    return one == other


def check(bundle):
    """All golden rows, together and one by one; of a policy with a memory an episode."""
    rows = [json.loads(json.dumps(record["row"])) for record in golden.read(bundle.folder.bytes(golden.NAME, 1 << 30))]
    with Server({"it": bundle}, listen("127.0.0.1", 0)).background() as url, httpx.Client(timeout=120) as client:

        def ask(rows):
            answer = client.post(f"{url}/v1/models/it/predict", json={"rows": rows})
            assert answer.status_code == 200, answer.text
            return answer.json()["predictions"]

        if isinstance(bundle.model, Decoder) and not bundle.model.options.causal:
            # It writes nothing; its vectors are what it is asked for (tests/serving/test_embeddings.py).
            asked = {"model": "it", "input": [row["text"] for row in rows]}
            answer = client.post(f"{url}/v1/embeddings", json=asked)
            assert answer.status_code == 200, answer.text
            for row, one in zip(rows, answer.json()["data"], strict=True):
                # Both in bf16, whose sums depend on who is computed beside it.
                assert np.dot(one["embedding"], by_hand(bundle, row["text"])) > 0.999
            return
        expected = json.loads(json.dumps(bundle.predict(rows)))
        assert same(ask(rows), expected)
        for row, one in list(zip(rows, expected))[:8]:
            assert same(ask([row]), [one])
        memory = None
        for row in rows if "memory" in expected[0].get("action", {}) else ():
            given = row if memory is None else {**row, "memory": memory}
            (found,), (known,) = ask([given]), bundle.predict([given])
            assert same(found, json.loads(json.dumps(known)))
            memory = found["action"]["memory"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bundle(tmp_path, kind):
    check(KINDS[kind](tmp_path / kind))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in LARGE])
def test_every_recipe(tmp_path, name):
    """Trained for a moment: what it has learned does not matter here."""
    try:
        bundle = reinforge.train(name, overrides=["learn.stop.seconds=2"], output=tmp_path / "run").bundle_path
    except MissingExtra as error:
        pytest.skip(str(error))
    except ReinforgeError as error:
        if not any(told in str(error) for told in ("start", "no such file", "no data are given")):
            raise
        pytest.skip(f"it begins with what only another training makes: {error}")
    check(reinforge.load(bundle))
