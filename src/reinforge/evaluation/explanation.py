"""What a classic model goes by: weights of a linear one, importances of the inputs of trees, the rules of one tree.

Names and units are the data's own. As data, so that the page can be drawn again, and in another language.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.blocks import NumbersBlock
from reinforge.data.pipeline import Pipeline
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.linear import Linear, Weighted
from reinforge.models.classic.trees import OfTrees, Tree, Trees
from reinforge.registry import Options
from reinforge.schema.fields import Category, Date, Labels, Vector
from reinforge.schema.fields import Field as AnyField

MOST_WEIGHTS = 200
# Of permutations: rows, columns above which there are fewer repeats, and above which there are none.
_ROWS, _REPEATS, _SOME_FIELDS, _MOST_FIELDS = 2_000, 5, 60, 500
MOST_RULES, MOST_DEPTH = 200, 8
Sign = Literal["", "<=", ">", "is", "is not", "missing", "there", "has", "has not"]


class Weight(Options):
    """Of one input: a weight for each of the columns, or by how much the loss rises without it, with its deviation."""

    name: str
    values: tuple[float, ...]
    deviation: float | None = None


class Rule(Options):
    """A node of a tree: what leads to it, how many training rows came there, and of a leaf the answer.

    `share`: the part of its rows for which the answer holds.
    """

    depth: int
    column: str = ""
    sign: Sign = ""
    value: str = ""
    rows: int
    answer: str | None = None
    share: float | None = None


class Explained(Options):
    """What one output goes by. `columns`: what weights are for: classes, labels, or the numbers of a vector.

    Weights are the change of a logit, of the target's own units, or of the logarithm of a rate by one deviation of a
    number, or by a label that holds. Importances are means over shuffles of the rise of `loss` on `rows` rows of the
    side `on`. `left_out`: how many inputs have less than those that are listed.
    """

    output: str
    form: str
    kind: Literal["weights", "importances"]
    columns: tuple[str, ...] = ()
    weights: tuple[Weight, ...] = ()
    left_out: int = 0
    on: str | None = None
    rows: int = 0
    loss: float | None = None
    rules: dict[str, tuple[Rule, ...]] = Field({}, description="Of each tree, where there is one for each value.")


class Explanation(Options):
    """What a model goes by, output by output."""

    version: Literal[1] = 1
    outputs: tuple[Explained, ...]


def explain(
    model: Classic, learner: nn.Module, pipeline: Pipeline, train: Batch, evaluator: SupervisedEvaluator, on: str,
    seed: int = 0,
) -> Explanation:  # fmt: skip
    """What the model goes by. `evaluator`: of the rows of the side `on`, on which importances are measured."""
    names = column_names(model, pipeline)
    if isinstance(model, Linear):
        return Explanation(outputs=tuple(_weights(model, pipeline, train, names)))
    found = tuple(_importances(learner, pipeline, evaluator, on, seed))
    if isinstance(model, Tree):
        rules = _Rules(model, pipeline, names)
        found = tuple(each.model_copy(update={"rules": rules.of(each.output)}) for each in found)
    return Explanation(outputs=found)


def column_names(model: Classic, pipeline: Pipeline) -> list[str]:
    """The design matrix's columns, by the names of the fields and their labels."""
    labels = {field.name: code_names(field) for field in pipeline.schema.categories}
    return model.design.names(pipeline.feature_names, labels)


def code_names(field: Category) -> list[str]:
    """What the codes of a category stand for."""
    slots = ["(unknown)"] * (field.unknown_code is not None) + ["(missing)"] * (field.missing_code is not None)
    return [*slots, *(map(str, range(field.buckets)) if field.hashed else field.labels)]


def _columns(field: AnyField, size: int) -> tuple[str, ...]:
    """What the values of an output are called."""
    if isinstance(field, Category | Labels):
        return field.labels
    return field.columns if isinstance(field, Vector) else (field.name,)[:size]


