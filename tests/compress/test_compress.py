"""Compressed bundles: what they hold, that they give what they state, and when they are refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reinforge.bundle.loading import load
from reinforge.compress.compress import Smaller, _hold, compress
from reinforge.compress.judged import Judged, deciding, lost
from reinforge.compress.shrinking import in_8_bits, narrower, numbers, of_low_rank, pruned, share
from reinforge.core.tensor_files import read_checked
from reinforge.errors import BundleError, DataError, IntegrityError, PathError, RecipeError
from reinforge.models.compressed import Compressed, Int8Linear, quantised, restored, restructure, unpack
from reinforge.models.options import (
    BagOptions,
    ComposedOptions,
    EmbeddingOptions,
    GateOptions,
    IdentityOptions,
    MLPOptions,
    PeriodicOptions,
    PiecewiseOptions,
    RNNOptions,
    TransformerOptions,
)
from reinforge.registry import REGISTRY
from tests.bundle import made
from tests.export import everything


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table's bundle whose linear layers are worth being made smaller."""
    folder = tmp_path_factory.mktemp("wide") / "bundle"
    form, _table = made.table_form()
    options = ComposedOptions(body=MLPOptions(sizes=(160, 160)))
    torch.manual_seed(0)
    model = REGISTRY.build("model", options, form.pipeline.signature)
    made.table_bundle(folder, options=options, model=model)
    return folder


def test_rounding_is_to_the_nearest_of_255_values_of_each_row() -> None:
    weight = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0))
    units, worth = quantised(weight)
    assert units.dtype == torch.int8
    step = weight.flatten(1).abs().amax(1) / 127
    torch.testing.assert_close(worth, step)
    assert bool(((restored(units, worth) - weight).flatten(1).abs() <= step[:, None] / 2 * 1.0001).all())
    # What is rounded already stays as it is.
    torch.testing.assert_close(restored(*quantised(restored(units, worth))), restored(units, worth), rtol=1e-6, atol=0)


def test_a_layer_in_8_bits_gives_products_of_whole_numbers_and_rows_stay_apart() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 8)
    x = torch.randn(5, 3, 64)
    plain = layer(x).detach()
    layer.__class__ = Int8Linear
    with torch.inference_mode():
        found = layer(x)
        units, worth = quantised(layer.weight)
        step = x.abs().amax(-1, keepdim=True) / 127
        whole = (x / step).round().to(torch.int64) @ units.to(torch.int64).T
        torch.testing.assert_close(found, whole.float() * step * worth + layer.bias)
        assert torch.equal(found[2:3], layer(x[2:3])), "a row's neighbours must not change it"
    assert float((found - plain).abs().max()) < 0.05 * float(plain.abs().max())


@pytest.mark.parametrize("method", ["int8", "int8-weight"])
def test_8_bits_are_stored_as_such_and_verified(wide: Path, tmp_path: Path, method: str) -> None:
    found = compress(wide, method, tmp_path / "out", data=made.rows(60, seed=5), tolerance=0.2)
    assert found.smaller > 3
    again = load(tmp_path / "out")
    assert again.parents == (load(wide).digest,)
    assert again.folder is not None
    stored = read_checked(again.folder, "weights.safetensors")
    assert {t.dtype for name, t in stored.items() if name.endswith("linears.1.weight")} == {torch.int8}
    given = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in made.rows(9, seed=3)]
    for mine, theirs in zip(again.predict(given), load(wide).predict(given), strict=True):
        assert mine["price"]["value"] == pytest.approx(theirs["price"]["value"], abs=0.5)
    assert any(isinstance(module, Int8Linear) for module in again.model.modules()) == (method == "int8")


def test_a_low_rank_of_everything_is_the_layer_itself(wide: Path) -> None:
    bundle = load(wide)
    changed, change = of_low_rank(bundle.model, 0.999)
    assert change.low_rank["body.linears.1"] == 79
    exact, _change = of_low_rank(bundle.model, 0.5)
    weight = dict(bundle.model.named_parameters())["body.linears.1.weight"].detach()
    layer = exact.get_submodule("body.linears.1")
    left, values, right = np.linalg.svd(weight.double().numpy())
    rank = layer.down.shape[0]
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose((layer.up @ layer.down).detach().numpy(), best, atol=1e-5)
    assert changed is not exact


