"""Reading outputs: softmax and sigmoid by hand, thresholds to their side, and the same decisions as evaluation's."""

from __future__ import annotations

import math

import pytest
import torch

from reinforge.bundle.readout import label_sets, labelled, numbers
from reinforge.bundle.task import Reading
from reinforge.evaluation.supervised import decide

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
