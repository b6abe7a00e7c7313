import json
import math
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reinforge.bundle
from reinforge.bundle import golden
from reinforge.bundle.bundle import outputs_of
from reinforge.bundle.network import Blueprint, build, dtype_name, take_apart
from reinforge.bundle.task import Reading, Task
from reinforge.core.tensor_files import digest
from reinforge.errors import BundleError, ComponentError, DataError, PathError, StorageError
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions
from reinforge.models.policy_options import SquashedGaussianOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from tests.bundle import made
from tests.contract.examples import components
from tests.export import everything


def test_the_layout_is_the_documented_one(table_path):
    names = {p.name for p in table_path.iterdir()}
    assert names == {
        "manifest.json", "schema.json", "pipeline.json", "pipeline.safetensors", "model.json", "weights.safetensors",
        "task.json", "golden.jsonl", "reference.json", "provenance.json", "card.md",
    }  # fmt: skip


def test_predictions_are_those_of_a_hand_written_road(table_path):
    """Oracle: the pipeline and the model, called by hand."""
    bundle = reinforge.bundle.load(table_path)
    form, _table = made.table_form()
    torch.manual_seed(0)
    model = Composed(ComposedOptions(), form.pipeline.signature).eval()
    rows = made.rows(12, seed=5)
    columns = {name: [row[name] for row in rows] for name in ("size", "mass", "island")}
    with torch.no_grad():
        outputs, _state = model(form.pipeline.transform(columns, targets=False)["inputs"])
    probabilities = torch.softmax(outputs["species"], -1)
    prices = [row["price"] for row in made.rows()]
    for index, found in enumerate(bundle.predict(rows)):
        expected = probabilities[index].tolist()
        assert found["species"]["probabilities"] == pytest.approx(dict(zip(("Adelie", "Gentoo"), expected)), rel=1e-5)
        assert found["species"]["label"] == ("Adelie", "Gentoo")[int(np.argmax(expected))]
        price = float(outputs["price"][index]) * np.std(prices) + np.mean(prices)
        assert found["price"]["value"] == pytest.approx(price, rel=1e-5)


VALUES = st.none() | st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6) | st.just("") | st.just(" 12.5 ")
ROWS = st.lists(
    st.fixed_dictionaries(
        {"size": VALUES, "mass": VALUES, "island": st.sampled_from(["Biscoe", "Dream", "new", None])}
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS)
def test_one_row_alone_and_in_a_batch_agree(standing_table, rows):
    bundle = _cached(standing_table)
    together = bundle.form.inputs(rows)
    for index, row in enumerate(rows):
        alone = bundle.form.inputs([row])
        for name in alone:
            assert digest(alone[name][0]) == digest(together[name][index])
    # through JSON text and through a frame: the same tensors
    again = bundle.form.inputs(json.loads(json.dumps(rows)))
    assert {n: digest(t) for n, t in again.items()} == {n: digest(t) for n, t in together.items()}
    batch = bundle.predict(rows)
    for index, row in enumerate(rows):
        (single,) = bundle.predict([row])
        assert single["price"]["value"] == pytest.approx(batch[index]["price"]["value"], rel=1e-4, abs=1e-4)


_LOADED = {}


def _cached(path):
    return _LOADED.setdefault(path, reinforge.bundle.load(path))


def test_frames_columns_and_rows_agree(table_path):
    bundle = reinforge.bundle.load(table_path)
    rows = made.rows(9, seed=2)
    expected = bundle.predict(rows)
    frame = pl.DataFrame(rows)
    assert bundle.predict(frame) == expected
    assert bundle.predict({name: frame[name].to_list() for name in frame.columns}) == expected


def test_large_data_go_in_pieces_and_errors_name_the_row(table_path, monkeypatch):
    monkeypatch.setattr("reinforge.bundle.forms.TableForm.chunk", 7)
    bundle = reinforge.bundle.load(table_path)
    rows = made.rows(20)
    assert [len(part) for part in bundle.predictions(rows)] == [7, 7, 6]
    assert len(bundle.predict(rows)) == 20
    rows[13] = {**rows[13], "mass": "heavy"}
    with pytest.raises(DataError, match=r"row 13.*mass"):
        bundle.predict(rows)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"size": 1, "island": "Dream"}, "mass"),
        ({"size": "x", "mass": 1, "island": "Dream"}, "size"),
        ({"size": math.inf, "mass": 1, "island": "Dream"}, "infinite"),
        ({"size": [1], "mass": 1, "island": "Dream"}, "size"),
        ({"size": True, "mass": 1, "island": "Dream"}, "size"),
        ([1, 2, 3], "object"),
        ("text", "object"),
    ],
)
def test_bad_rows_are_named(table_path, row, says):
    bundle = reinforge.bundle.load(table_path)
    good = made.rows(3)
    with pytest.raises(DataError, match=r"(?s)row 2.*" + says if says != "mass" else says):
        bundle.predict([good[0], good[1], row])


