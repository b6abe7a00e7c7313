"""The supervised objective against closed forms, torch's own losses and brute force over rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamWOptions, SGDOptions
from reinforge.errors import ComponentError
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions, IdentityOptions, MLPOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.supervised import Supervised, SupervisedLearner
from reinforge.recipe.sections import Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.loader import IterableSource, LoaderSource
from reinforge.sources.options import IterableOptions, LoaderOptions

NUMBERS = {"numbers": Input(form="numbers", shape=(3,))}
TWO = Signature(inputs=NUMBERS, outputs={"v": Output(form="number", size=1), "c": Output(form="category", size=3)})
VALUE = Signature(inputs=NUMBERS, outputs={"v": TWO.outputs["v"]})
LABEL = Signature(inputs=NUMBERS, outputs={"c": TWO.outputs["c"]})


def data(n: int = 40, seed: int = 0) -> dict[str, Any]:
    """Rows whose targets follow from their numbers, with noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    v = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3 + 0.1 * torch.randn(n, 1, generator=g)
    c = (x[:, 0] + 0.5 * torch.randn(n, generator=g)).sign().long() + 1
    return {"inputs": {"numbers": x}, "targets": {"v": v, "c": c}}


def learner_of(signature: Signature, **options: Any) -> tuple[Supervised, SupervisedLearner]:
    torch.manual_seed(0)
    objective = Supervised(SupervisedOptions.model_validate(options), signature)
    return objective, objective.build(Composed(ComposedOptions(body=MLPOptions(sizes=(5,))), signature))


def means(objective: Supervised, learner: SupervisedLearner, batch: Any) -> dict[str, Tensor]:
    """Each term's weighted mean, as the engine takes it."""
    counts = objective.counts(batch)
    terms = objective.loss(learner, batch, counts).terms
    return {name: term.weight * term.sum / (1 if term.coupled else counts[name]) for name, term in terms.items()}


def gradient(learner: nn.Module, total: Tensor) -> Tensor:
    found = torch.autograd.grad(total, list(learner.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"v": "mse"}, lambda o, t: functional.mse_loss(o["v"], t["v"])),
        ({"v": "mae"}, lambda o, t: functional.l1_loss(o["v"], t["v"])),
        ({"v": {"kind": "huber", "delta": 0.7}}, lambda o, t: functional.huber_loss(o["v"], t["v"], delta=0.7)),
    ],
)
def test_losses_of_numbers(loss: dict[str, Any], expected: Any) -> None:
    objective, learner = learner_of(VALUE, losses=loss)
    batch = data()
    torch.testing.assert_close(
        means(objective, learner, batch)["v"], expected(learner.model(batch["inputs"])[0], batch["targets"])
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_minus_log_softmax(smoothing: float) -> None:
    objective, learner = learner_of(LABEL, losses={"c": {"kind": "cross-entropy", "smoothing": smoothing}})
    batch = data()
    logits = learner.model(batch["inputs"])[0]["c"].double()
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = functional.one_hot(batch["targets"]["c"], 3) * (1 - smoothing) + smoothing / 3
    torch.testing.assert_close(means(objective, learner, batch)["c"].double(), -(target * log_p).sum(1).mean())


def test_mean_squared_error_has_the_right_sign_and_factor() -> None:
    model = Composed(ComposedOptions(body=IdentityOptions()), VALUE)
    objective = Supervised(SupervisedOptions(), VALUE)
    learner, batch = objective.build(model), data()
    x, y = batch["inputs"]["numbers"], batch["targets"]["v"]
    found = gradient(learner, means(objective, learner, batch)["v"])
    error = model(batch["inputs"])[0]["v"].detach() - y
    expected = 2 / len(x) * (torch.cat([x, torch.ones(len(x), 1)], 1) * error).sum(0)
    torch.testing.assert_close(found, expected)


def test_missing_targets_teach_nothing_whatever_they_hold() -> None:
    objective, learner = learner_of(TWO, weights={"v": 0.25})
    batch = data()
    valid = torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.3
    batch["valid"] = {"v": valid}
    batch["targets"]["v"] = torch.where(valid[:, None], batch["targets"]["v"], torch.nan)
    outputs = learner.model(batch["inputs"])[0]
    expected = {
        "v": 0.25 * functional.mse_loss(outputs["v"][valid], batch["targets"]["v"][valid]),
        "c": functional.cross_entropy(outputs["c"], batch["targets"]["c"]),
    }
    found = means(objective, learner, batch)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    torch.testing.assert_close(gradient(learner, sum(found.values())), gradient(learner, sum(expected.values())))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["v", "c"])
