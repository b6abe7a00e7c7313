"""The estimators of scikit-learn that classic models are fitted by."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from reinforge.errors import ComponentError, MissingExtra
from reinforge.models.classic.options import (
    BoostingOptions,
    ClassicOptions,
    ForestOptions,
    LinearOptions,
    TreeOptions,
)
from reinforge.registry import Options
from reinforge.schema.signature import Output

_COMMON = {
    "category": {"cross-entropy": ""}, "ordinal": {"cross-entropy": ""}, "labels": {"binary-cross-entropy": ""},
    "count": {"poisson": "poisson"},
}  # fmt: skip
_TREES = {**_COMMON, "number": {"mse": "squared_error", "mae": "absolute_error"}}
# By form of output: the losses that an estimator minimises, and what scikit-learn calls them. The first is the default.
LOSSES: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType({
    "linear": {**_COMMON, "number": {"mse": ""}},
    "tree": _TREES,
    "forest": _TREES,
    "boosting": {
        **_COMMON, "number": {"mse": "squared_error", "mae": "absolute_error", "quantile": "quantile"},
    },
})  # fmt: skip


def available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def require() -> None:
    """Raise MissingExtra without scikit-learn."""
    if not available():
        raise MissingExtra("scikit-learn", "data")


def part(name: str) -> Any:
    """A module of scikit-learn, which has no types. Raises MissingExtra."""
    require()
    return importlib.import_module(f"sklearn.{name}")


def loss_of(kind: str, name: str, output: Output, loss: Options | None) -> str:
    """What scikit-learn calls the loss that a model of that kind minimises. Raises ComponentError where it can't."""
    known = LOSSES[kind][output.form]
    if loss is None:
        return next(iter(known.values()))
    chosen = str(getattr(loss, "kind", ""))
    if chosen not in known or getattr(loss, "smoothing", 0.0) != 0.0:
        found = f"{chosen} with smoothing" if chosen in known else chosen
        raise ComponentError(
            f"a model of kind {kind!r} does not minimise {found}",
            where=f"objective.losses.{name}",
            remedy=f"It minimises: {', '.join(known)}.",
        )
    return known[chosen]


def estimator(
    options: ClassicOptions,
    output: Output,
    loss: Options | None,
    rows: int,
    *,
    name: str = "",
    categorical: list[bool] | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Any:
    """The estimator of one value, one label, or one category, of `rows` training rows; not fitted yet.

    `categorical`: which columns are codes, for boosting. Raises ComponentError for a loss that it doesn't minimise, and
    MissingExtra.
    """
    criterion = loss_of(str(getattr(options, "kind", "")), name, output, loss)
    classes = output.form in ("category", "ordinal", "labels")
    match options:
        case LinearOptions(l2=l2):
            models = part("linear_model")
            if classes:
                return models.LogisticRegression(C=1 / l2, max_iter=2000)
            # Its penalty stands beside the mean loss of the rows, not their sum.
            return models.PoissonRegressor(alpha=l2 / rows, max_iter=2000) if criterion else models.Ridge(alpha=l2)
        case TreeOptions() | ForestOptions():
            common: dict[str, Any] = {
                "max_depth": options.depth, "min_samples_leaf": options.leaf_rows, "random_state": seed,
            }  # fmt: skip
            common |= {"criterion": criterion} if criterion else {}
            if isinstance(options, TreeOptions):
                models = part("tree")
                return (models.DecisionTreeClassifier if classes else models.DecisionTreeRegressor)(**common)
            models = part("ensemble")
            common |= {"n_estimators": options.trees, "n_jobs": threads}
            return (models.RandomForestClassifier if classes else models.RandomForestRegressor)(**common)
        case BoostingOptions():
            models = part("ensemble")
            common = {
                "max_iter": options.rounds, "learning_rate": options.rate, "max_leaf_nodes": options.leaves,
                "min_samples_leaf": options.leaf_rows or max(2, min(20, rows // 20)), "l2_regularization": options.l2,
                "categorical_features": categorical if categorical and any(categorical) else None,
                "early_stopping": False, "random_state": seed,
            }  # fmt: skip
            if classes:
                return models.HistGradientBoostingClassifier(**common)
            level = {"quantile": getattr(loss, "level", None)} if criterion == "quantile" else {}
            return models.HistGradientBoostingRegressor(loss=criterion, **level, **common)
    raise ComponentError(f"nothing fits a model of kind {getattr(options, 'kind', '?')!r}", where="model")
