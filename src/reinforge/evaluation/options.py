"""Options of metrics, free of torch."""

from __future__ import annotations

from typing import Literal

from reinforge.registry import Options, register


@register("metric", "reinforge.evaluation.metrics:Accuracy")
class AccuracyOptions(Options):
    """Part of the rows whose class is right."""

    kind: Literal["accuracy"] = "accuracy"


@register("metric", "reinforge.evaluation.metrics:BalancedAccuracy")
class BalancedAccuracyOptions(Options):
    """Mean over the classes that occur of the part of their rows that is right."""

    kind: Literal["balanced-accuracy"] = "balanced-accuracy"


@register("metric", "reinforge.evaluation.metrics:F1")
class F1Options(Options):
    """Harmonic mean of precision and recall, averaged over classes."""

    kind: Literal["f1"] = "f1"


@register("metric", "reinforge.evaluation.metrics:LogLoss")
class LogLossOptions(Options):
    """Mean negative log-probability of the right class."""

    kind: Literal["log-loss"] = "log-loss"


@register("metric", "reinforge.evaluation.metrics:R2")
class R2Options(Options):
    """Part of the variance that is explained."""

    kind: Literal["r2"] = "r2"


@register("metric", "reinforge.evaluation.metrics:RMSE")
class RMSEOptions(Options):
    """Root of the mean squared error, in units of the target."""

    kind: Literal["rmse"] = "rmse"


@register("metric", "reinforge.evaluation.metrics:MAE")
class MAEOptions(Options):
    """Mean absolute error, in units of the target."""

    kind: Literal["mae"] = "mae"
