"""`reinforge-edge`: without torch, quickly, and with messages instead of tracebacks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforge.bundle.loading import load
from reinforge.edge.__main__ import alike, main
from reinforge.edge.readout import _best
from reinforge.edge.rows import rows_of
from reinforge.edge.runner import Runner
from reinforge.errors import DataError
from reinforge.export.export import export
from reinforge.models.span import best_span
from reinforge.workflow.train import train
from tests.bundle import made

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
# As if nothing but numpy and onnxruntime were installed.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "pydantic", "polars", "safetensors", "yaml", "gymnasium", "typer", "rich"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from reinforge.edge.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    made.table_bundle(folder / "bundle")
    export(folder / "bundle", "onnx", folder / "out")
    return folder


def edge(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "REINFORGE_LANG": "en"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)], input=given, capture_output=True, text=True,
        env=environment, check=False, timeout=120,
    )  # fmt: skip


def test_it_predicts_without_torch_and_all_else(exported: Path) -> None:
    given = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in made.rows(5, seed=9)]
    done = edge(exported / "out", given="\n".join(map(json.dumps, given)))
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = load(exported / "bundle").predict(given)
    assert alike(found, expected, 1e-4, 1e-5)


def test_csv_and_a_json_list_give_the_same(exported: Path, tmp_path: Path) -> None:
    given = [{k: v for k, v in row.items() if k not in ("species", "price")} for row in made.rows(5, seed=9)]
    lines = [
        "size,mass,island",
        *(f"{'' if r['size'] is None else r['size']},{r['mass']},{r['island']}" for r in given),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(given))
    runner = Runner(exported / "out")
    expected = runner.predict(given)
    for delimiter, name in ((",", "rows.csv"), (";", "semicolons.csv"), ("\t", "tabs.tsv")):
        (tmp_path / name).write_text("\n".join(lines).replace(",", delimiter), encoding="utf-8-sig")
        assert runner.predict(rows_of(str(tmp_path / name)).rows) == expected
    assert runner.predict(rows_of(str(tmp_path / "rows.json")).rows) == expected
    lines = json.dumps(given[0], indent=1) + "\n\n" + json.dumps(given[1]) + "\n"
    read = rows_of("-", io.StringIO(lines))
    assert read.rows == given[:2]
    assert read.origin.at(1) == f"stdin, line {json.dumps(given[0], indent=1).count(chr(10)) + 3}"
    assert rows_of("-", io.StringIO("\ufeff" + (tmp_path / "rows.json").read_text())).rows == given


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("half.csv", "size,mass,island\n1,2,Dream\n1,2", "half.csv, line 3: 2 values"),
        ("quote.csv", 'size,mass,island\n1,2,"Dre', "quote.csv, line 2: the record can't be read"),
        ("twice.csv", "size,mass,size,island\n1,2,3,Dream\n", "twice.csv, line 1: column names are doubled: size"),
        ("bad.csv", "size,mass,island\n\n1,2,Dream\nmuch,2,Dream\n", "bad.csv, line 4, column 'size'"),
        ("header.csv", "size,mass,island\n", "header.csv: there are no rows"),
        ("empty.csv", "", "empty.csv: the file is empty"),
        ("list.json", "[]", "list.json: there are no rows"),
        ("bad.json", '[{"size": 1, "mass": 1, "island": "Dream"}, 1]', "bad.json, element 2: a row must be an object"),
        ("bad.jsonl", '\n{"size": 1, "mass": 1}\n', "bad.jsonl, line 2, column 'island'"),
        ("rows.txt", "size,mass,island\n1,2,Dream\n", "a file that ends in .csv"),
    ],
)
def test_files_are_refused_where_the_bundle_refuses_them(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    assert main([str(exported / "out"), "--data", str(tmp_path / name)]) == 2
    told = capsys.readouterr()
    assert message in told.err.replace(f"{tmp_path}/", "")
    assert not told.out


def test_check_replays_the_golden_rows(exported: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(exported / "out"), "--check"]) == 0
    assert "8 golden rows" in capsys.readouterr().out
    for path in (exported / "out").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = (tmp_path / "golden.jsonl").read_text().replace("Adelie", "Gentoo", 1)
    (tmp_path / "golden.jsonl").write_text(changed)
    assert main([str(tmp_path), "--check"]) == 1 or "golden row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"size": "much", "mass": 1, "island": "Dream"}, "column 'size'"),
        ({"size": 1.0, "mass": 1}, "the field 'island' is missing"),
        ({"size": 1e400, "mass": 1, "island": "Dream"}, "infinite"),
        ([], "an object"),
    ],
)
def test_a_bad_row_is_named_as_the_bundle_names_it(exported: Path, row: object, message: str) -> None:
    runner = Runner(exported / "out")
    good = {"size": 1.0, "mass": 1, "island": "Dream"}
    with pytest.raises(DataError, match=message) as found:
        runner.predict([good, row])  # type: ignore[list-item]
    assert "row 1" in str(found.value)


def test_mistakes_end_with_a_message(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "this is no export" in capsys.readouterr().err
    (tmp_path / "rows.json").write_text("[{")
    assert main([str(exported / "out"), "--data", str(tmp_path / "rows.json")]) == 2
    assert "it is no JSON" in capsys.readouterr().err


@pytest.mark.slow
def test_it_answers_in_half_a_second_from_start(exported: Path) -> None:
    row = json.dumps({"size": 1.0, "mass": 1, "island": "Dream"})
    edge(exported / "out", given=row)
    times = os.times()
    begin = times.children_user + times.children_system
    for _again in range(3):
        edge(exported / "out", given=row)
    times = os.times()
    # Of the processor, since other work on this machine is none of ours.
    assert (times.children_user + times.children_system - begin) / 3 < 0.5


@pytest.mark.parametrize("longest", [None, 2, 5])
def test_spans_are_those_of_the_head_ties_included(longest: int | None) -> None:
    draw = np.random.default_rng(0)
    for _again in range(50):
        scores = draw.integers(0, 3, (2, 6)).astype(np.float32)
        expected, _score = best_span(torch.from_numpy(scores)[None], longest)
        assert list(_best(scores[0], scores[1], longest)) == expected[0].tolist()


def test_words_and_columns_may_be_called_kind(tmp_path: Path) -> None:
    """Which in a description says what an object is."""
    lines = [
        "kind,note,label",
        *(f"{'ab'[i % 2]},{'a kind word' if i % 3 else 'kind of'} {i},{'xy'[i % 2]}" for i in range(60)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "data": {"kind": "table", "path": str(tmp_path / "rows.csv"), "targets": ["label"],
                 "fields": {"note": {"kind": "text", "tokenizer": {"kind": "byte-pair", "size": 300}}}},
        "objective": "supervised", "model": {"kind": "composed"}, "learn": {"stop": {"updates": 2}, "compile": "off"},
    }  # fmt: skip
    run = train(recipe, output=tmp_path / "run")
    export(run.folder, "onnx", tmp_path / "onnx")
    description = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert '"kind": ' in json.dumps(description["reading"]["others"][0]["tokenizer"]["tokenizer"]["model"]["vocab"])
    row = {"kind": "a", "note": "a kind word"}
    assert (
        Runner(tmp_path / "onnx").predict([row])[0]["label"]["label"]
        == load(run.bundle_path).predict([row])[0]["label"]["label"]
    )
