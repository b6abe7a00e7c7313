"""From a fitted schema to the signature of the model that fits it."""

from __future__ import annotations

from reinforge.errors import DataError
from reinforge.schema.fields import (
    Box,
    Category,
    Continuous,
    Discrete,
    Field,
    Image,
    Labels,
    MultiDiscrete,
    Number,
    Span,
    Text,
    Vector,
)
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature


def signature(schema: Schema) -> Signature:
    """The tensor blocks of a fitted schema.

    All numeric inputs and dates are one block "numbers" (the numbers, then the missing indicators), all categorical
    inputs one block "categories"; a text, an image, a set of labels or a box is a block of its own name. Raises
    DataError where a field has no labels or no tokenizer yet.
    """
    inputs: dict[str, Input] = {}
    numbers, categories = schema.numbers, schema.categories
    width = len(numbers) + sum(number.indicator for number in numbers)
    if width:
        inputs["numbers"] = Input(form="numbers", shape=(width,))
    if categories:
        inputs["categories"] = Input(form="categories", sizes=tuple(_size(field) for field in categories))
    for field in schema.inputs:
        block = _input(field)
        if block is not None:
            inputs[field.name] = block
    return Signature(inputs=inputs, outputs={field.name: _output(field, schema) for field in schema.targets})


def _input(field: Field) -> Input | None:
    """The block of an input that has one of its own."""
    match field:
        case Box():
            return Input(form="box", shape=field.shape)
        case Image():
            return Input(form="image", shape=field.shape)
        case Labels():
            return Input(form="numbers", shape=(_size(field),))
        case Text():
            if not field.vocabulary:
                raise DataError(f"text {field.name!r} has no tokenizer yet", remedy="Fit a pipeline.")
            shape = () if field.length is None else (field.length,)
            return Input(form="tokens", shape=shape, sizes=(field.vocabulary,))
        case _:
            return None


def _output(field: Field, schema: Schema) -> Output:
    match field:
        case Number():
            return Output(form="count" if field.count else "number", size=1)
        case Vector():
            return Output(form="number", size=len(field.columns))
        case Category():
            return Output(form="ordinal" if field.ordered else "category", size=_size(field))
        case Labels():
            return Output(form="labels", size=_size(field))
        case Span():
            text = schema.field(field.of)
            if not isinstance(text, Text) or text.length is None:
                raise DataError(
                    f"the span {field.name!r} needs a text of limited length",
                    where=f"field {field.of!r}",
                    remedy="Set its `length`, the most tokens that are read.",
                )
            return Output(form="span", size=text.length, of=field.of)
        case Discrete():
            return Output(form="discrete", size=field.n)
        case MultiDiscrete():
            return Output(form="multi-discrete", size=sum(field.sizes), sizes=field.sizes)
        case Continuous():
            return Output(form="continuous", size=len(field.low), low=field.low, high=field.high)
    raise DataError(f"a {field.kind} can't be a target", where=f"field {field.name!r}")


def _size(field: Category | Labels) -> int:
    size = field.size if isinstance(field, Category) else len(field.labels)
    if not field.labels and not (isinstance(field, Category) and field.hashed):
        raise DataError(f"{field.name!r} has no labels yet", remedy="Fit a pipeline, or declare its labels.")
    return size
