"""Composed models against hand-built networks; options, names and errors; a user's module behind the contract."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.composed import Composed, Wrapped
from reinforge.models.named import Named
from reinforge.models.options import ComposedOptions
from reinforge.schema.signature import Input, Output, Signature

TABLE = Signature(
    inputs={"numbers": Input(form="numbers", shape=(4,)), "categories": Input(form="categories", sizes=(3, 2))},
    outputs={"price": Output(form="number", size=1), "type": Output(form="category", size=3)},
)


def rows(n: int = 7) -> Batch:
    g = torch.Generator().manual_seed(0)
    columns = [torch.randint(0, size, (n,), generator=g) for size in (3, 2)]
    return {"numbers": torch.randn(n, 4, generator=g), "categories": torch.stack(columns, 1)}


def test_equals_the_same_network_built_by_hand() -> None:
    model = Composed(ComposedOptions.model_validate({"body": {"kind": "mlp", "sizes": [6, 5], "norm": "layer"}}), TABLE)
    weights = model.state_dict()
    inputs = rows()
    numbers, categories = inputs["numbers"], inputs["categories"]
    table = weights["encoders.categories.tables.0"]
    # One table for all columns: the second column's rows begin after the first's three.
    h = torch.cat([numbers, table[categories[:, 0]], table[3 + categories[:, 1]]], 1)  # type: ignore[index, list-item]
    for i in range(2):
        h = h @ weights[f"body.linears.{i}.weight"].T + weights[f"body.linears.{i}.bias"]
        h = functional.layer_norm(h, h.shape[1:], weights[f"body.norms.{i}.weight"], weights[f"body.norms.{i}.bias"])
        h = h.clamp(min=0)
    outputs, state = model(inputs)
    assert state is None
    heads = {name: dict(head.named_parameters()) for name, head in model.heads.items()}
    for name, output in outputs.items():
        expected = h @ heads[name]["projection.weight"].T + heads[name]["projection.bias"]
        torch.testing.assert_close(output, expected)


def test_one_hot_with_identity_is_a_linear_model() -> None:
    options = ComposedOptions.model_validate({"encoders": {"categories": "one-hot"}, "body": "identity"})
    model = Composed(options, TABLE)
    inputs = rows()
    categories = inputs["categories"]
    hot = [functional.one_hot(categories[:, i], size) for i, size in enumerate((3, 2))]  # type: ignore[index]
    x = torch.cat([inputs["numbers"], *hot], 1)  # type: ignore[list-item]
    (head,) = [head for name, head in model.heads.items() if name == "price"]
    weight, bias = head.parameters()
    torch.testing.assert_close(model(inputs)[0]["price"], x @ weight.T + bias)
    assert sum(p.numel() for p in model.parameters()) == (4 + 3 + 2 + 1) * (1 + 3)


def test_decodes_each_head() -> None:
    model = Composed(ComposedOptions(), TABLE)
    outputs, _ = model(rows())
    decoded = model.decode(outputs)
    assert torch.equal(decoded["price"]["value"], outputs["price"][:, 0])
    assert torch.equal(decoded["type"]["label"], decoded["type"]["probabilities"].argmax(1))
    torch.testing.assert_close(decoded["type"]["probabilities"].sum(1), torch.ones(7))


def test_dropout_acts_in_training_alone() -> None:
    model = Composed(ComposedOptions.model_validate({"body": {"kind": "mlp", "dropout": 0.5}}), TABLE)
    inputs = rows()
    assert not torch.equal(model(inputs)[0]["price"], model(inputs)[0]["price"])
    model.eval()
    assert torch.equal(model(inputs)[0]["price"], model(inputs)[0]["price"])


def test_bytes_are_scaled() -> None:
    box = Signature(inputs={"image": Input(form="box", shape=(2, 2))}, outputs={"y": Output(form="number", size=1)})
    model = Composed(ComposedOptions.model_validate({"body": "identity"}), box)
    pixels = torch.randint(0, 256, (3, 2, 2), dtype=torch.uint8)
    torch.testing.assert_close(model({"image": pixels})[0]["y"], model({"image": pixels.float() / 255})[0]["y"])


@pytest.mark.parametrize("names", [["type", "values"], ["a.b", "a%2Eb"], ["", "%"], ["names", "forward", "weight"]])
def test_outputs_may_have_any_name(names: list[str]) -> None:
    signature = Signature(inputs=TABLE.inputs, outputs={name: Output(form="number", size=1) for name in names})
    model, other = Composed(ComposedOptions(), signature), Composed(ComposedOptions(), signature)
    other.load_state_dict(model.state_dict())
    inputs = rows()
    outputs, again = model(inputs)[0], other(inputs)[0]
    assert list(outputs) == names
    assert all(torch.equal(outputs[name], again[name]) for name in names)
    assert len(model.state_dict()) == len(list(model.parameters()))


def test_a_replaced_module_is_the_one_that_runs() -> None:
    named = Named({"x": nn.Linear(1, 1)})
    named.x = nn.Identity()
    assert isinstance(named["x"], nn.Identity)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": {"prise": "number"}}, "no output called 'prise'"),
        ({"encoders": {"images": "flatten"}}, "no input called 'images'"),
        ({"encoders": {"numbers": "embedding"}}, "takes categories, not numbers"),
        ({"heads": {"price": {"kind": "number", "loss": "cross-entropy"}}}, "for category outputs, not number"),
        ({"heads": {"price": "category"}}, "for category and discrete outputs, not number"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ComponentError, match=said):
        Composed(ComposedOptions.model_validate(options), TABLE)


def test_wrong_options_say_where() -> None:
    with pytest.raises(ValidationError) as caught:
        ComposedOptions.model_validate({"body": {"kind": "mlp", "sizes": [0]}, "heads": {"price": {"kind": "numbr"}}})
    places = {".".join(map(str, error["loc"])) for error in caught.value.errors()}
    assert any(place.startswith("body") for place in places)
    assert any(place.startswith("heads.price") for place in places)


class Plain(nn.Module):
    """A module as a user would write it."""

    def __init__(self, size: int, flat: bool = False) -> None:
        super().__init__()
        self.linear, self.flat = nn.Linear(4, size), flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        return y[:, 0] if self.flat else y


@pytest.mark.parametrize("flat", [False, True])
def test_a_plain_module_gives_a_model(flat: bool) -> None:
    one = Signature(inputs={"numbers": TABLE.inputs["numbers"]}, outputs={"price": TABLE.outputs["price"]})
    module = Plain(1, flat)
    outputs, state = Wrapped(module, one)({"numbers": rows()["numbers"]})
    assert outputs["price"].shape == (7, 1)
    assert state is None
    assert torch.equal(outputs["price"][:, 0], module.linear(rows()["numbers"])[:, 0])


def test_a_plain_module_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ComponentError, match="one input block, and here are 2"):
        Wrapped(Plain(1), TABLE)
    one = Signature(inputs={"numbers": TABLE.inputs["numbers"]}, outputs={"type": TABLE.outputs["type"]})
    with pytest.raises(ComponentError, match=r"\(7, 2\) where \(rows, 3\) belongs"):
        Wrapped(Plain(2), one)({"numbers": rows()["numbers"]})
