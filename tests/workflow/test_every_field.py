"""Every kind of input and target on one road: a file, training, a bundle, golden replay, predictions."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reinforge.bundle.bundle import Bundle, outputs_of
from reinforge.bundle.loading import load
from reinforge.errors import DataError
from reinforge.serving.description import openapi
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

WORDS = ["alpha", "beta", "gamma"]
TARGETS: dict[str, Any] = {
    "y": {"transform": "log"},
    "cls": {},
    "visits": {"count": True},
    "stars": {"kind": "category", "ordered": True},
    "place": {"columns": ["east", "north"]},
    "topics": {},
    "answer": {"of": "text"},
}


def rows(folder: Path, count: int = 120) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    made = []
    for i in range(count):
        a, up = float(draw.normal()), bool(draw.random() < 0.5)
        Image.fromarray(np.full((9, 12, 3), 200 if up else 30, np.uint8)).save(folder / "pictures" / f"{i}.png")
        around, word = " ".join(draw.choice(["some", "words", "go", "here"], 4)), str(draw.choice(WORDS))
        several = draw.choice(["r", "g", "b", "k"], draw.integers(1, 4), replace=False)
        made.append(
            {
                "a": a, "c": str(draw.choice(["x", "y", "z"])), "tags": ";".join(several),
                "when": f"2026-{draw.integers(1, 13):02d}-{draw.integers(1, 28):02d}",
                "picture": f"pictures/{i}.png", "text": f"{around} {word} {around} end", "y": 2 * a,
                "cls": "up" if up else "down", "visits": int(draw.poisson(np.exp(a / 2))),
                "stars": int(np.clip(round(a) + 3, 1, 5)), "east": a, "north": -a,
                "topics": json.dumps([topic for topic in ("s", "t") if draw.random() < 0.6]), "answer": word,
            }
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("data")
    made = rows(folder)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)
    recipe = {
        "name": "every",
        "data": {
            "kind": "table", "path": str(folder / "data.csv"), "targets": TARGETS, "split": {"kind": "random"},
            "fields": {
                "picture": {"size": [8, 8]}, "text": {"length": 80}, "c": {"coding": "hash", "buckets": 7},
                "a": {"outliers": "clip", "transform": "log", "scale": "robust"},
            },
        },
        "model": {"kind": "composed"}, "objective": "supervised", "learn": {"stop": {"epochs": 1}},
    }  # fmt: skip
    return train(recipe, output=folder / "run"), folder / "data.csv", made


def test_fields_are_told_from_the_data(trained: tuple[Run, Path, Any]) -> None:
    kinds = {field.name: field.kind for field in trained[0].bundle.schema.fields}
    assert kinds == {
        "a": "number", "c": "category", "tags": "labels", "when": "date", "picture": "image", "text": "text",
        "y": "number", "cls": "category", "visits": "number", "stars": "category", "place": "vector",
        "topics": "labels", "answer": "span",
    }  # fmt: skip


def test_predictions_from_a_file_are_those_from_json(trained: tuple[Run, Path, Any]) -> None:
    run, path, made = trained
    bundle = load(run.bundle_path)  # replays the golden rows
    from_file = bundle.predict(path)
    picture = {row["picture"]: base64.b64encode((path.parent / row["picture"]).read_bytes()).decode() for row in made}
    as_json = [json.loads(json.dumps({**row, "picture": picture[row["picture"]]})) for row in made]
    assert bundle.predict(as_json) == from_file
    one = bundle.predict(as_json[:1])[0]
    for name in ("y", "visits"):
        assert one[name]["value"] == pytest.approx(from_file[0][name]["value"], rel=1e-4)
    assert one["answer"] == {"span": one["answer"]["span"], "text": made[0]["text"][slice(*one["answer"]["span"])]}
    assert set(one["place"]["value"]) == {"east", "north"}
    assert set(one["topics"]["probabilities"]) == {"s", "t"}
    assert one["stars"]["label"] in {"1", "2", "3", "4", "5"}
    assert one["visits"]["value"] > 0
    flat = outputs_of(one)
    assert json.loads(str(flat["topics"])) == one["topics"]["labels"]
    assert flat["place.east"] == one["place"]["value"]["east"]


def test_golden_rows_hold_no_paths(trained: tuple[Run, Path, Any]) -> None:
    lines = (trained[0].bundle_path / "golden.jsonl").read_text().splitlines()
    pictures = [json.loads(line)["row"]["picture"] for line in lines]
    assert all(base64.b64decode(picture, validate=True).startswith(b"\x89PNG") for picture in pictures)


def test_a_request_is_refused_where_it_names_a_file(trained: tuple[Run, Path, Any]) -> None:
    run, path, made = trained
    row = {**made[0], "picture": str(path.parent / made[0]["picture"])}
    with pytest.raises(DataError, match="base64"):
        run.bundle.predict([row])


def test_what_was_held_back_is_evaluated(trained: tuple[Run, Path, Any]) -> None:
    found = evaluate(trained[0].bundle_path, trained[1])
    assert found["rows"] == 120
    assert {f"{name}/loss" for name in TARGETS} <= found.keys()


def test_training_data_are_sketched(trained: tuple[Run, Path, Any]) -> None:
    fields = json.loads((trained[0].bundle_path / "reference.json").read_text())["fields"]
    assert {"a", "c", "tags", "when", "y", "cls", "visits", "stars", "east", "north", "topics"} <= fields.keys()
    assert 20454 <= fields["when"]["quantiles"][0] <= fields["when"]["quantiles"][-1] <= 20819  # the days of 2026
    rows = trained[2]
    assert set(fields["tags"]["labels"]) == {tag for row in rows for tag in row["tags"].split(";")}


def test_requests_are_described(trained: tuple[Run, Path, Any]) -> None:
    bundle: Bundle = trained[0].bundle
    told = json.dumps(openapi({"m": bundle}, 10))
    assert '"contentEncoding": "base64"' in told
    assert '"span": {"type": ["array", "null"]' in told
