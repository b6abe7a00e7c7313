"""The supervised evaluator against scikit-learn, and the traces it must not leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch import nn
from torch.nn import functional

from reinforge.bundle.task import Reading
from reinforge.core.contracts import Clock, Term
from reinforge.core.seeds import random_state
from reinforge.engine.loop import Engine
from reinforge.evaluation.options import QuantileLossOptions
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.supervised import Supervised
from reinforge.recipe.sections import Evaluate, Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.loader import LoaderSource
from reinforge.sources.options import LoaderOptions

SIGNATURE = Signature(
    inputs={"numbers": Input(form="numbers", shape=(3,))},
    outputs={"v": Output(form="number", size=1), "c": Output(form="category", size=3)},
)
ALONE = Signature(inputs=SIGNATURE.inputs, outputs={"c": SIGNATURE.outputs["c"]})
CLOCK = Clock()


def data(n: int = 50) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    return {
        "inputs": {"numbers": torch.randn(n, 3, generator=g)},
        "targets": {"v": torch.randn(n, 1, generator=g), "c": torch.randint(0, 3, (n,), generator=g)},
    }


def made(signature: Signature = SIGNATURE, **options: Any) -> tuple[Supervised, nn.Module]:
    torch.manual_seed(0)
    body = MLPOptions(sizes=(8,), dropout=0.5)
    objective = Supervised(SupervisedOptions.model_validate(options), signature)
    return objective, objective.build(Composed(ComposedOptions(body=body), signature))


class Means(Supervised):
    """Its terms are means of what they are given, and say so."""

    def terms(self, *given: Any) -> dict[str, Term]:
        counts = given[-1]
        found = super().terms(*given)
        return {name: Term(term.sum / counts[name], term.weight, coupled=True) for name, term in found.items()}


@pytest.mark.parametrize("size", [7, 50])
def test_means_of_parts_count_by_their_rows(size: int) -> None:
    plainly, learner = made()
    coupled = Means(SupervisedOptions(), SIGNATURE)
    found = SupervisedEvaluator(coupled, SIGNATURE, data(), size=size).evaluate(learner, CLOCK)
    plain = SupervisedEvaluator(plainly, SIGNATURE, data()).evaluate(learner, CLOCK)
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_results_are_scikit_learns_whatever_the_parts(size: int) -> None:
    objective, learner = made(weights={"v": 0.5})
    batch = data()
    valid = torch.rand(50, generator=torch.Generator().manual_seed(3)) < 0.4
    batch["valid"] = {"v": valid}
    batch["targets"]["v"] = torch.where(valid[:, None], batch["targets"]["v"], torch.nan)
    found = SupervisedEvaluator(objective, SIGNATURE, batch, size=size).evaluate(learner, CLOCK)
    with torch.no_grad():
        outputs = learner.eval().model(batch["inputs"])[0]
    v, c = batch["targets"]["v"][valid].numpy(), batch["targets"]["c"].numpy()
    out = outputs["v"][valid].numpy()
    probabilities = outputs["c"].double().softmax(1).numpy()
    expected = {
        "v/loss": oracle.mean_squared_error(v, out),
        "v/r2": oracle.r2_score(v, out),
        "v/rmse": oracle.root_mean_squared_error(v, out),
        "v/mae": oracle.mean_absolute_error(v, out),
        "c/loss": oracle.log_loss(c, probabilities),
        "c/log-loss": oracle.log_loss(c, probabilities),
        "c/accuracy": oracle.accuracy_score(c, probabilities.argmax(1)),
        "c/balanced-accuracy": oracle.balanced_accuracy_score(c, probabilities.argmax(1)),
        "c/f1": oracle.f1_score(c, probabilities.argmax(1), average="macro"),
        "c/roc-auc": oracle.roc_auc_score(c, probabilities, multi_class="ovr"),
    }
    expected["loss"] = 0.5 * expected["v/loss"] + expected["c/loss"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_output_needs_no_prefix() -> None:
    objective, learner = made(ALONE)
    found = SupervisedEvaluator(objective, ALONE, data()).evaluate(learner, CLOCK)
    assert set(found) == {"loss", "accuracy", "balanced-accuracy", "f1", "log-loss", "roc-auc"}
    assert found["loss"] == pytest.approx(found["log-loss"], rel=1e-6)


def test_smoothing_is_in_the_loss_alone() -> None:
    objective, learner = made(ALONE, losses={"c": {"kind": "cross-entropy", "smoothing": 0.2}})
    found = SupervisedEvaluator(objective, ALONE, data()).evaluate(learner, CLOCK)
    with torch.no_grad():
        logits = learner.eval().model(data()["inputs"])[0]["c"]
    target = data()["targets"]["c"]
    assert found["loss"] == pytest.approx(
        float(functional.cross_entropy(logits, target, label_smoothing=0.2)), rel=1e-5
    )
    assert found["log-loss"] == pytest.approx(float(functional.cross_entropy(logits, target)), rel=1e-5)


def test_errors_of_numbers_are_in_the_datas_units() -> None:
    """As a pipeline's `inverse` gives them: float64 arrays (n,)."""
    objective, learner = made()
    scaled = SupervisedEvaluator(objective, SIGNATURE, data()).evaluate(learner, CLOCK)
    units = SupervisedEvaluator(
        objective, SIGNATURE, data(), units=lambda name, values: values.numpy().astype(np.float64)[:, 0] * 20 + 1000
    ).evaluate(learner, CLOCK)
    assert units["v/rmse"] == pytest.approx(20 * scaled["v/rmse"], rel=1e-6)
    assert units["v/mae"] == pytest.approx(20 * scaled["v/mae"], rel=1e-6)
    assert units["v/r2"] == pytest.approx(scaled["v/r2"], rel=1e-6)
    assert units["v/loss"] == scaled["v/loss"]