def test_pruning_keeps_the_units_with_the_largest_weights_wherever_they_stand(wide: Path) -> None:
    bundle = load(wide)
    model = bundle.model
    last = model.get_submodule("body.linears.1")
    with torch.no_grad():
        # Units that nothing depends on: without them the network is what it was.
        for name, parameter in model.named_parameters():
            if name.startswith("body."):
                parameter[80:] = 0
        last.weight[:, 80:] = 0
        for head in model.heads._modules.values():
            head.projection.weight[:, 80:] = 0
    assert bundle.blueprint.options is not None
    small, less = pruned(model, bundle.blueprint.options, 0.5, bundle.signature)
    assert less.body.sizes == (80, 80)
    inputs = bundle.form.inputs(
        [{k: v for k, v in row.items() if k in ("size", "mass", "island")} for row in made.rows(6)]
    )
    for name, output in model(inputs)[0].items():
        torch.testing.assert_close(small(inputs)[0][name], output)


@pytest.mark.slow
def test_pruned_low_rank_and_distilled_networks_recover(wide: Path, tmp_path: Path) -> None:
    data, given = made.rows(60, seed=5), made.rows(200, seed=6)
    for method, options in (("prune", None), ("low-rank", None), ("distill", {"body": {"sizes": [24]}})):
        found = compress(
            wide, method, tmp_path / method, data=data, train=given, updates=150, tolerance=0.9, options=options
        )
        assert found.smaller > 1.8, method
        again, rows = load(tmp_path / method), given[:50]
        pairs = zip(again.predict(rows), load(wide).predict(rows), strict=True)
        apart = [abs(mine["price"]["value"] - theirs["price"]["value"]) for mine, theirs in pairs]
        assert np.mean(apart) < 1.0, method
        shutil.rmtree(tmp_path / method)


@pytest.mark.slow
def test_what_misses_its_goal_or_tolerance_is_refused_and_nothing_is_left(wide: Path, tmp_path: Path) -> None:
    data = made.rows(60, seed=5)
    with pytest.raises(RecipeError, match="no smaller"):
        compress(wide, "distill", tmp_path / "a", goal="size", data=data, train=data, updates=1, tolerance=0.99,
                 options={"body": {"sizes": [400, 400]}})  # fmt: skip
    assert not (tmp_path / "a").exists()
    kept = compress(wide, "distill", tmp_path / "a", goal="size", data=data, train=data, updates=1, force=True,
                    options={"body": {"sizes": [400, 400]}})  # fmt: skip
    assert kept.smaller < 1
    before = Judged("accuracy", 0.9, 100, 200, 1.0, 2.0)
    assert lost(before, Judged("accuracy", 0.88, 50, 100, 2.0, 2.0)) == pytest.approx(0.02)
    assert lost(
        Judged("perplexity", 10.0, 1, 1, 1.0, 1.0), Judged("perplexity", 11.0, 1, 1, 1.0, 1.0)
    ) == pytest.approx(0.1)
    assert deciding({"a/accuracy": 0.5, "b/accuracy": 1.0, "loss": 3.0}) == ("accuracy", 0.75)
    with pytest.raises(DataError, match="could be judged"):
        deciding({"seconds": 1.0})


