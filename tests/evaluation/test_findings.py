"""What a judgement of held-out rows shows, and the page that shows it: figures, hostile names, every form."""

from __future__ import annotations

import base64
import io
import math
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image as Pillow
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from reinforge import recipe as recipes
from reinforge.bundle.task import Reading
from reinforge.data.table import Table
from reinforge.evaluation.examine import Asked, Held, examine
from reinforge.evaluation.examples import picture
from reinforge.evaluation.findings import Findings, Found
from reinforge.evaluation.report import Page, render
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.models.classic.estimators import available
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.supervised import Supervised
from reinforge.schema.derive import signature as signature_of
from reinforge.schema.fields import Category, Image, Labels, Number, Text
from reinforge.schema.schema import Schema
from tests.evaluation.test_report import HOSTILE, parsed

ROWS = 120


def world(*targets: Any, picture: bool = False, hostile: str = "b") -> tuple[Any, Schema, Held]:
    """A small table with a number, a category and maybe an image; a model that has learned nothing; its rows twice, as
    training and as held-out rows."""
    inputs: list[Any] = [Number(name="x"), Category(name="g", labels=("a", hostile))]
    inputs += [Image(name="photo", size=(4, 4), channels=1)] if picture else []
    schema = Schema(fields=(*inputs, *targets))
    signature = signature_of(schema)
    g = torch.Generator().manual_seed(0)
    x, code = torch.randn(ROWS, 1, generator=g), torch.randint(2, 4, (ROWS, 1), generator=g)
    batch: dict[str, Any] = {"inputs": {"numbers": x, "categories": code}, "targets": {}, "valid": {}}
    if picture:
        batch["inputs"]["photo"] = torch.randint(0, 256, (ROWS, 1, 4, 4), generator=g, dtype=torch.uint8)
    for target in targets:
        noisy = x[:, 0] + 0.5 * torch.randn(ROWS, generator=g)
        if isinstance(target, Number):
            batch["targets"][target.name] = noisy.abs().round()[:, None] if target.count else noisy[:, None]
        else:
            edges = torch.linspace(-1, 1, len(target.labels) + 1)[1:-1]
            batch["targets"][target.name] = torch.bucketize(noisy, edges)
    raw = {"x": pl.Series(x[:, 0].tolist()), "g": pl.Series(["a" if c == 2 else hostile for c in code[:, 0].tolist()])}
    table = Table(raw)
    torch.manual_seed(0)
    objective = Supervised(SupervisedOptions(), signature)
    learner = objective.build(Composed(ComposedOptions(), signature))
    evaluator = SupervisedEvaluator(objective, signature, batch)
    return (evaluator, evaluator.judge(learner)), schema, Held(batch, table, range(ROWS), batch, table)


def found(*targets: Any, asked: Asked | None = None, **more: Any) -> Findings:
    (evaluator, judgement), schema, held = world(*targets, **more)
    return examine(evaluator, judgement, schema, held, asked or Asked(replicates=50))


SPECIES = Category(name="y", role="target", labels=("no", "yes"), missing="error", unseen="error")


def test_a_category() -> None:
    """Everything follows from the decisions, which a threshold moves."""
    readings = {"y": Reading(temperature=2.0, threshold=0.45)}
    (evaluator, judgement), schema, held = world(SPECIES)
    findings = examine(evaluator, judgement, schema, held, Asked(replicates=50, readings=readings, criterion="f1"))
    (each,) = findings.outputs
    judged = judgement.outputs["y"]
    decided = ((judged.output / 2).softmax(1)[:, 1] >= 0.45).numpy()
    truth = judged.target.numpy()
    assert each.headline == "accuracy"
    assert each.measure("accuracy").value == pytest.approx((decided == truth).mean())
    expected = [[int(((truth == t) & (decided == d)).sum()) for d in (0, 1)] for t in (0, 1)]
    assert [list(row) for row in each.confusion] == expected
    assert [c.f1 for c in each.classes] == pytest.approx([f1_score(truth == c, decided == c) for c in (0, 1)])
    assert all(c.low <= c.f1 <= c.high for c in each.classes)
    assert sum(bin.rows for bin in each.reliability) == ROWS
    assert sum(bin.rows for bin in each.uncalibrated) == ROWS
    changed = {m.name for m in each.reading.before}
    assert {"log-loss", "accuracy"} & changed
    assert not {"roc-auc"} & changed, "no reading changes a ranking"
    assert each.roc[0].label == "yes"
    assert all(m.low <= m.value <= m.high for m in each.measures if m.low is not None and m.name != "roc-auc")