def _weights(model: Linear, pipeline: Pipeline, train: Batch, names: Sequence[str]) -> Iterator[Explained]:
    design = model.design
    rows = batches.part(batches.section(train, "inputs"), 0, 100_000)
    spread = design(rows).double().std(0, correction=0)
    alone = torch.tensor([source.code is not None for source in design.sources])
    scale = torch.where(alone, 1.0, spread)
    for name, output in model.signature.outputs.items():
        part = model.parts[name]
        assert isinstance(part, Weighted)
        weight = part.weight * scale[:, None]
        columns = _columns(pipeline.schema.field(name), output.size)
        if output.form in ("category", "ordinal") and output.size == 2:
            weight, columns = weight[:, 1:] - weight[:, :1], columns[1:]
        if output.form == "number":
            weight = weight * _slope(pipeline, name, output.size)
        order = weight.abs().amax(1).argsort(descending=True, stable=True).tolist() if len(weight) else []
        order = [place for place in order if spread[place] > 0]  # what no training row told apart has nothing to say
        listed = [Weight(name=names[i], values=tuple(weight[i].tolist())) for i in order[:MOST_WEIGHTS]]
        yield Explained(
            output=name, form=output.form, kind="weights", columns=columns, weights=tuple(listed),
            left_out=len(order) - len(listed),
        )  # fmt: skip


def _slope(pipeline: Pipeline, name: str, size: int) -> Tensor:
    """What 1 of a scaled target is in its own units, (size,); 1 where that depends on where one is."""
    line = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[:, None].expand(3, size)
    own = torch.as_tensor(np.asarray(pipeline.inverse(name, line.contiguous()))).reshape(3, size)
    straight = torch.isclose(own[1] - own[0], own[2] - own[1], rtol=1e-6)
    return torch.where(straight, own[2] - own[0], 1.0)


def places(pipeline: Pipeline) -> dict[str, list[tuple[str, list[int] | None]]]:
    """By input field, where it stands: blocks, and which columns of them (all where None)."""
    schema, found = pipeline.schema, dict[str, list[tuple[str, list[int] | None]]]()
    owners = [f.name for f in schema.numeric for _each in (f.numbers if isinstance(f, Date) else (f,))]
    flags = [owner for owner, number in zip(owners, schema.numbers) if number.indicator]
    for place, owner in enumerate([*owners, *flags]):
        columns = found.setdefault(owner, [("numbers", [])])[0][1]
        assert columns is not None
        columns.append(place)
    for place, field in enumerate(schema.categories):
        found[field.name] = [("categories", [place])]
    return found | {name: [(name, None)] for name in pipeline.blocks if name not in ("numbers", "categories")}


def _importances(
    learner: nn.Module, pipeline: Pipeline, evaluator: SupervisedEvaluator, on: str, seed: int
) -> Iterator[Explained]:
    """By how much the loss rises when one field's values are shuffled among the rows (Breiman, 2001)."""
    fields = places(pipeline)
    generator = torch.Generator().manual_seed(seed)
    data = evaluator.data
    if batches.rows(data) > _ROWS:
        some = torch.randperm(batches.rows(data), generator=generator)[:_ROWS].sort().values
        data = batches.select(data, some)
    count = batches.rows(data)
    repeats = 0 if len(fields) > _MOST_FIELDS else _REPEATS if len(fields) <= _SOME_FIELDS else 1
    plain = evaluator.judge(learner, [data]).losses
    rises: dict[str, dict[str, list[float]]] = {name: {field: [] for field in fields} for name in plain}
    for _time in range(repeats):
        order = torch.randperm(count, generator=generator)
        for field, blocks in fields.items():
            shuffled = evaluator.judge(learner, [{**data, "inputs": _shuffled(data, blocks, order)}]).losses
            for name, value in shuffled.items():
                rises[name][field].append(value - plain[name])
    for name, output in evaluator.signature.outputs.items():
        weights = [
            Weight(
                name=field, values=(float(np.mean(found)),),
                deviation=float(np.std(found, ddof=1)) if len(found) > 1 else None,
            )
            for field, found in rises.get(name, {}).items()
            if found
        ]  # fmt: skip
        weights.sort(key=lambda weight: -weight.values[0])
        yield Explained(
            output=name, form=output.form, kind="importances", weights=tuple(weights[:MOST_WEIGHTS]),
            left_out=max(0, len(weights) - MOST_WEIGHTS), on=on, rows=count, loss=plain.get(name),
        )  # fmt: skip


def _shuffled(data: Batch, blocks: Sequence[tuple[str, list[int] | None]], order: Tensor) -> Batch:
    inputs = dict(batches.section(data, "inputs"))
    for block, columns in blocks:
        value = inputs[block]
        assert isinstance(value, Tensor)
        if columns is None:
            inputs[block] = value[order]
        else:
            changed = value.clone()
            changed[:, columns] = value[order][:, columns]
            inputs[block] = changed
    return inputs


