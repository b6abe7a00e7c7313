"""Heads of labels, order, counts and spans against brute force, scikit-learn and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from reinforge.errors import ComponentError
from reinforge.models.composed import Composed
from reinforge.models.heads import Count, Labels, Number
from reinforge.models.options import (
    ComposedOptions,
    CountOptions,
    LabelsOptions,
    NumberOptions,
    OrdinalOptions,
    SpanOptions,
)
from reinforge.models.ordinal import Ordinal
from reinforge.models.span import Span, best_span
from reinforge.schema.signature import Input, Output, Signature


def ordinal(classes: int, features: int = 3) -> Ordinal:
    torch.manual_seed(0)
    return Ordinal(OrdinalOptions(), Output(form="ordinal", size=classes), features)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_ordinal_probabilities_are_differences_of_sigmoids(classes: int) -> None:
    head = ordinal(classes)
    x = torch.randn(40, 3) * 3
    with torch.no_grad():
        assert head.first is not None
        thresholds = head.first.double()
        if head.between is not None:
            nn.init.normal_(head.between)
            thresholds = torch.cat([thresholds, thresholds + functional.softplus(head.between.double()).cumsum(0)])
        below = torch.sigmoid(thresholds - head.projection(x).double())
    edges = torch.cat([torch.zeros(40, 1), below, torch.ones(40, 1)], 1)
    output = head(x)
    torch.testing.assert_close(output.double().exp(), edges.diff(dim=1), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(head.decode(output)["probabilities"].sum(1), torch.ones(40))
    assert (thresholds.diff() > 0).all()


def test_ordinal_classes_begin_equally_likely() -> None:
    probabilities = ordinal(5)(torch.zeros(1, 3)).exp()
    torch.testing.assert_close(probabilities, torch.full((1, 5), 0.2))


def test_ordinal_is_exact_far_out() -> None:
    head = ordinal(4)
    with torch.no_grad():
        head.projection.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    x = torch.tensor([[300.0, 0.0, 0.0], [-300.0, 0.0, 0.0]], requires_grad=True)
    output = head(x)
    (gradient,) = torch.autograd.grad(head.loss(output, torch.tensor([0, 3])).sum(), x)
    assert output.isfinite().all()
    # -log sigmoid(t - 300) is 300 - t: the gradient there is 1.
    assert gradient[:, 0].tolist() == [1.0, -1.0]


def test_ordinal_median_has_the_least_expected_distance() -> None:
    head = ordinal(5)
    output = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    p = output.double().softmax(1)
    distance = (torch.arange(5)[:, None] - torch.arange(5)).abs().double()
    expected = p @ distance
    median = head.decode(output)["median"]
    torch.testing.assert_close(expected.gather(1, median[:, None])[:, 0], expected.min(1).values)


def test_ordinal_needs_two_classes() -> None:
    with pytest.raises(ComponentError, match="an order needs two classes"):
        ordinal(1)


def test_labels_may_hold_together() -> None:
    head = Labels(LabelsOptions(), Output(form="labels", size=3))
    output = torch.tensor([[2.0, 1.0, -1.0], [-5.0, -1.0, -0.1]])
    decoded = head.decode(output)
    assert decoded["labels"].tolist() == [[1, 1, 0], [0, 0, 0]]
    torch.testing.assert_close(decoded["probabilities"], 1 / (1 + (-output).exp()))
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    log_p = head.distribution(output).log_prob(target)
    torch.testing.assert_close(head.loss(output, target), -log_p / 3)


def test_count_is_a_rate() -> None:
    head = Count(CountOptions(), Output(form="count", size=1))
    output = torch.tensor([[0.0], [math.log(3.7)], [500.0], [-500.0]])
    decoded = head.decode(output)
    assert decoded["value"][:2].tolist() == pytest.approx([1.0, 3.7])
    assert decoded["count"][:2].tolist() == [1, 3]
    assert decoded["value"].isfinite().all()
    assert head.distribution(output[1:2]).log_prob(torch.tensor([[2.0]])).item() == pytest.approx(
        math.log(3.7**2 * math.exp(-3.7) / 2), rel=1e-5
    )


def test_a_vector_is_a_number_of_several_values() -> None:
    head = Number(NumberOptions(), Output(form="number", size=3), 4)
    output = head(torch.randn(5, 4))
    assert head.decode(output)["value"].shape == (5, 3)
    torch.testing.assert_close(head.loss(output, torch.zeros(5, 3)), output.square().mean(1))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    time=st.integers(1, 9),
    longest=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 10_000),
)
def test_best_span_is_what_trying_all_finds(rows: int, time: int, longest: int | None, seed: int) -> None:
    scores = torch.randn(rows, 2, time, generator=torch.Generator().manual_seed(seed))
    span, score = best_span(scores, longest)
    for row in range(rows):
        pairs = [(i, j) for i in range(time) for j in range(i, min(time, i + (longest or time)))]
        best = max(pairs, key=lambda pair: float(scores[row, 0, pair[0]] + scores[row, 1, pair[1]]))
        assert tuple(span[row].tolist()) == best
        assert float(score[row]) == float(scores[row, 0, best[0]] + scores[row, 1, best[1]])


def test_a_span_stays_within_its_row() -> None:
    torch.manual_seed(0)
    head = Span(SpanOptions(), Output(form="span", size=6, of="text"), 4)
    features = torch.randn(5, 5, 4) * 5
    lengths = torch.tensor([5, 1, 3, 2, 0])
    mask = torch.arange(5) < lengths[:, None]
    output = head(features, mask)
    assert output.shape == (5, 2, 6)
    span = head.decode(output)["span"]
    assert (span[:4] < lengths[:4, None]).all()
    assert (span[:, 0] <= span[:, 1]).all()
    # Padding has no part in the loss: the same as over the row's own tokens.
    for row, length in enumerate(lengths[:4].tolist()):
        logits = head.projection(features[row, :length]).T  # type: ignore[operator]
        target = torch.tensor([0, length - 1])
        torch.testing.assert_close(
            head.loss(output[row : row + 1], target[None])[0], functional.cross_entropy(logits, target, reduction="sum")
        )
    assert head.loss(output, torch.zeros(5, 2, dtype=torch.int64)).isfinite().all()


def test_a_span_is_smoothed_over_the_tokens_of_its_row() -> None:
    torch.manual_seed(0)
    head = Span(SpanOptions(smoothing=0.3), Output(form="span", size=6, of="text"), 4)
    features, mask = torch.randn(1, 5, 4), torch.tensor([[True, True, True, False, False]])
    logits, target = head.projection(features[0, :3]).T, torch.tensor([[0, 2]])  # type: ignore[operator]
    expected = functional.cross_entropy(logits, target[0], reduction="sum", label_smoothing=0.3)
    torch.testing.assert_close(head.loss(head(features, mask), target)[0], expected)


SPAN = Signature(
    inputs={"text": Input(form="tokens", sizes=(9,), shape=(6,)), "numbers": Input(form="numbers", shape=(2,))},
    outputs={"answer": Output(form="span", size=6, of="text"), "c": Output(form="category", size=2)},
)


def test_a_composed_model_reads_the_span_from_its_text() -> None:
    torch.manual_seed(0)
    model = Composed(ComposedOptions.model_validate({"encoders": {"text": "transformer"}}), SPAN)
    inputs = {"text": torch.randint(0, 9, (4, 5)), "numbers": torch.randn(4, 2)}
    outputs, _ = model(inputs)
    sequence, mask = model.encoders["text"].sequence(inputs["text"])  # type: ignore[operator]
    torch.testing.assert_close(outputs["answer"], model.heads["answer"](sequence, mask))
    features = torch.cat([model.encoders["text"](inputs["text"]), inputs["numbers"]], 1)
    torch.testing.assert_close(outputs["c"], model.heads["c"](model.body(features)[0]))
    assert model.decode(outputs)["answer"]["span"].shape == (4, 2)


def test_a_span_of_no_text_is_refused() -> None:
    wrong = SPAN.model_copy(update={"outputs": {"answer": Output(form="span", size=6, of="numbers")}})
    with pytest.raises(ComponentError, match=r"tokens of 'numbers'.*\n.*Inputs that have one: text"):
        Composed(ComposedOptions(), wrong)


def test_an_order_is_learned() -> None:
    """Thresholds and slope come back from data drawn from the model."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=g)
    noise = torch.rand(20_000, 1, generator=g).logit()
    target = ((1.5 * x + noise) > torch.tensor([-1.0, 0.5, 2.0])).sum(1)
    head = ordinal(4, 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = head.loss(head(x), target).mean()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    assert head.first is not None
    assert head.between is not None
    found = [head.projection.weight.item(), head.first.item(), *functional.softplus(head.between).tolist()]  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(found, [1.5, -1.0, 1.5, 1.5], atol=0.08)
