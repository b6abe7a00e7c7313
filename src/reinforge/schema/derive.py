"""From a fitted schema to the signature of the model that fits it."""

from __future__ import annotations

from reinforge.errors import DataError
from reinforge.schema.fields import Box, Category, Continuous, Discrete, Number, Text
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature


def signature(schema: Schema) -> Signature:
    """The tensor blocks of a fitted schema.

    All numeric inputs are one block "numbers" (the numbers, then the missing indicators), all categorical inputs one
    block "categories"; a box is a block of its own name. Raises DataError where a category has no labels yet, or a
    field needs a tokenizer.
    """
    inputs: dict[str, Input] = {}
    width = len(schema.numbers) + sum(field.indicator for field in schema.numbers)
    if width:
        inputs["numbers"] = Input(form="numbers", shape=(width,))
    if schema.categories:
        inputs["categories"] = Input(form="categories", sizes=tuple(_size(field) for field in schema.categories))
    outputs: dict[str, Output] = {}
    for field in schema.fields:
        match field:
            case Box():
                inputs[field.name] = Input(form="box", shape=field.shape)
            case Text():
                raise DataError(f"text field {field.name!r} has no block in a table's signature")
            case Number(role="target"):
                outputs[field.name] = Output(form="number", size=1)
            case Category(role="target"):
                outputs[field.name] = Output(form="category", size=_size(field))
            case Discrete():
                outputs[field.name] = Output(form="discrete", size=field.n)
            case Continuous():
                outputs[field.name] = Output(form="continuous", size=len(field.low), low=field.low, high=field.high)
            case _:
                pass
    return Signature(inputs=inputs, outputs=outputs)


def _size(field: Category) -> int:
    if not field.labels:
        raise DataError(f"category {field.name!r} has no labels yet", remedy="Fit a pipeline, or declare its labels.")
    return field.size