def test_bad_rows_fail_alone(table_path):
    bundle = reinforge.bundle.load(table_path)
    rows = made.rows(10)
    expected = bundle.predict(rows)
    for bad in (0, 4, 9):
        rows[bad] = {"size": "x", "mass": 1, "island": "Dream"}
    found = bundle.predict_each(rows)
    for index in range(10):
        if index in (0, 4, 9):
            assert isinstance(found[index], DataError)
            assert f"row {index}," in str(found[index])
        else:
            assert found[index]["species"]["label"] == expected[index]["species"]["label"]
    assert bundle.predict_each([]) == []


def test_policies_give_actions(tmp_path):
    bundle = made.policy_bundle(tmp_path / "a")
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    scores, _state = bundle.model({"observation": torch.from_numpy(observations)})
    expected = (scores["action"].argmax(-1) + 1).tolist()  # the space starts at 1
    assert [p["action"]["action"] for p in bundle.predict({"observation": observations})] == expected
    assert [
        p["action"]["action"] for p in bundle.predict([{"observation": o} for o in observations.tolist()])
    ] == expected
    continuous = made.policy_bundle(tmp_path / "b", continuous=True)
    for row in continuous.predict({"observation": 1e3 * observations}):
        assert all(abs(a) <= bound for a, bound in zip(row["action"]["action"], (2.0, 1.0)))


@pytest.mark.parametrize(
    "observation",
    [[1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]], [1, 2, 3, "x"], [1, 2, 3, None], [1, 2, 3, math.nan],
     [1, 2, 3, math.inf], [1, 2, 3, 10**400], [1, 2, 3, 1e39], [True] * 4, None, "text", {}, [[1], [2, 3], 4, 5]],
)  # fmt: skip
def test_bad_observations_are_named(policy_path, observation):
    bundle = reinforge.bundle.load(policy_path)
    with pytest.raises(DataError, match="row 1"):
        bundle.predict([{"observation": [1, 2, 3, 4]}, {"observation": observation}])


def test_a_users_own_module_needs_to_be_passed(tmp_path):
    bundle = made.own_bundle(tmp_path / "a")
    row = [{f"x{i}": 1.5 for i in range(4)}]
    with pytest.raises(ComponentError, match="own-net"):
        reinforge.bundle.load(bundle.path)
    again = reinforge.bundle.load(bundle.path, modules={"own-net": made.Own})
    assert again.predict(row) == bundle.predict(row)
    assert again.model.module.second.weight is again.model.module.first.weight
    with pytest.raises(BundleError, match="weights"):
        reinforge.bundle.load(bundle.path, modules={"own-net": lambda: torch.nn.Linear(4, 1)})


def test_a_model_that_is_not_registered_here_is_named(tmp_path, table_path):
    text = (table_path / "model.json").read_text().replace('"composed"', '"compozed"')
    made.rewrite(table_path, "model.json", text)
    with pytest.raises(ComponentError, match=r"(?s)compozed.*registers.*composed"):
        reinforge.bundle.load(table_path)


