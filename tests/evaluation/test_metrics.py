"""Metrics against scikit-learn."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from reinforge.evaluation.metrics import metrics_for

CATEGORY: dict[str, Callable[[Any, Any, int], float]] = {
    "accuracy": lambda y, z, k: oracle.accuracy_score(y, z.argmax(1)),
    "balanced-accuracy": lambda y, z, k: oracle.balanced_accuracy_score(y, z.argmax(1)),
    "f1": lambda y, z, k: oracle.f1_score(y, z.argmax(1), average="macro"),
    "log-loss": lambda y, z, k: oracle.log_loss(y, torch.from_numpy(z).double().softmax(1).numpy(), labels=range(k)),
}
NUMBER: dict[str, Callable[[Any, Any], float]] = {
    "r2": oracle.r2_score,
    "rmse": oracle.root_mean_squared_error,
    "mae": oracle.mean_absolute_error,
}


def test_each_form_has_its_metrics() -> None:
    assert set(metrics_for("category")) == set(CATEGORY)
    assert set(metrics_for("number")) == set(NUMBER)
    assert metrics_for("tokens") == {}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(1, 5), st.integers(0, 10**6))
def test_categories(rows: int, classes: int, occurring: int, seed: int) -> None:
    """Also where classes occur among targets alone, among predictions alone, or nowhere."""
    g = np.random.default_rng(seed)
    target = g.integers(0, min(occurring, classes), rows)
    logits = g.normal(size=(rows, classes)).astype(np.float32)
    for name, metric in metrics_for("category").items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, for classes that don't occur
            expected = CATEGORY[name](target, logits, classes)
        assert metric(torch.from_numpy(logits), torch.from_numpy(target)) == pytest.approx(expected, rel=1e-5), name


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_numbers(rows: int, size: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    target = g.normal(1000, 3, size=(rows, size)).astype(np.float32)
    output = (target + g.normal(size=(rows, size))).astype(np.float32)
    for name, metric in metrics_for("number").items():
        expected = NUMBER[name](target.astype(np.float64), output.astype(np.float64))
        if name == "rmse" and size > 1:
            # scikit-learn averages the roots of the columns; ours is the root of the mean over all values.
            expected = math.sqrt(oracle.mean_squared_error(target.astype(np.float64), output.astype(np.float64)))
        assert metric(torch.from_numpy(output), torch.from_numpy(target)) == pytest.approx(expected, rel=1e-5), name


def test_one_row_has_no_r2() -> None:
    assert math.isnan(metrics_for("number")["r2"](torch.ones(1, 1), torch.ones(1)))


def test_what_takes_seconds_to_import_is_imported_before_the_first_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    built = [(metrics_for("category"), torch.eye(3), torch.arange(3)), (metrics_for("number"), *torch.rand(2, 3, 1))]
    for module in ("classification", "regression"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.functional.{module}", None)
    for metrics, output, target in built:
        assert all(math.isfinite(metric(output, target)) for metric in metrics.values())
    with pytest.raises(ImportError):
        metrics_for("number")
