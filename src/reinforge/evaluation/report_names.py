"""What metrics, baselines and choices are called on a page."""

from __future__ import annotations

from reinforge.messages import _, mark

METRICS = {
    "loss": mark("loss"),
    "accuracy": mark("accuracy"),
    "balanced-accuracy": mark("balanced accuracy"),
    "precision": mark("precision"),
    "recall": mark("recall"),
    "f1": "F1",
    "matthews": mark("Matthews correlation"),
    "roc-auc": "ROC AUC",
    "average-precision": mark("average precision"),
    "log-loss": mark("log loss"),
    "brier": mark("Brier score"),
    "calibration-error": mark("calibration error"),
    "subset-accuracy": mark("all labels right"),
    "hamming-loss": mark("Hamming loss"),
    "labels-f1": mark("F1, mean of labels"),
    "labels-micro-f1": mark("F1 of all labels as one"),
    "labels-roc-auc": mark("ROC AUC, mean of labels"),
    "labels-average-precision": mark("average precision, mean of labels"),
    "labels-log-loss": mark("log loss"),
    "rank-accuracy": mark("accuracy"),
    "rank-mae": mark("error in ranks"),
    "quadratic-kappa": mark("quadratic kappa"),
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "mape": "MAPE",
    "quantile-loss": mark("quantile loss"),
    "poisson-deviance": mark("Poisson deviance"),
    "count-mae": "MAE",
    "exact-match": mark("exact match"),
    "token-f1": mark("F1 of tokens"),
    "return": mark("return"),
    "return_iqm": mark("return, mean of the middle half"),
    "return_std": mark("deviation of returns"),
    "return_min": mark("least return"),
    "return_max": mark("greatest return"),
    "length": mark("steps of an episode"),
    "success": mark("rate of success"),
    "episodes": mark("episodes"),
    "bits_per_character": mark("bits per character"),
    "bits_per_token": mark("bits per token"),
    "perplexity": mark("perplexity"),
    "reward": mark("reward"),
    "tokens": mark("tokens of an answer"),
    "truncated": mark("cut off before their end"),
    "low": mark("95% interval, from"),
    "high": mark("95% interval, to"),
}
SIDES = {
    "train": mark("train"), "validation": mark("validation"), "test": mark("test"), "final": mark("final"),
    "mean": mark("mean"), "deviation": mark("deviation"),
    "iqm": mark("interquartile mean"), "low": mark("from"), "high": mark("to"),
}  # fmt: skip
CRITERIA = {
    "f1": mark("the best F1"), "balanced-accuracy": mark("the best balanced accuracy"),
    "accuracy": mark("the best accuracy"),
}  # fmt: skip
# Kinds of fields.
KINDS = {
    "number": mark("number"), "category": mark("category"), "date": mark("date"), "labels": mark("set of labels"),
    "text": mark("text"), "image": mark("image"), "vector": mark("vector"), "span": mark("part of a text"),
}  # fmt: skip


def metric(name: str) -> str:
    """A metric's name in the language to speak now; with its output before it where it has one ("price: MAE")."""
    if name in METRICS:
        return _(METRICS[name])
    output, slash, short = name.rpartition("/")
    if slash:
        return f"{side(output)}: {metric(short)}"
    return name.replace("_", " ").replace("-", " ")


def side(name: str) -> str:
    """A side of the split, or any other word before a metric."""
    return _(SIDES[name]) if name in SIDES else name


def kind(name: str) -> str:
    """A kind of field."""
    return _(KINDS[name]) if name in KINDS else name


def title(name: str) -> str:
    """The same with a capital."""
    text = metric(name)
    return text[:1].upper() + text[1:]
