"""Reading outputs: softmax and sigmoid by hand, thresholds to their side, and the same decisions as evaluation's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reinforge.bundle.forms import TableForm
from reinforge.bundle.readout import encoded, label_sets, labelled, numbers, spans
from reinforge.bundle.task import Reading, Task
from reinforge.data.blocks import TokensBlock
from reinforge.data.columns import Columns
from reinforge.data.pipeline import Pipeline
from reinforge.errors import IntegrityError
from reinforge.evaluation.supervised import decide
from reinforge.schema.fields import Number, Text
from reinforge.schema.schema import Schema

LABELS = ("no", "yes")


def of_yes(probability: float) -> list[float]:
    """Logits."""
    return [0.0, math.log(probability / (1 - probability))]


def test_a_threshold_decides_between_two_classes() -> None:
    logits = torch.tensor([of_yes(p) for p in (0.25, 0.35, 0.55, 0.75)])
    said = {
        threshold: [p["label"] for p in labelled(logits, LABELS, Reading(threshold=threshold))]
        for threshold in (None, 0.3, 0.7)
    }
    assert said == {
        None: ["no", "no", "yes", "yes"],
        0.3: ["no", "yes", "yes", "yes"],
        0.7: ["no", "no", "no", "yes"],
    }
    assert labelled(logits, LABELS, Reading())[0]["probabilities"] == pytest.approx({"no": 0.75, "yes": 0.25})


def test_a_temperature_comes_before_the_threshold() -> None:
    logits = torch.tensor([of_yes(0.9)])
    (said,) = labelled(logits, LABELS, Reading(temperature=2.0, threshold=0.8))
    assert said["probabilities"]["yes"] == pytest.approx(0.75)  # odds of 9, their root is 3
    assert said["label"] == "no"


def test_each_label_has_its_threshold_and_all_one_temperature() -> None:
    logits = torch.tensor([[of_yes(0.9)[1], of_yes(0.2)[1]]])
    plain, moved = (label_sets(logits, ("a", "b"), r)[0] for r in (Reading(), Reading(thresholds=(0.95, 0.1))))
    assert plain["labels"] == ["a"]
    assert moved["labels"] == ["b"]
    assert moved["probabilities"] == pytest.approx({"a": 0.9, "b": 0.2})
    (warm,) = label_sets(logits, ("a", "b"), Reading(temperature=2.0, thresholds=(0.7, 0.4)))
    assert warm["probabilities"] == pytest.approx({"a": 0.75, "b": 1 / 3})
    assert warm["labels"] == ["a"]


@pytest.mark.parametrize("reading", [Reading(), Reading(temperature=1.7, threshold=0.31), Reading(threshold=0.62)])
def test_what_is_served_is_what_was_evaluated(reading: Reading) -> None:
    logits = 2 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    served = [LABELS.index(p["label"]) for p in labelled(logits, LABELS, reading)]
    assert served == decide(logits, "category", reading).argmax(1).tolist()
    sets = Reading(temperature=reading.temperature, thresholds=(0.2, 0.7))
    held = [[label in p["labels"] for label in LABELS] for p in label_sets(logits, LABELS, sets)]
    assert held == (decide(logits, "labels", sets) > 0).tolist()


def test_what_is_no_number_makes_up_no_label() -> None:
    said = labelled(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), LABELS, Reading(threshold=0.5))
    assert said[0] == {"label": None, "probabilities": {"no": None, "yes": None}}
    assert said[1]["label"] == "yes"
    (held,) = label_sets(torch.tensor([[math.nan, 5.0]]), LABELS, Reading())
    assert held["labels"] == ["yes"]
    assert held["probabilities"]["no"] is None
    assert numbers(torch.tensor([1.5, math.inf]).numpy()) == [{"value": 1.5}, {"value": None}]


def test_a_span_beyond_its_text_is_none() -> None:
    columns = {"text": ["one two three", "four"]}
    block = Pipeline.fit(columns, Schema(fields=(Text(name="text", length=8),))).blocks["text"]
    assert isinstance(block, TokensBlock)
    nothing = {"span": None, "text": None}
    said = spans(torch.tensor([[1, 2], [0, 1]]), encoded(columns["text"]), block)
    assert said == [{"span": [4, 13], "text": "two three"}, nothing]
    assert spans(torch.tensor([[2, 1], [-1, 0]]), encoded(columns["text"]), block) == [nothing, nothing]


class Doubled(nn.Module):
    """A head of one's own, which decodes in its own way."""

    def decode(self, output: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"value": 2 * output[:, 0]}


def test_a_head_of_ones_own_decodes_when_serving() -> None:
    columns: Columns = {"x": [1.0, 2.0, 3.0], "y": [0, 1, 4]}
    fields = (Number(name="x"), Number(name="y", role="target", count=True, missing="drop"))
    form = TableForm(Pipeline.fit(columns, Schema(fields=fields)))
    model = nn.Module()
    inputs = form.inputs([{"x": 1.0}, {"x": 3.0}])

    def forward(_inputs: object) -> dict[str, torch.Tensor]:
        return {"y": torch.tensor([[0.0], [1.0]])}

    plain = form.values(inputs, forward, model, Task())
    assert [p["y"]["value"] for p in plain] == pytest.approx([1.0, math.e])
    model.heads = nn.ModuleDict({"y": Doubled()})
    assert [p["y"]["value"] for p in form.values(inputs, forward, model, Task())] == [0.0, 2.0]


def test_a_pipeline_that_gives_something_else_than_the_model_takes_is_refused() -> None:
    fields = (Number(name="x"), Number(name="y", role="target", missing="drop"))
    pipeline = Pipeline.fit({"x": [1.0, 2.0], "y": [0.0, 1.0]}, Schema(fields=fields))
    description, tensors = TableForm(pipeline).save()
    assert TableForm.load(pipeline.schema, pipeline.signature, description, tensors).pipeline.schema == pipeline.schema
    other = pipeline.signature.model_copy(update={"outputs": {}})
    with pytest.raises(IntegrityError, match="do not fit each other"):
        TableForm.load(pipeline.schema, other, description, tensors)