def test_baselines_learn_what_there_is_to_learn() -> None:
    assert available()
    (each,) = found(SPECIES).outputs
    by_name = {b.name: b for b in each.baselines}
    assert set(by_name) == {"always the same", "linear", "trees"}
    (_, judgement), _, held = world(SPECIES)
    batch = held.batch
    x = np.concatenate(
        [batch["inputs"]["numbers"].numpy(), np.eye(4)[batch["inputs"]["categories"][:, 0].numpy()]], 1
    )  # fmt: skip
    y = judgement.outputs["y"].target.numpy()
    stated = LogisticRegression(max_iter=300).fit(x, y).score(x, y)
    reached = {m.name: m.value for m in by_name["linear"].measures}
    assert reached["accuracy"] == pytest.approx(stated)
    # The model has learned nothing, so the interval of its advantage over the linear model lies below 0.
    assert by_name["linear"].high < 0
    same = {m.name: m.value for m in by_name["always the same"].measures}
    assert same["accuracy"] == pytest.approx(max(y.mean(), 1 - y.mean()))


def test_without_scikit_learn_only_the_constant_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforge.evaluation.baselines.available", lambda: False)
    (each,) = found(SPECIES).outputs
    assert [b.name for b in each.baselines] == ["always the same"]


def test_the_worst_rows_are_the_most_improbable_ones() -> None:
    (_, judgement), *_ = world(SPECIES)
    (each,) = found(SPECIES).outputs
    judged = judgement.outputs["y"]
    cost = torch.nn.functional.cross_entropy(judged.output, judged.target, reduction="none")
    wrong = judged.output.argmax(1) != judged.target
    order = torch.where(wrong, cost, -1.0).argsort(descending=True)[: len(each.worst)].tolist()
    assert [example.row for example in each.worst] == order
    first = each.worst[0]
    assert first.said != first.truth
    assert set(first.inputs) == {"x", "g"}


def test_slices_are_what_filtering_gives_and_the_worst_comes_first() -> None:
    (_, judgement), _, held = world(SPECIES)
    (each,) = found(SPECIES).outputs
    judged = judgement.outputs["y"]
    right = (judged.output.argmax(1) == judged.target).numpy()
    values = [s.measure.value for s in each.slices]
    assert values == sorted(values)
    assert all(value < right.mean() for value in values)
    column = np.array(held.table.column("g").to_list())
    for s in each.slices:
        if s.column == "g":
            assert s.measure.value == pytest.approx(right[column == s.value].mean())
            assert s.rows == (column == s.value).sum()


FORMS = {
    "number": Number(name="y", role="target", missing="error", scale="none"),
    "count": Number(name="y", role="target", missing="error", scale="none", count=True),
    "ordinal": Category(
        name="y", role="target", labels=("low", "middle", "high"), missing="error", unseen="error", ordered=True
    ),
    "category": SPECIES,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_findings_a_page_and_comes_back_from_json(form: str) -> None:
    findings = found(FORMS[form])
    (each,) = findings.outputs
    assert each.form == form
    assert each.measure(each.headline).value is not None
    assert Findings.model_validate_json(findings.model_dump_json()) == findings
    html = page(findings)
    text = parsed(html).text
    assert "this model" in text
    assert "nan" not in re.findall(r'(?:d|cx|cy|x|y|width|height)="([^"]*)"', html.split("<main>")[1])
    assert not re.search(r'="[^"]*\bnan\b[^"]*"', html)
    if form in ("number", "count"):
        assert "Predicted against true" in text


def test_two_outputs_stand_under_their_names() -> None:
    second = Number(name="price", role="target", missing="error", scale="none")
    text = parsed(page(found(SPECIES, second))).text
    assert text.index("y: accuracy") < text.index("price: R²")


def test_hostile_names_and_values_cannot_break_out() -> None:
    target = SPECIES.model_copy(update={"labels": (HOSTILE, "yes" + HOSTILE), "name": HOSTILE})
    findings = found(target, hostile=HOSTILE)
    html = page(findings)
    assert "<script" not in html
    assert 'alert("x")' not in html
    assert "alert(" in parsed(html).text


def test_pictures_are_inline_and_small() -> None:
    findings = found(SPECIES, picture=True)
    html = page(findings)
    images = [attributes for tag, attributes in parsed(html).tags if tag == "img"]
    assert images
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    hostile = findings.outputs[0].worst[0].model_copy(update={"images": {"a": 'x" onerror="alert(1)'}})
    output: Found = findings.outputs[0].model_copy(update={"worst": (hostile,)})
    assert "onerror" not in page(findings.model_copy(update={"outputs": (output,)}))


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 300, 200)])
def test_a_picture_is_what_the_tensor_holds(shape: tuple[int, int, int]) -> None:
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shown = Pillow.open(io.BytesIO(base64.b64decode(picture(pixels))))
    assert max(shown.size) <= 96
    if max(shape) <= 96:
        assert np.array_equal(np.asarray(shown), pixels[0].numpy())


