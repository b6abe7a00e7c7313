"""Losses against scikit-learn, torch's own and closed forms in double precision; balanced class weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.balance import balanced, class_weights, label_weights
from reinforge.models.heads import build_head
from reinforge.models.losses import RowLoss, row_loss, total_of
from reinforge.models.options import CategoryOptions, ComposedOptions, CrossEntropyOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

OUTPUTS = {
    "number": Output(form="number", size=3),
    "category": Output(form="category", size=4),
    "labels": Output(form="labels", size=4),
    "count": Output(form="count", size=1),
}
WEIGHTS = (0.5, 1.0, 3.0, 2.0)


def build(form: str, kind: str, **options: Any) -> RowLoss:
    return row_loss(REGISTRY.find("loss", kind).options(**options), OUTPUTS[form])


def draw(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantile_is_the_pinball_loss(level: float) -> None:
    output, target = draw(20, 3), draw(20, 3, 1)
    loss = build("number", "quantile", level=level)
    expected = metrics.mean_pinball_loss(target.numpy(), output.numpy(), alpha=level)
    assert float(loss(output, target).mean()) == pytest.approx(expected, rel=1e-5)
    assert float(total_of(loss)(output, target)) == pytest.approx(20 * expected, rel=1e-5)


def test_quantile_ends_at_the_quantile() -> None:
    target = torch.randn(999, 1, generator=torch.Generator().manual_seed(0)).exp()
    loss = row_loss(REGISTRY.find("loss", "quantile").options(level=0.8), Output(form="number", size=1))
    steps = torch.linspace(0, 5, 501)
    losses = [float(total_of(loss)(step.expand(999, 1), target)) for step in steps]
    assert float(steps[int(np.argmin(losses))]) == pytest.approx(float(target.quantile(0.8)), abs=0.02)


def test_poisson_is_half_the_deviance() -> None:
    output = draw(30, 1)
    target = torch.poisson(torch.full((30, 1), 2.0), generator=torch.Generator().manual_seed(1))
    assert (target == 0).any()
    loss = build("count", "poisson")
    rows = loss(output, target)
    expected = metrics.mean_poisson_deviance(target[:, 0].numpy(), output[:, 0].double().exp().numpy()) / 2
    assert float(rows.mean()) == pytest.approx(expected, rel=1e-5)
    output.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(output, target).sum(), output)
    nll = functional.poisson_nll_loss(output, target, reduction="sum")
    torch.testing.assert_close(gradient, torch.autograd.grad(nll, output)[0])


def test_poisson_does_not_overflow() -> None:
    output = torch.tensor([[-1e30], [19.9], [20.1], [90.0], [1e20]], requires_grad=True)
    rows = build("count", "poisson")(output, torch.tensor([[0.0], [3.0], [3.0], [3.0], [3.0]]))
    (gradient,) = torch.autograd.grad(rows.sum(), output)
    assert rows.isfinite().all()
    assert gradient.isfinite().all()
    assert rows[1:].diff().gt(0).all()
    # Smooth where the tangent begins.
    near = torch.tensor([[20.0 - 1e-3], [20.0 + 1e-3]], dtype=torch.float64)
    low, high = build("count", "poisson")(near, torch.zeros(2, 1, dtype=torch.float64))
    assert float(high - low) == pytest.approx(2e-3 * np.exp(20), rel=1e-3)


def test_cross_entropy_with_class_weights() -> None:
    output, target = draw(50, 4), torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
    rows = build("category", "cross-entropy", weights=WEIGHTS)(output, target)
    weight = np.array(WEIGHTS)[target]
    expected = metrics.log_loss(target, output.double().softmax(1), sample_weight=weight, labels=range(4))
    # scikit-learn and torch divide by the weights' sum; our rows are divided by their number.
    assert float(rows.sum() / weight.sum()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        rows.sum() / weight.sum(), functional.cross_entropy(output, target, torch.tensor(WEIGHTS)), check_dtype=False
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_in_closed_form(gamma: float, smoothing: float, weights: Any) -> None:
    output, target = draw(50, 4), torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
    p = output.double().softmax(1).numpy()
    each = -((1 - p) ** gamma) * np.log(p) * (np.array(weights) if weights else 1.0)
    aim = np.eye(4)[target] * (1 - smoothing) + smoothing / 4
    loss = build("category", "focal", gamma=gamma, smoothing=smoothing, weights=weights)
    np.testing.assert_allclose(loss(output, target), (each * aim).sum(1), rtol=1e-5)
    if gamma == 0:
        same = build("category", "cross-entropy", smoothing=smoothing, weights=weights)
        torch.testing.assert_close(loss(output, target), same(output, target))


@pytest.mark.parametrize("kind", ["cross-entropy", "focal"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.1]))
def test_a_mixed_target_has_the_mean_loss(kind: str, seed: int, weighted: bool, smoothing: float) -> None:
    loss = build("category", kind, weights=WEIGHTS if weighted else None, smoothing=smoothing)
    output, shares = draw(6, 4, seed), draw(6, 4, seed + 1).softmax(1)
    alone = torch.stack([loss(output, torch.full((6,), c)) for c in range(4)], 1)
    torch.testing.assert_close(loss(output, shares), (alone * shares).sum(1))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [None, 0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_of_labels_in_closed_form(weights: Any, gamma: float | None, smoothing: float) -> None:
    output, target = draw(50, 4), (draw(50, 4, 1) > 0).float()
    p = output.double().sigmoid().numpy()
    aim = target.double().numpy() * (1 - smoothing) + smoothing / 2
    power = gamma or 0.0
    holds = -((1 - p) ** power) * np.log(p) * (np.array(weights) if weights else 1.0)
    expected = (aim * holds - (1 - aim) * p**power * np.log(1 - p)).mean(1)
    options = {"smoothing": smoothing, "weights": weights}
    if gamma is None:
        loss = build("labels", "binary-cross-entropy", **options)
    else:
        loss = build("labels", "binary-focal", gamma=gamma, **options)
    np.testing.assert_allclose(loss(output, target), expected, rtol=1e-5)
    np.testing.assert_allclose(total_of(loss)(output, target), expected.sum(), rtol=1e-5)


def test_binary_cross_entropy_is_log_loss_of_each_label() -> None:
    output, target = draw(50, 4), (draw(50, 4, 1) > 0).float()
    expected = [metrics.log_loss(target[:, i], output[:, i].double().sigmoid()) for i in range(4)]
    loss = build("labels", "binary-cross-entropy")
    assert float(loss(output, target).mean()) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["cross-entropy", "focal", "binary-cross-entropy", "binary-focal"])
def test_certainty_keeps_gradients_finite(kind: str) -> None:
    options = REGISTRY.find("loss", kind).options()
    form = REGISTRY.find("loss", kind).load().form  # type: ignore[attr-defined]
    variants = [options, *([options.model_copy(update={"gamma": 0.3})] if hasattr(options, "gamma") else [])]
    for one in variants:
        output = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]], requires_grad=True)
        target = torch.tensor([0, 0, 1]) if form == "category" else torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        rows = row_loss(one, Output(form=form, size=2))(output, target)
        (gradient,) = torch.autograd.grad(rows.sum(), output)
        assert rows.isfinite().all()
        assert gradient.isfinite().all()


def test_balanced_weights_are_scikit_learns() -> None:
    target = torch.tensor([0] * 50 + [1] * 10 + [2] * 3)
    found = class_weights(target, Output(form="category", size=3))
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=target.numpy()))
    # A class without a row has no part in the loss, whatever its weight.
    assert float(class_weights(target, Output(form="category", size=4))[3]) == 1
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert label_weights(labels).tolist() == [0.25, 3.0, 1.0]


def test_balanced_is_replaced_by_what_the_training_rows_say() -> None:
    signature = Signature(
        inputs={"numbers": Input(form="numbers", shape=(2,))},
        outputs={"c": Output(form="category", size=2), "l": Output(form="labels", size=2)},
    )
    data: Any = {
        "targets": {"c": torch.tensor([0, 0, 0, 1, -1]), "l": torch.tensor([[1.0, 0.0]] + [[0.0, 0.0]] * 4)},
        "valid": {"c": torch.tensor([True, True, True, True, False])},
    }
    objective = SupervisedOptions.model_validate(
        {"losses": {"c": {"kind": "cross-entropy", "weights": "balanced"}, "l": "binary-cross-entropy"}}
    )
    settled = balanced(objective, signature, data)
    assert settled.losses["c"].weights == pytest.approx((4 / 6, 2.0))  # type: ignore[attr-defined]
    assert settled.losses["l"] is objective.losses["l"]
    loss = {"kind": "binary-focal", "weights": "balanced"}
    model = ComposedOptions.model_validate({"heads": {"l": {"kind": "labels", "loss": loss}}})
    assert balanced(model, signature, data).heads["l"].loss.weights == (4.0, 1.0)  # type: ignore[attr-defined]
    plain = ComposedOptions()
    assert balanced(plain, signature, data) is plain


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ComponentError, match="balanced weights follow from the training rows"):
        build("category", "cross-entropy", weights="balanced")
    with pytest.raises(ComponentError, match="2 weights for 4 classes"):
        build("category", "focal", weights=(1.0, 2.0))
    with pytest.raises(ComponentError, match="for labels outputs, not category"):
        build("category", "binary-cross-entropy")
    with pytest.raises(ComponentError, match="for category outputs, not count"):
        build("count", "focal")
    # An order and an action are read like classes.
    for form in ("ordinal", "discrete"):
        row_loss(CrossEntropyOptions(), Output(form=form, size=3))  # type: ignore[arg-type]
    build_head(Output(form="discrete", size=3), 2, CategoryOptions())
