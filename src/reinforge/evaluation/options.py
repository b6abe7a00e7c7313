"""Options of metrics, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reinforge.registry import Options, register


@register("metric", "reinforge.evaluation.metrics.category:Accuracy")
class AccuracyOptions(Options):
    """Part of the rows whose class is right."""

    kind: Literal["accuracy"] = "accuracy"


@register("metric", "reinforge.evaluation.metrics.category:BalancedAccuracy")
class BalancedAccuracyOptions(Options):
    """Mean over the classes that occur of the part of their rows that is right."""

    kind: Literal["balanced-accuracy"] = "balanced-accuracy"


@register("metric", "reinforge.evaluation.metrics.category:Precision")
class PrecisionOptions(Options):
    """Part of the decisions for a class that are right, averaged over classes."""

    kind: Literal["precision"] = "precision"


@register("metric", "reinforge.evaluation.metrics.category:Recall")
class RecallOptions(Options):
    """Part of a class's rows that were decided so, averaged over classes."""

    kind: Literal["recall"] = "recall"


@register("metric", "reinforge.evaluation.metrics.category:F1")
class F1Options(Options):
    """Harmonic mean of precision and recall, averaged over classes."""

    kind: Literal["f1"] = "f1"


@register("metric", "reinforge.evaluation.metrics.category:Matthews")
class MatthewsOptions(Options):
    """Matthews' correlation of targets and decisions, from -1 to 1."""

    kind: Literal["matthews"] = "matthews"


@register("metric", "reinforge.evaluation.metrics.category:ROCAUC")
class ROCAUCOptions(Options):
    """Area under the ROC curve; of more than two classes, each against the rest, averaged."""

    kind: Literal["roc-auc"] = "roc-auc"


@register("metric", "reinforge.evaluation.metrics.category:AveragePrecision")
class AveragePrecisionOptions(Options):
    """Average precision; of more than two classes, each against the rest, averaged."""

    kind: Literal["average-precision"] = "average-precision"


@register("metric", "reinforge.evaluation.metrics.category:LogLoss")
class LogLossOptions(Options):
    """Mean negative log-probability of the right class."""

    kind: Literal["log-loss"] = "log-loss"


@register("metric", "reinforge.evaluation.metrics.category:Brier")
class BrierOptions(Options):
    """Mean squared error of the probabilities."""

    kind: Literal["brier"] = "brier"


@register("metric", "reinforge.evaluation.metrics.category:CalibrationError")
class CalibrationErrorOptions(Options):
    """Expected calibration error: how far confidence is from accuracy, over bins of equal width."""

    kind: Literal["calibration-error"] = "calibration-error"
    bins: Annotated[int, Field(ge=1, le=1000)] = Field(15, description="How many bins of confidence.")


@register("metric", "reinforge.evaluation.metrics.labels:SubsetAccuracy")
class SubsetAccuracyOptions(Options):
    """Part of the rows whose labels are all right."""

    kind: Literal["subset-accuracy"] = "subset-accuracy"


@register("metric", "reinforge.evaluation.metrics.labels:HammingLoss")
class HammingLossOptions(Options):
    """Part of all labels that are wrong."""

    kind: Literal["hamming-loss"] = "hamming-loss"


@register("metric", "reinforge.evaluation.metrics.labels:MacroF1")
class MacroF1Options(Options):
    """F1 of each label, averaged over labels."""

    kind: Literal["labels-f1"] = "labels-f1"


@register("metric", "reinforge.evaluation.metrics.labels:MicroF1")
class MicroF1Options(Options):
    """F1 of all labels of all rows as one."""

    kind: Literal["labels-micro-f1"] = "labels-micro-f1"


@register("metric", "reinforge.evaluation.metrics.labels:LabelsROCAUC")
class LabelsROCAUCOptions(Options):
    """Area under the ROC curve of each label, averaged over labels."""

    kind: Literal["labels-roc-auc"] = "labels-roc-auc"


@register("metric", "reinforge.evaluation.metrics.labels:LabelsAveragePrecision")
class LabelsAveragePrecisionOptions(Options):
    """Average precision of each label, averaged over labels."""

    kind: Literal["labels-average-precision"] = "labels-average-precision"


@register("metric", "reinforge.evaluation.metrics.labels:LabelsLogLoss")
class LabelsLogLossOptions(Options):
    """Mean binary cross-entropy over labels."""

    kind: Literal["labels-log-loss"] = "labels-log-loss"


@register("metric", "reinforge.evaluation.metrics.ordinal:RankAccuracy")
class RankAccuracyOptions(Options):
    """Part of the rows whose class is right."""

    kind: Literal["rank-accuracy"] = "rank-accuracy"


@register("metric", "reinforge.evaluation.metrics.ordinal:RankError")
class RankErrorOptions(Options):
    """Mean absolute error in ranks."""

    kind: Literal["rank-mae"] = "rank-mae"


@register("metric", "reinforge.evaluation.metrics.ordinal:QuadraticKappa")
class QuadraticKappaOptions(Options):
    """Cohen's kappa with quadratic weights: agreement beyond chance, up to 1."""

    kind: Literal["quadratic-kappa"] = "quadratic-kappa"


@register("metric", "reinforge.evaluation.metrics.number:R2")
class R2Options(Options):
    """Part of the variance that is explained."""

    kind: Literal["r2"] = "r2"


@register("metric", "reinforge.evaluation.metrics.number:RMSE")
class RMSEOptions(Options):
    """Root of the mean squared error, in units of the target."""

    kind: Literal["rmse"] = "rmse"


@register("metric", "reinforge.evaluation.metrics.number:MAE")
class MAEOptions(Options):
    """Mean absolute error, in units of the target."""

    kind: Literal["mae"] = "mae"


@register("metric", "reinforge.evaluation.metrics.number:MAPE")
class MAPEOptions(Options):
    """Mean absolute error as a share of the target; where no target is near 0."""

    kind: Literal["mape"] = "mape"


@register("metric", "reinforge.evaluation.metrics.number:QuantileLoss")
class QuantileLossOptions(Options):
    """Mean pinball loss of a quantile, in units of the target; measured where it is asked for."""

    kind: Literal["quantile-loss"] = "quantile-loss"
    quantile: float = Field(
        0.5, gt=0, lt=1, description="Which quantile; an error upwards costs this, one downwards the rest."
    )


@register("metric", "reinforge.evaluation.metrics.number:PoissonDeviance")
class PoissonDevianceOptions(Options):
    """Mean Poisson deviance of expected and true counts."""

    kind: Literal["poisson-deviance"] = "poisson-deviance"


@register("metric", "reinforge.evaluation.metrics.number:CountMAE")
class CountMAEOptions(Options):
    """Mean absolute difference of expected and true counts."""

    kind: Literal["count-mae"] = "count-mae"


@register("metric", "reinforge.evaluation.metrics.span:ExactMatch")
class ExactMatchOptions(Options):
    """Part of the rows whose span is right at both ends."""

    kind: Literal["exact-match"] = "exact-match"


@register("metric", "reinforge.evaluation.metrics.span:TokenF1")
class TokenF1Options(Options):
    """F1 of the tokens of the decided and the true span."""

    kind: Literal["token-f1"] = "token-f1"