def test_folds_are_told_together() -> None:
    stages = tuple(
        Page(recipes.load("penguins"), "", {"state": "finished", "metrics": {"test/accuracy": v}}, [])
        for v in (0.9, 0.95)
    )
    status = {"state": "finished", "reason": "folds", "metrics": {"mean/test/accuracy": 0.925}}
    text = parsed(render(Page(recipes.load("penguins"), "", status, [], stages))).text
    assert "Nadeau" in text
    assert "0.925" in text
    assert f"{0.025 * math.sqrt(2):.3f}" in text


def page(findings: Findings) -> str:
    status = {"state": "finished", "reason": "epochs", "metrics": {"test/accuracy": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REINFORGE_LANG", "en")
        return render(Page(recipes.load("penguins"), "", status, [], findings=findings))


def test_texts_have_a_baseline_of_character_n_grams() -> None:
    """On what only its characters tell; of margins no probabilities are measured."""
    g = np.random.default_rng(0)
    label = g.integers(0, 2, ROWS)
    texts = [f"{'好' if y else '坏'}{g.integers(0, 999)}" for y in label]
    (evaluator, judgement), schema, held = world(SPECIES)
    schema = schema.model_copy(update={"fields": (*schema.fields, Text(name="words"))})
    table = Table({**held.table.columns, "words": pl.Series(texts)})
    evaluator.data["targets"]["y"] = torch.from_numpy(label)
    judgement = evaluator.judge(Supervised(SupervisedOptions(), evaluator.signature).build(learner()))
    held = Held(evaluator.data, table, range(ROWS), evaluator.data, table)
    (each,) = examine(evaluator, judgement, schema, held, Asked(replicates=20)).outputs
    grams = next(b for b in each.baselines if b.name == "character n-grams")
    reached = {m.name: m.value for m in grams.measures}
    assert reached["accuracy"] == 1.0
    assert not {"log-loss", "brier", "calibration-error"} & set(reached)


def learner() -> Composed:
    torch.manual_seed(0)
    return Composed(ComposedOptions(), signature_of(world(SPECIES)[1]))


def test_labels_have_a_threshold_and_a_score_each() -> None:
    target = Labels(name="y", role="target", labels=("p", "q"), missing="error", unseen="error")
    schema = Schema(fields=(Number(name="x"), target))
    signature = signature_of(schema)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 1, generator=g)
    holds = torch.cat([x + torch.randn(ROWS, 1, generator=g) > 0, x < 0.5], 1).float()
    batch: dict[str, Any] = {"inputs": {"numbers": x}, "targets": {"y": holds}, "valid": {}}
    torch.manual_seed(0)
    objective = Supervised(SupervisedOptions(), signature)
    evaluator = SupervisedEvaluator(objective, signature, batch)
    judgement = evaluator.judge(objective.build(Composed(ComposedOptions(), signature)))
    table = Table({"x": pl.Series(x[:, 0].tolist())})
    readings = {"y": Reading(thresholds=(0.4, 0.6))}
    asked = Asked(replicates=30, readings=readings, criterion="f1")
    findings = examine(evaluator, judgement, schema, Held(batch, table, range(ROWS), batch, table), asked)
    (each,) = findings.outputs
    decided = judgement.outputs["y"].output.sigmoid().numpy() >= np.array([0.4, 0.6])
    assert [c.f1 for c in each.classes] == pytest.approx([f1_score(holds[:, i], decided[:, i]) for i in (0, 1)])
    assert {b.name for b in each.baselines} == {"always the same", "linear", "trees"}
    assert "p 0.4, q 0.6" in parsed(page(findings)).text