class _Rules:
    """The nodes of decision trees, in the data's own terms."""

    def __init__(self, model: OfTrees, pipeline: Pipeline, names: Sequence[str]) -> None:
        self.model, self.pipeline, self.names = model, pipeline, names
        self.fields = {f.name: f for f in pipeline.schema.fields}

    def of(self, output: str) -> dict[str, tuple[Rule, ...]]:
        """By the name of the value that a tree is for; one tree has the output's own."""
        trees = self.model.parts[output]
        assert isinstance(trees, Trees)
        columns = _columns(self.fields[output], len(trees.base))
        several = len(trees.roots) > 1
        return {
            columns[int(column)] if several else output: tuple(self._nodes(output, trees, int(root), int(column)))
            for root, column in zip(trees.roots, trees.column)
        }

    def _nodes(self, output: str, trees: Trees, root: int, column: int) -> Iterator[Rule]:
        waiting: list[tuple[int, int, str, Sign, str]] = [(root, 0, "", "", "")]
        left = MOST_RULES
        while waiting and left:
            left -= 1
            node, depth, name, sign, value = waiting.pop()
            low, high = (int(place) for place in trees.below[node])
            rows = int(trees.rows[node])
            step = {"depth": depth, "column": name, "sign": sign, "value": value, "rows": rows}
            if low == node or depth == MOST_DEPTH:
                answer, share = self._answer(output, trees.value[node], column)
                yield Rule(**step, answer=answer, share=share)
                continue
            yield Rule(**step)
            no, yes = self._tests(int(trees.feature[node]), float(trees.threshold[node]))
            waiting += [(high, depth + 1, *yes), (low, depth + 1, *no)]

    def _tests(self, feature: int, threshold: float) -> tuple[tuple[str, Sign, str], tuple[str, Sign, str]]:
        """What leads to the first node below, and to the second."""
        source, name = self.model.design.sources[feature], self.names[feature]
        if source.code is not None:
            field = self.pipeline.schema.categories[source.place]
            label = code_names(field)[source.code]
            return (field.name, "is not", label), (field.name, "is", label)
        if source.block != "numbers":
            form = self.model.signature.inputs[source.block]
            if form.form == "numbers":
                label = self.pipeline.feature_names[source.block][source.place]
                return (source.block, "has not", label), (source.block, "has", label)
            return (name, "<=", f"{threshold:.4g}"), (name, ">", f"{threshold:.4g}")
        block = self.pipeline.blocks["numbers"]
        assert isinstance(block, NumbersBlock)
        numbers = self.pipeline.schema.numbers
        if source.place >= len(numbers):
            return (name.removesuffix(" is missing"), "there", ""), (name.removesuffix(" is missing"), "missing", "")
        row = np.zeros((1, len(block.names)))
        row[0, source.place] = threshold
        for step in reversed(block.operations):
            invert = getattr(step, "invert", None)
            row = invert(row) if invert is not None else row
        own = f"{row[0, source.place]:.4g}"
        return (name, "<=", own), (name, ">", own)

    def _answer(self, output: str, value: Tensor, column: int) -> tuple[str, float | None]:
        field, form = self.fields[output], self.model.signature.outputs[output].form
        if form in ("category", "ordinal"):
            best = int(value.argmax())
            return _columns(field, len(value))[best], float(value[best])
        if form == "labels":
            return _columns(field, len(value))[column], float(value[0])
        if form == "count":
            return f"{float(value[0]):.4g}", None
        size = self.model.signature.outputs[output].size
        own = np.asarray(self.pipeline.inverse(output, value.expand(1, size).contiguous())).reshape(-1)
        return f"{own[column]:.4g}", None


def explanation_of(
    learner: nn.Module, pipeline: Pipeline, train: Batch, sides: Mapping[str, SupervisedEvaluator], seed: int = 0
) -> Explanation | None:
    """What the learner's model goes by, measured on the side that it saw least of; None for a network."""
    model = learner.get_submodule("model")
    if not isinstance(model, Classic):
        return None
    on = next(side for side in ("test", "validation", "train") if side in sides)
    return explain(model, learner, pipeline, train, sides[on], on, seed)
