import csv
import json
import sys
from pathlib import Path

import polars as pl
import pytest

import reinforge.bundle
from reinforge.errors import BundleError, ComponentError, DataError, StorageError
from reinforge.workflow.predict import predict
from reinforge.workflow.verify import verify
from tests.bundle import made


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return made.table_bundle(tmp_path_factory.mktemp("predict") / "run" / "bundle")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return made.policy_bundle(tmp_path_factory.mktemp("predict") / "policy")


def write(folder, rows):
    """The same rows in every format."""
    frame = pl.DataFrame(rows)
    frame.write_csv(folder / "rows.csv")
    frame.write_csv(folder / "rows.tsv", separator="\t")
    frame.write_parquet(folder / "rows.parquet")
    frame.write_ndjson(folder / "rows.jsonl")
    (folder / "rows.json").write_text(json.dumps(rows))


def test_every_format_gives_the_same_predictions(table, tmp_path):
    rows = made.rows(20, seed=3)
    write(tmp_path, rows)
    expected = table.predict(rows)
    for suffix in ("csv", "tsv", "parquet", "jsonl", "json"):
        assert predict(table, tmp_path / f"rows.{suffix}") == expected
    assert predict(table.path, str(tmp_path / "rows.csv")) == expected
    assert predict(table.path.parent, rows) == expected  # a run's folder stands for its bundle


def test_outputs_are_written_by_suffix(table, tmp_path, monkeypatch):
    monkeypatch.setattr("reinforge.bundle.forms.TableForm.chunk", 6)
    rows = made.rows(20, seed=3)
    write(tmp_path, rows)
    expected = table.predict(rows)
    for suffix in ("csv", "jsonl", "parquet"):
        written = predict(table, tmp_path / "rows.csv", output=tmp_path / f"out.{suffix}")
        assert len(written) == 20
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    flat = list(csv.DictReader((tmp_path / "out.csv").open()))
    frame = pl.read_parquet(tmp_path / "out.parquet").to_dicts()
    for index, prediction in enumerate(expected):
        assert flat[index]["species"] == frame[index]["species"] == prediction["species"]["label"]
        assert float(flat[index]["species.Adelie"]) == prediction["species"]["probabilities"]["Adelie"]
        assert frame[index]["price"] == prediction["price"]["value"]
        assert float(flat[index]["price"]) == prediction["price"]["value"]


def test_policies_read_json_lines_a_piece_at_a_time(policy, tmp_path, monkeypatch):
    monkeypatch.setattr("reinforge.bundle.observation_form.ObservationForm.chunk", 3)
    rows = [{"observation": [i, -i, 0.5, 1]} for i in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert predict(policy, path) == policy.predict(rows)
    predict(policy, path, output=tmp_path / "out.csv")
    assert [int(row["action"]) for row in csv.DictReader((tmp_path / "out.csv").open())] == [
        row["action"]["action"] for row in policy.predict(rows)
    ]
    path.write_text(path.read_text() + '{"observation": [1, 2]}\n')
    with pytest.raises(DataError, match=r"rows.jsonl, line 10"):
        predict(policy, path)
    path.write_text('{"observation": [1, 2, 3, NaN]}\n')
    with pytest.raises(DataError, match=r"line 1.*NaN"):
        predict(policy, path)


def test_errors_name_file_line_and_column_and_leave_no_output(table, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("size,mass,island\n1,2,Dream\n1,heavy,Dream\n")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(DataError, match=r"rows.csv, line 3, column 'mass'"):
        predict(table, path, output=tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "rows.csv"]
    with pytest.raises(DataError, match="suffix"):
        predict(table, path, output=tmp_path / "out.docx")
    with pytest.raises(StorageError):
        predict(table, [{"size": 1, "mass": 1, "island": "Dream"}], output=tmp_path / "missing" / "out.csv")
    with pytest.raises(DataError):
        predict(table, tmp_path / "missing.csv")


def test_progress_is_told(table):
    heard = []

    class Told:
        def update(self, done, total, note=""):
            heard.append(done)

    predict(table, made.rows(5), progress=Told())
    assert heard == [5]


def test_verify_says_what_it_checked(table, tmp_path):
    found = verify(table.path)
    assert (found.files, found.golden, found.parents) == (10, 8, ())
    assert found.digest == table.digest
    own = made.own_bundle(tmp_path / "own")
    with pytest.raises(ComponentError, match="own-net"):
        verify(own.path)
    assert verify(own.path, modules={"own-net": made.Own}).golden == 1
    (own.path / "card.md").write_text("x" * (own.path / "card.md").stat().st_size)
    with pytest.raises(BundleError, match="digest"):
        verify(own.path, modules={"own-net": made.Own})


def test_user_code_may_register_the_model(tmp_path):
    """--use: a file that registers a model, which the bundle then names."""
    code = tmp_path / "mine.py"
    code.write_text(
        """
from typing import Literal
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions
from reinforge.registry import register

def build(options, signature):
    return Composed(ComposedOptions(), signature)

@register("model", build)
class MineOptions(ComposedOptions):
    kind: Literal["mine"] = "mine"
"""
    )
    import subprocess

    program = """
import sys
from reinforge.recipe.user_code import load_user_code
load_user_code([sys.argv[2]])
sys.path.insert(0, sys.argv[3])
from tests.bundle import made
from reinforge.registry import REGISTRY
made.table_bundle(sys.argv[1], options=REGISTRY.find("model", "mine").options())
"""
    target = tmp_path / "bundle"
    helpers = str(Path(made.__file__).parents[2])
    subprocess.run([sys.executable, "-c", program, str(target), str(code), helpers], check=True)
    with pytest.raises(ComponentError, match="mine"):
        reinforge.bundle.load(target)
    program = (
        "import sys; from reinforge.workflow.verify import verify; print(verify(sys.argv[1], use=[sys.argv[2]]).golden)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target), str(code)], capture_output=True, text=True)
    assert done.stdout == "8\n", done.stderr