def test_a_batch_without_a_valid_target_gives_zero(form: str) -> None:
    objective, learner = learner_of(VALUE if form == "v" else LABEL)
    batch = data(4)
    batch["valid"] = {form: torch.zeros(4, dtype=torch.bool)}
    # What stands there is out of range: a class that doesn't exist, no number.
    batch["targets"][form] = torch.full_like(batch["targets"][form], torch.nan if form == "v" else -1)
    counts = objective.counts(batch)
    term = objective.loss(learner, batch, counts).terms[form]
    assert counts[form] == 0
    assert term.sum == 0
    assert not gradient(learner, term.sum).any()


def test_split_updates_add_up() -> None:
    objective, learner = learner_of(TWO)
    batch = {**data(8), "valid": {"v": torch.tensor([1, 0, 0, 1, 1, 0, 0, 0]).bool()}}
    counts = objective.counts(batch)
    whole = objective.loss(learner, batch, counts).terms
    for size in (1, 3, 8):
        parts = [objective.loss(learner, part, counts).terms for part in batches.split(batch, size)]
        for name in whole:
            torch.testing.assert_close(torch.stack([part[name].sum for part in parts]).sum(), whole[name].sum)


def test_batch_statistics_are_declared_coupled() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    objective = Supervised(SupervisedOptions(), VALUE)
    learner, batch = objective.build(module), data(8)
    del batch["targets"]["c"]
    term = objective.loss(learner, batch, objective.counts(batch)).terms["v"]
    assert term.coupled
    torch.testing.assert_close(term.sum, functional.mse_loss(module(batch["inputs"]["numbers"]), batch["targets"]["v"]))
    source = LoaderSource(LoaderOptions(), batch, batch=8)
    engine = Engine(objective, module, source, learn=Learn(batch=8, microbatch=2, stop=Stop(updates=1)))
    with pytest.raises(ComponentError, match="can't be split"):
        engine.run()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"losses": {"w": "mse"}}, "no target 'w'"),
        ({"weights": {"w": 1.0}}, "no target 'w'"),
        ({"losses": {"c": "mse"}}, "for number outputs, not category"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        learner_of(TWO, **options)


def test_linear_regression_ends_at_least_squares() -> None:
    batch = data(100)
    x, y = batch["inputs"]["numbers"], batch["targets"]["v"]
    design = np.concatenate([x.numpy(), np.ones((100, 1))], 1).astype(np.float64)
    expected, *_ = np.linalg.lstsq(design, y.numpy().astype(np.float64), rcond=None)
    model = Composed(ComposedOptions(body=IdentityOptions()), VALUE)
    source = LoaderSource(LoaderOptions(), {"inputs": batch["inputs"], "targets": {"v": y}}, batch=100)
    learn = Learn(batch=100, lr=0.2, optimizer=SGDOptions(), stop=Stop(updates=300))
    Engine(Supervised(SupervisedOptions(), VALUE), model, source, learn=learn).run()
    found = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def test_logistic_regression_ends_where_scikit_learn_does() -> None:
    batch = data(200)
    x, c = batch["inputs"]["numbers"], (batch["targets"]["c"] > 0).long()
    # scikit-learn adds 1/2 |w|^2 to C times the summed loss; ours adds l2 |w|^2 to the mean.
    oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(x.numpy(), c.numpy())
    signature = Signature(inputs=NUMBERS, outputs={"c": Output(form="category", size=2)})
    model = Composed(ComposedOptions(body=IdentityOptions()), signature)
    source = LoaderSource(LoaderOptions(), {"inputs": batch["inputs"], "targets": {"c": c}}, batch=200)
    # Two logits share the weight of one: w = u1 - u0 with u1 = -u0, so |w|^2 = 2 (|u0|^2 + |u1|^2).
    learn = Learn(batch=200, lr=0.5, optimizer=SGDOptions(), l2=2 / (2 * 0.5 * 200), stop=Stop(updates=600))
    Engine(Supervised(SupervisedOptions(), signature), model, source, learn=learn).run()
    theirs = oracle.predict_proba(x.numpy())
    ours = model({"numbers": x})[0]["c"].softmax(1).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_equals_a_loop_by_hand() -> None:
    """The benchmark's comparison is fair only if both do the same."""
    batch = data(100)
    x, c = batch["inputs"]["numbers"], batch["targets"]["c"]
    options = ComposedOptions(body=MLPOptions(sizes=(8, 8)))
    torch.manual_seed(0)
    model = Composed(options, LABEL)
    by_hand = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for mine, theirs in zip(by_hand.parameters(), model.parameters()):
        mine.data.copy_(theirs.data)
    source = LoaderSource(LoaderOptions(), {"inputs": batch["inputs"], "targets": {"c": c}}, batch=16, seed=5)
    learn = Learn(batch=16, lr=1e-2, optimizer=AdamWOptions(decay="all"), stop=Stop(epochs=3))
    finished = Engine(Supervised(SupervisedOptions(), LABEL), model, source, learn=learn).run()
    assert finished.clock.updates == 21
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, fused=True)
    again = LoaderSource(LoaderOptions(), {"x": x, "c": c}, batch=16, seed=5)
    for _ in range(21):
        rows: Any = again.next(Clock()).batch
        optimizer.zero_grad()
        functional.cross_entropy(by_hand(rows["x"]), rows["c"]).backward()
        optimizer.step()
    for mine, theirs in zip(by_hand.parameters(), model.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_plain_module_and_a_list_train() -> None:
    batch = data(64)
    x, v = batch["inputs"]["numbers"], batch["targets"]["v"]
    module = nn.Linear(3, 1)
    before = functional.mse_loss(module(x), v).item()
    source = IterableSource(IterableOptions(), [(x[i : i + 16], v[i : i + 16]) for i in range(0, 64, 16)], VALUE)
    learn = Learn(batch=16, lr=0.1, stop=Stop(epochs=20))
    finished = Engine(Supervised(SupervisedOptions(), VALUE), module, source, learn=learn).run()
    assert (finished.reason, finished.clock.updates) == ("epochs", 80)
    assert functional.mse_loss(module(x), v).item() < before / 10
    assert math.isfinite(before)


UNCERTAIN = {"weighting": "uncertainty", "weights": {"v": 0.5}}


def test_uncertainty_is_the_papers_loss() -> None:
    """Equations 7 and 10 of arXiv:1705.07115: L / (2 s^2) + log s for a number, L / s^2 + log s for a class."""
    objective, learner = learner_of(TWO, **UNCERTAIN)
    batch = data()
    valid = torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.4
    batch["valid"] = {"v": valid}
    assert learner.log_variances is not None
    with torch.no_grad():
        learner.log_variances.copy_(torch.tensor([0.7, -0.3]))
    found = means(objective, learner, batch)
    outputs = learner.model(batch["inputs"])[0]
    squared = functional.mse_loss(outputs["v"][valid], batch["targets"]["v"][valid])
    entropy = functional.cross_entropy(outputs["c"], batch["targets"]["c"])
    deviations = (learner.log_variances / 2).exp()
    torch.testing.assert_close(found["v/weighted"], 0.5 * (squared / (2 * deviations[0] ** 2) + deviations[0].log()))
    torch.testing.assert_close(found["c/weighted"], entropy / deviations[1] ** 2 + deviations[1].log())
    # What is measured beside it is the loss itself, and teaches nothing.
    terms = objective.loss(learner, batch, objective.counts(batch)).terms
    torch.testing.assert_close(terms["v"].sum / valid.sum(), squared)
    assert terms["v"].weight == 0
    assert not terms["v"].sum.requires_grad


def test_uncertainty_ends_where_the_variance_is_the_error() -> None:
    """The best s^2 of a number is its mean squared error, that of a class twice its cross-entropy."""
    batch = data(64)
    model = Composed(ComposedOptions(body=IdentityOptions()), TWO)
    for p in model.parameters():
        p.requires_grad_(False)
    objective = Supervised(SupervisedOptions(weighting="uncertainty"), TWO)
    source = LoaderSource(LoaderOptions(), batch, batch=64)
    learn = Learn(batch=64, lr=0.05, optimizer=AdamWOptions(weight_decay=0.5), stop=Stop(updates=800))
    engine = Engine(objective, model, source, learn=learn)
    engine.run()
    outputs = model(batch["inputs"])[0]
    squared = functional.mse_loss(outputs["v"], batch["targets"]["v"])
    entropy = functional.cross_entropy(outputs["c"], batch["targets"]["c"])
    variances = engine.learner.log_variances.detach().exp()
    torch.testing.assert_close(variances, torch.stack([squared, 2 * entropy]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("microbatch", [1, 3])
def test_uncertainty_does_not_depend_on_how_a_batch_is_split(microbatch: int) -> None:
    objective, learner = learner_of(TWO, **UNCERTAIN)
    batch = {**data(8), "valid": {"v": torch.tensor([1, 0, 0, 1, 1, 0, 0, 0]).bool()}}
    counts = objective.counts(batch)
    parts = [objective.loss(learner, part, counts).terms for part in batches.split(batch, microbatch)]
    whole = objective.loss(learner, batch, counts).terms
    total = sum(t.weight * t.sum / counts[name] for name, t in whole.items())
    apart = sum(t.weight * t.sum / counts[name] for part in parts for name, t in part.items())
    torch.testing.assert_close(gradient(learner, apart), gradient(learner, total))  # type: ignore[arg-type]


def test_uncertainty_beside_batch_normalisation() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    objective = Supervised(SupervisedOptions(weighting="uncertainty"), VALUE)
    learner, batch = objective.build(module), data(8)
    del batch["targets"]["c"]
    term = objective.loss(learner, batch, objective.counts(batch)).terms["v/weighted"]
    assert term.coupled
    assert learner.log_variances is not None
    with torch.no_grad():
        learner.log_variances.fill_(0.4)
    term = objective.loss(learner, batch, objective.counts(batch)).terms["v/weighted"]
    squared = functional.mse_loss(module(batch["inputs"]["numbers"]), batch["targets"]["v"])
    torch.testing.assert_close(term.sum, 0.5 * math.exp(-0.4) * squared + torch.tensor(0.2))


def test_class_weights_are_divided_by_rows() -> None:
    weights = (0.5, 1.0, 3.0)
    objective, learner = learner_of(LABEL, losses={"c": {"kind": "cross-entropy", "weights": weights}})
    batch = data()
    logits, target = learner.model(batch["inputs"])[0]["c"], batch["targets"]["c"]
    expected = functional.cross_entropy(logits, target, torch.tensor(weights), reduction="sum") / 40
    torch.testing.assert_close(means(objective, learner, batch)["c"], expected)


def test_mixed_classes_teach_in_their_shares() -> None:
    objective, learner = learner_of(LABEL)
    one, two = data(), data(seed=1)["targets"]["c"]
    shares = torch.rand(40, 1, generator=torch.Generator().manual_seed(2))
    hot = [functional.one_hot(c, 3).float() for c in (one["targets"]["c"], two)]
    mixed = {**one, "targets": {"c": shares * hot[0] + (1 - shares) * hot[1]}}
    logits = learner.model(one["inputs"])[0]["c"]
    each = [functional.cross_entropy(logits, c, reduction="none") for c in (one["targets"]["c"], two)]
    expected = (shares[:, 0] * each[0] + (1 - shares[:, 0]) * each[1]).mean()
    torch.testing.assert_close(means(objective, learner, mixed)["c"], expected)
    valid = torch.arange(40) % 2 == 0
    mixed["targets"]["c"][~valid] = torch.nan
    masked = means(objective, learner, {**mixed, "valid": {"c": valid}})["c"]
    torch.testing.assert_close(masked, (shares[:, 0] * each[0] + (1 - shares[:, 0]) * each[1])[valid].mean())