def test_a_part_of_a_model_that_is_not_registered_here_is_named(table_path):
    text = (table_path / "model.json").read_text()
    assert '"mlp"' in text
    made.rewrite(table_path, "model.json", text.replace('"mlp"', '"waves"'))
    with pytest.raises(ComponentError, match=r"(?s)body.*there is no body called waves.*--use FILE\.py"):
        reinforge.bundle.load(table_path)


def test_a_runs_folder_stands_for_its_bundle(tmp_path, table_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").touch()
    with pytest.raises(PathError, match=r"(?s)not finished.*--resume"):
        reinforge.load(run)
    shutil.copytree(table_path, run / "bundle")
    assert reinforge.load(run).predict(made.rows(1)) == reinforge.load(table_path).predict(made.rows(1))
    with pytest.raises(PathError, match="there is no such folder"):
        reinforge.load(tmp_path / "absent")


def test_other_weights_fail_the_golden_replay_and_digest_alone_does_not_notice(tmp_path, table_path):
    """A file exchanged together with the manifest: only the replay can tell."""
    other = made.table_bundle(tmp_path / "other", model=_other_model())
    made.rewrite(table_path, "weights.safetensors", (other.path / "weights.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"golden.jsonl:1: the output 'species' is .* stated is"):
        reinforge.bundle.load(table_path)
    assert reinforge.bundle.load(table_path, verify="digest").predict(made.rows(1))


def _other_model():
    torch.manual_seed(1)
    return Composed(ComposedOptions(), made.table_form()[0].pipeline.signature)


def test_another_pipeline_fails_the_golden_replay(tmp_path, table_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(table_path / "pipeline.safetensors")
    tensors[next(name for name in tensors if name.startswith("inputs") and name.endswith("shift"))][0] += 1e-3
    save_file(tensors, tmp_path / "changed.safetensors")
    made.rewrite(table_path, "pipeline.safetensors", (tmp_path / "changed.safetensors").read_bytes())
    with pytest.raises(BundleError, match="other tensors than stated: 'numbers'"):
        reinforge.bundle.load(table_path)


def test_a_bundle_that_can_not_reproduce_itself_is_not_left_behind(tmp_path):
    class Moody(Composed):
        def forward(self, inputs, state=None):
            outputs, state = super().forward(inputs, state)
            return {name: tensor + 1 for name, tensor in outputs.items()}, state

    with pytest.raises(BundleError, match="golden"):
        made.table_bundle(tmp_path / "a", model=Moody(ComposedOptions(), made.table_form()[0].pipeline.signature))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_never_overwritten(table_path):
    with pytest.raises(StorageError, match="exists"):
        made.table_bundle(table_path)
    reinforge.bundle.load(table_path)


def test_bf16_weights_stay_bf16():
    model = _other_model().to(torch.bfloat16)

    weights, shared = take_apart(model)
    again = build(Blueprint(made.table_form()[0].pipeline.signature, ComposedOptions()), weights, shared, {})
    assert dtype_name(again) == "bfloat16"
    for name, tensor in model.state_dict().items():
        assert digest(again.state_dict()[name]) == digest(tensor)


def test_parents_and_training_are_kept(tmp_path, table_path):
    parent = reinforge.bundle.load(table_path)
    assert parent.parents == ()
    assert parent.training() is None
    child = made.table_bundle(tmp_path / "child", parents=[parent.digest], training={"step": torch.tensor(7)})
    again = reinforge.bundle.load(child.path)
    assert again.parents == (parent.digest,)
    assert again.training()["step"] == 7
    assert reinforge.bundle.load(table_path).digest == parent.digest


def test_loading_leaves_random_state_alone(table_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    reinforge.bundle.load(table_path)
    assert torch.equal(torch.rand(2), expected)


def test_thresholds_and_temperature_are_read(tmp_path):
    low = made.table_bundle(tmp_path / "a", task=Task(outputs={"species": Reading(threshold=0.01, temperature=2.0)}))
    plain = made.table_bundle(tmp_path / "b")
    rows = made.rows(6)
    assert {p["species"]["label"] for p in low.predict(rows)} == {"Gentoo"}
    for warm, cold in zip(low.predict(rows), plain.predict(rows)):
        odds = [p["species"]["probabilities"]["Gentoo"] / p["species"]["probabilities"]["Adelie"] for p in (warm, cold)]
        assert math.log(odds[0]) == pytest.approx(math.log(odds[1]) / 2, rel=1e-4)


def test_reference_sketches_are_those_of_numpy(table_path):
    found = reinforge.bundle.load(table_path).reference
    sizes = np.array([row["size"] for row in made.rows() if row["size"] is not None])
    assert found["rows"] == 40
    assert found["fields"]["size"]["missing"] == 40 - len(sizes)
    assert found["fields"]["size"]["mean"] == pytest.approx(sizes.mean())
    assert found["fields"]["size"]["quantiles"][10] == pytest.approx(np.median(sizes))
    assert found["fields"]["island"]["labels"] == {"Biscoe": 14, "Dream": 13, "Torgersen": 13}


def test_flat_outputs_have_one_column_per_value(table_path):
    (prediction,) = reinforge.bundle.load(table_path).predict(made.rows(1))
    assert list(outputs_of(prediction)) == ["species", "species.Adelie", "species.Gentoo", "price"]


def test_golden_records_survive_nan_and_are_bounded(table_path):
    content = (table_path / "golden.jsonl").read_bytes()
    assert len(golden.read(content)) == 8
    for bad in (content[:-1], b"[]\n", b'{"row":1,"inputs":{},"outputs":{}}\n', b"{}\n" * 20_000):
        with pytest.raises(BundleError):
            golden.read(bad)


@pytest.mark.parametrize("component", components("model"))
def test_every_registered_model_is_built_within_bounds(component):
    """Contract: a model is built again from model.json, within the bounds that its weights set."""
    shapes = [
        Signature(inputs={"numbers": Input(form="numbers", shape=(3,))}, outputs={"y": Output(form="number", size=1)}),
        Signature(inputs={"text": Input(form="tokens", sizes=(11,))}, outputs={"text": Output(form="tokens", size=11)}),
        Signature(inputs={"text": Input(form="tokens", sizes=(11,))}, outputs={"score": Output(form="number", size=1)}),
        Signature(
            inputs={"observation": Input(form="box", shape=(4,))}, outputs={"action": Output(form="discrete", size=2)}
        ),
        Signature(
            inputs={"observation": Input(form="box", shape=(4,))},
            outputs={"action": Output(form="continuous", size=1, low=(-1.0,), high=(1.0,))},
        ),
        Signature(
            inputs={"observation": Input(form="categories", sizes=(7,))},
            outputs={"action": Output(form="discrete", size=2)},
        ),
    ]
    built = 0
    for signature in shapes:
        options = component.options()
        try:
            model = REGISTRY.build("model", options, signature)
        except (ComponentError, KeyError):
            continue
        weights, shared = take_apart(model)
        again = build(Blueprint.from_json(Blueprint(signature, options).to_json(shared))[0], weights, shared, {})
        for name, tensor in model.state_dict().items():
            assert digest(again.state_dict()[name]) == digest(tensor)
        built += 1
    assert built, "give this test a signature that fits the model"


def test_the_package_is_free_of_torch():
    program = "import sys, reinforge.bundle; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_row_without_a_memory_begins_an_episode_for_stacked_frames_too(tmp_path):
    bundle = everything.policy(tmp_path / "b", SquashedGaussianOptions(sizes=(8,), frames=3), action="continuous")
    row = everything.observations(1)[0]
    # The first observation stands for those before it, as in training; not zeros.
    inputs = bundle.form.inputs([row])
    expected = bundle.forward(inputs)["action"][0].tolist()
    first = bundle.predict([row])[0]["action"]
    assert first["action"] == pytest.approx(expected, rel=1e-5)
    # With a memory, what came before counts, also beside a row that has none.
    rows = [{**row, "place": [3.0, -3.0, 0.0], "memory": first["memory"]}, {**row, "place": [3.0, -3.0, 0.0]}]
    onward, fresh = (answer["action"]["action"] for answer in bundle.predict(rows))
    assert onward != pytest.approx(fresh, rel=1e-5)