def test_what_is_asked_for_beside_the_rest() -> None:
    objective, learner = made()
    more = [QuantileLossOptions(quantile=0.9)]
    evaluator = SupervisedEvaluator(objective, SIGNATURE, data(), more=more, wanted=["c/roc-auc"])
    watched = evaluator.evaluate(learner, CLOCK)
    assert "c/roc-auc" in watched
    assert "c/brier" not in watched
    everything = evaluator.measure(evaluator.judge(learner))
    assert {"v/quantile-loss", "c/brier", "c/roc-auc", *watched} <= set(everything)


def test_a_reading_changes_what_is_decided_and_how_sure_it_is() -> None:
    """As the bundle's predictions are read: cooled first, then compared with the threshold."""
    signature = Signature(inputs=SIGNATURE.inputs, outputs={"c": Output(form="category", size=2)})
    objective, learner = made(signature)
    batch = data()
    batch["targets"]["c"] = batch["targets"]["c"].clamp(max=1)
    evaluator = SupervisedEvaluator(objective, signature, batch)
    judgement = evaluator.judge(learner)
    found = evaluator.measure(judgement, {"c": Reading(temperature=2.0, threshold=0.6)})
    p = (judgement.outputs["c"].output.double() / 2).softmax(1)[:, 1].numpy()
    y = batch["targets"]["c"].numpy()
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(y, p >= 0.6))
    assert found["log-loss"] == pytest.approx(oracle.log_loss(y, p), rel=1e-6)
    assert found["roc-auc"] == pytest.approx(oracle.roc_auc_score(y, p), rel=1e-6)
    assert found["loss"] == judgement.loss


def test_a_target_that_nobody_knows_is_left_out() -> None:
    objective, learner = made()
    batch = {**data(), "valid": {"v": torch.zeros(50, dtype=torch.bool)}}
    found = SupervisedEvaluator(objective, SIGNATURE, batch).evaluate(learner, CLOCK)
    assert not [name for name in found if name.startswith("v/")]
    assert found["loss"] == found["c/loss"]


def test_it_leaves_no_trace() -> None:
    objective, learner = made()
    learner.train()
    learner.model.body.eval()
    before, modes = random_state()["torch"], [m.training for m in learner.modules()]
    weights = {k: v.clone() for k, v in learner.state_dict().items()}
    first = SupervisedEvaluator(objective, SIGNATURE, data()).evaluate(learner, CLOCK)
    assert torch.equal(random_state()["torch"], before)
    assert [m.training for m in learner.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in learner.state_dict().items())
    assert SupervisedEvaluator(objective, SIGNATURE, data()).evaluate(learner, CLOCK) == first


def test_training_is_the_same_with_and_without_it() -> None:
    learned = []
    for every in (None, 0.5):
        torch.manual_seed(0)
        objective, model = Supervised(SupervisedOptions(), SIGNATURE), Composed(ComposedOptions(), SIGNATURE)
        engine = Engine(
            objective,
            model,
            LoaderSource(LoaderOptions(), data(), batch=8),
            learn=Learn(batch=8, stop=Stop(epochs=3)),
            evaluate=Evaluate(every=every, monitor="c/accuracy", mode="max"),
            evaluator=SupervisedEvaluator(objective, SIGNATURE, data(20)),
        )
        finished = engine.run()
        assert "c/accuracy" in finished.metrics
        learned.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*learned))