def test_mistakes_are_named(wide: Path, tmp_path: Path) -> None:
    for keywords, message in (
        ({"method": "zip"}, "no method"), ({"method": "int8", "goal": "beauty"}, "no goal"),
        ({"method": "prune", "keep": 1.5}, "out of bounds"), ({"method": "distill"}, "which network"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            compress(wide, **{"output": tmp_path / "x", **keywords})  # type: ignore[arg-type]
    with pytest.raises(PathError, match="there already"):
        compress(wide, "int8", tmp_path)
    with pytest.raises(RecipeError, match="no width"):
        narrower(ComposedOptions(body=MLPOptions(sizes=(4,))), 0.5, load(wide).signature)


def test_hostile_parts_are_refused(wide: Path, tmp_path: Path) -> None:
    compress(wide, "int8", tmp_path / "out", data=made.rows(60, seed=5), force=True)
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    for change in ({"packed": ["no/such"]}, {"int8": ["heads"]}, {"low_rank": {"body.linears.1": 10**6}}, {"more": 1}):
        made.rewrite(
            tmp_path / "out", "model.json", json.dumps({**told, "compressed": {**told["compressed"], **change}})
        )
        with pytest.raises(BundleError):
            load(tmp_path / "out")
    with pytest.raises(IntegrityError, match="no number"):
        unpack({"w": torch.zeros(2, 2, dtype=torch.int8), "w/scale": torch.tensor([1.0, float("inf")])}, ("w",))
    with pytest.raises(IntegrityError, match="no plain layer"):
        restructure(nn.ReLU(), Compressed(int8=("weight",)))


def test_shared_and_small_weights_keep_their_type(tmp_path: Path) -> None:
    bundle = made.text_bundle(tmp_path / "text")
    changed, change = in_8_bits(bundle.model, computing=True)
    assert all(dict(changed.state_dict())[name].ndim >= 2 for name in change.packed)
    assert len(change.packed) == len(set(change.packed))


@pytest.mark.slow
def test_a_bundle_in_8_bits_is_exported_to_onnx(wide: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from reinforge.edge.runner import Runner
    from reinforge.export.export import export

    compress(wide, "int8", tmp_path / "out", data=made.rows(60, seed=5), tolerance=0.2)
    told = export(tmp_path / "out", "onnx", tmp_path / "onnx")
    assert any("8 bits" in note for note in told.notes)
    given = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in made.rows(9, seed=3)]
    pairs = zip(Runner(tmp_path / "onnx").predict(given), load(tmp_path / "out").predict(given), strict=True)
    assert max(abs(mine["price"]["value"] - theirs["price"]["value"]) for mine, theirs in pairs) < 1.0


def test_what_is_worse_than_stated_is_refused() -> None:
    before = Judged("accuracy", 0.9, 100, 200, 1.0, 2.0)

    def found(**changed: float) -> Smaller:
        after = replace(before, **changed)
        faster = before.milliseconds / after.milliseconds
        return Smaller(Path("x"), "int8", before, after, lost(before, after), before.weights / after.weights, faster)

    _hold(found(weights=50), "size", 0.01)
    _hold(found(quality=0.895), None, 0.01)
    # Exactly what may be lost: the difference of these two is larger than 0.01 by a rounding.
    _hold(found(quality=0.89), None, 0.01)
    assert found(quality=0.89).loss > 0.01
    for changed, goal, message in (
        ({"quality": 0.88}, None, "may be lost"), ({"quality": float("nan")}, None, "may be lost"),
        ({"weights": 100}, "size", "no smaller"), ({"milliseconds": 1.1}, "latency", "no faster"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=message):
            _hold(found(**changed), goal, 0.01)


def test_gates_directions_and_joined_features_stay_together(tmp_path: Path) -> None:
    encoders: Any = {"note": RNNOptions(embedding=8, size=16, bidirectional=True, layers=2, ngrams=2, buckets=32)}
    options = ComposedOptions(encoders=encoders, body=IdentityOptions())
    bundle = everything.table(tmp_path / "bundle", options, image=False)
    model: Any = bundle.model
    note, dead = model.encoders["note"], torch.tensor([0, 3, 4, 7, 9, 10, 12, 15])
    begin = sum(
        encoder.features for name, encoder in list(model.encoders.items())[: model.encoders.names.index("note")]
    )
    assert begin > 0
    with torch.no_grad():
        # Units that give 0, and on which nothing depends.
        note.embedding[:, 4:] = 0
        for name, parameter in note.network.named_parameters():
            parameter.view(3, 16, -1)[:, dead] = 0
            if name.startswith("weight_hh"):
                parameter[:, dead] = 0
            elif name.startswith("weight_ih_l0"):
                parameter[:, 4:] = 0
            elif name.startswith("weight_ih"):
                parameter.view(48, 2, 16)[:, :, dead] = 0
        for parameter in model.heads.parameters():
            if parameter.ndim == 2 and parameter.shape[1] in (32, model.body.features):
                first = begin if parameter.shape[1] > 32 else 0
                parameter[:, first : first + 32].view(-1, 2, 16)[:, :, dead] = 0
    small, less = pruned(model, options, 0.5, bundle.signature)
    assert less.encoders["note"].size == 8
    inputs = bundle.form.inputs(everything.rows(image=False)[:7])
    for name, output in model(inputs)[0].items():
        torch.testing.assert_close(small(inputs)[0][name], output, msg=name)


def test_parts_and_features_of_a_gate_stay_apart(tmp_path: Path) -> None:
    encoders: Any = {"note": BagOptions(size=16, ngrams=2, buckets=64)}
    options = ComposedOptions(encoders=encoders, body=IdentityOptions(), fusion=GateOptions(size=64))
    bundle = everything.table(tmp_path / "bundle", options, image=False)
    model: Any = bundle.model
    place = model.encoders.names.index("note")
    begin = sum(encoder.features for _name, encoder in list(model.encoders.items())[:place])
    assert begin > 0
    gates, idle, mute = model.fusion.gates, torch.arange(0, 16, 2), torch.arange(1, 64, 2)
    with torch.no_grad():
        # Features and units that give 0; the others' gates have smaller weights, one part's above all.
        model.encoders["note"].table[:, idle] = 0
        model.fusion.projections[place].weight[:, idle] = 0
        gates.weight[:, begin : begin + 16][:, 1::2] *= 0.5
        gates.weight.view(-1, 64, gates.in_features)[0] *= 0.5
        for projection in model.fusion.projections:
            projection.weight[mute] = 0
            projection.bias[mute] = 0
        for parameter in model.heads.parameters():
            if parameter.ndim == 2 and parameter.shape[1] == 64:
                parameter[:, mute] = 0
    small, less = pruned(model, options, 0.5, bundle.signature)
    assert (less.encoders["note"].size, less.fusion.size) == (8, 32)
    inputs = bundle.form.inputs(everything.rows(image=False)[:7])
    for name, output in model(inputs)[0].items():
        torch.testing.assert_close(small(inputs)[0][name], output, msg=name)


@pytest.mark.parametrize("numeric", [PiecewiseOptions(bins=4), PeriodicOptions()])
def test_a_unit_of_columns_is_one_in_each_and_a_body_of_their_width_is_another_matter(
    tmp_path: Path, numeric: Any
) -> None:
    encoders: Any = {"numbers": numeric, "categories": EmbeddingOptions(size=8)}
    options = ComposedOptions(encoders=encoders, body=IdentityOptions())
    width = everything.table(tmp_path / "joined", options, image=False).model.body.features
    assert isinstance(width, int)
    options = ComposedOptions(encoders=encoders, body=MLPOptions(sizes=(width, width)))
    bundle = everything.table(tmp_path / "bundle", options, image=False)
    model: Any = bundle.model
    idle, first, begin = torch.arange(0, 8, 2), model.body.linears[0], 0
    with torch.no_grad():
        for name, encoder in model.encoders.items():
            if name in encoders:
                # Units that give 0; of others little is read in one column.
                for parameter in (encoder.tables if name == "categories" else encoder.layer).parameters():
                    parameter[..., idle] = 0
                first.weight[:, begin : begin + 8][:, 1::2] *= 0.5
            begin += encoder.features
        assert begin == width
        dead = torch.arange(width) >= narrower(options, 0.5, bundle.signature).body.sizes[0]  # type: ignore[attr-defined]
        for layer in model.body.linears:
            layer.weight[dead], layer.bias[dead] = 0, 0
        model.body.linears[1].weight[:, dead] = 0
        for parameter in model.heads.parameters():
            if parameter.ndim == 2 and parameter.shape[1] == width:
                parameter[:, dead] = 0
    small, _less = pruned(model, options, 0.5, bundle.signature)
    inputs = bundle.form.inputs(everything.rows(image=False)[:7])
    for name, output in model(inputs)[0].items():
        torch.testing.assert_close(small(inputs)[0][name], output, msg=name)


def test_widths_that_can_not_be_made_are_passed_over(tmp_path: Path) -> None:
    """What can be made and is nearest to what is asked for is taken, by trying them all."""
    encoders: Any = {"note": TransformerOptions(width=64, heads=8)}
    for number, (options, keeps) in enumerate((
        (ComposedOptions(encoders=encoders), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
        (ComposedOptions(body=MLPOptions(sizes=(8, 8))), (0.8,)),
    )):  # fmt: skip
        bundle = everything.table(tmp_path / str(number), options, image=False)
        whole, possible = numbers(bundle.model), set()
        for step in range(1, 200):
            with contextlib.suppress(RecipeError):
                less = narrower(options, step / 200, bundle.signature)
                possible.add(numbers(REGISTRY.build("model", less, bundle.signature)) / whole)
        for keep in keeps:
            part = share(bundle.model, options, keep, bundle.signature)
            small, _less = pruned(bundle.model, options, part, bundle.signature)
            left = numbers(small) / whole
            assert left < 1
            assert abs(left - keep) == pytest.approx(min(abs(each - keep) for each in possible), abs=0.02)


def test_what_is_kept_is_a_part_of_the_numbers_whatever_they_grow_with(wide: Path, tmp_path: Path) -> None:
    encoders: Any = {"note": BagOptions(size=64, ngrams=2, buckets=2000)}
    tables = everything.table(tmp_path / "bundle", ComposedOptions(encoders=encoders), image=False)
    for bundle in (load(wide), tables):
        options = bundle.blueprint.options
        assert options is not None
        for keep in (0.3, 0.6):
            part = share(bundle.model, options, keep, bundle.signature)
            small, _less = pruned(bundle.model, options, part, bundle.signature)
            assert numbers(small) / numbers(bundle.model) == pytest.approx(keep, abs=0.05)
    with pytest.raises(RecipeError, match="of such widths"):
        narrower(ComposedOptions(encoders={"note": TransformerOptions(width=50, heads=5)}), 0.5, tables.signature)
