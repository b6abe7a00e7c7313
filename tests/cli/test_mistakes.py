"""What a user may get wrong, through the whole of each verb: one message with place and remedy, 2, and no traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reinforge.cli import main
from reinforge.workflow.run import Run
from tests.bundle import made

FILES = {
    "columns.csv": "a,b\n1,2\n",
    "ragged.csv": "a,b\n1\n",
    "empty.csv": "",
    "file": "",
    "some/thing": "",
    "exported/export.json": "{}",
    "object.json": "{}",
    "case.csv": "Size,mass,island\n1,2,Dream\n",
    "tokens.json": json.dumps([{"name": "a", "sha256": "0" * 65}]),
    "torn/recipe.yaml": "name: torn\ndata: {kind: linear}\nmodel: composed\nobjective: supervised\n",
    "broken.yaml": "name: x\ndata:\n  kind: table\n path: y\n",
    "missing.yaml": "data: {kind: table, path: not.csv, targets: [y]}\nmodel: composed\nobjective: supervised\n",
    "columns.yaml": "data: {kind: table, path: columns.csv, targets: [y]}\nmodel: composed\nobjective: supervised\n",
    "linear.yaml": "data: {kind: linear}\nmodel: composed\nobjective: supervised\nlearn: {stop: {updates: 2}}\n",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    made.table_bundle(folder / "table")
    made.policy_bundle(folder / "policy")
    return folder


MISTAKES = [
    ("train linaer-regression", "there is no recipe called 'linaer-regression'", "Did you mean 'linear-regression'?"),
    ("train data.path=t.csv", "'data.path=t.csv' stands where the recipe should", "Name the recipe first"),
    ("train linear.yml", "linear.yml: there is no such file", "Check the path; shipped recipes"),
    ("train broken.yaml", "broken.yaml:4: this is no YAML", ""),
    ("train some", "some: it is a folder, not a recipe", ""),
    ("train linear.yaml learn.lr=fast", "learn.lr: it must be a number, not 'fast'", ""),
    ("train linear.yaml learn.optimizer=adma", "there is no optimizer called 'adma'", "Did you mean 'adam'?"),
    ("train linear.yaml learn.lr", "an override is written KEY=VALUE", "For example: learn.lr=3e-4"),
    ("train missing.yaml", "not.csv: there is no such file", "It was looked for at"),
    ("train columns.yaml", "the data have no column 'y'", "Columns: a, b."),
    ("prepare columns.yaml", "the data have no column 'y'", "Columns: a, b."),
    ("doctor columns.yaml", "the data have no column 'y'", "Columns: a, b."),
    ("prepare linear.yaml -o some", "some: it exists already", "Choose another folder, or remove it."),
    ("train --resume nowhere", "nowhere: there is no such folder", "Give the folder that `train -o` made."),
    ("train --resume table", "table: this is no run", "Give the folder that `train -o` made."),
    ("train linear.yaml -o some", "some: the run's folder is there already, and not empty", "Name another with -o"),
    ("train linear.yaml -o torn", "torn: the run's folder is there already", "reinforge train --resume torn"),
    ("train linear.yaml -o file/run", "file/run: a part of the path is no folder", "Check the path."),
    ("train linear.yaml --from some", "some: this is no bundle", "Give the folder of a finished run"),
    ("train linear.yaml --from torn", "torn: the run has no bundle yet", "reinforge train --resume torn"),
    ("train linear.yaml --from policy", "policy: the recipe needs a bundle of the form 'table'", "Give another bundle"),
    ("train linear.yaml --use file", "--use file: there is no such Python file", ""),
    ("evaluate nowhere", "nowhere: there is no such folder", "Check the path."),
    ("evaluate some", "some: this is no bundle", "Give the folder of a finished run"),
    ("evaluate table --episodes 3", "is not evaluated by --episodes", "Give labelled data: --data FILE."),
    ("evaluate policy --data columns.csv", "is not evaluated by --data", "--episodes N"),
    ("evaluate table --data columns.csv", "columns.csv: none of the schema's columns is there", "Given: a, b."),
    ("predict table --data columns.csv", "columns.csv: none of the schema's columns is there", "Given: a, b."),
    ("predict table --data ragged.csv", "ragged.csv, line 2: 1 values", "Mend the row"),
    ("predict table --data empty.csv", "empty.csv: the file is empty", "It needs a header"),
    ("predict table --data not.csv", "not.csv: there is no such file", "It was looked for at"),
    ("predict table --data some", "some: no file is there that can be read as a table", "Known suffixes"),
    ("predict policy --data columns.csv", "columns.csv: rows of this bundle hold arrays", "FILE.jsonl"),
    ("predict table --data rows.csv -o rows.xlsx", "rows.xlsx: can't tell by its name", "Known suffixes"),
    ("predict table --data rows.csv -o not/out.csv", "not: there is no such file or folder", "Check the path."),
    ("predict table --data rows.csv -o folder.csv", "folder.csv: it is a folder", "Check the path."),
    ("predict table --data rows.csv -o rows.csv", "rows.csv: the predictions would take the place of the data", "-o"),
    ("predict table --data ./rows.csv -o some/../rows.csv", "would take the place of the data", "Name another file"),
    ("predict table --data object.json", "object.json: the file holds no list of objects", "one object a line"),
    ("predict table --data case.csv", "column 'size' is missing", "Of the schema's columns there are: mass, island."),
    ("serve penguins", "penguins: there is no such folder", "reinforge train penguins -o runs/penguins"),
    ("serve file", "file: it is no folder", "Give the folder of a finished run"),
    ("predict exported --data rows.csv", "exported: this is an export, not a bundle", "reinforge-edge exported"),
    ("serve x=table x=policy", "x=table, x=policy: two bundles have one name", "NAME=FOLDER"),
    ("serve table --tokens columns.csv", "columns.csv: this is no file of tokens: it is not valid", "reinforge token"),
    ("serve table --tokens tokens.json", "tokens.json: this is no file of tokens: 0.sha256: ", "reinforge token FILE"),
    ("serve table --tokens object.json", "object.json: this is no file of tokens: Input", "reinforge token FILE NAME"),
    ("serve some", "some: this is no bundle", "Give the folder of a finished run"),
    ("serve table --host no.such.host.invalid", "there is no such host", "127.0.0.1"),
    ("report some", "some: this is no run", "Give the folder that `train -o` made."),
    ("verify some", "some: this is no bundle", "Give the folder of a finished run"),
]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("line", "problem", "remedy"), MISTAKES, ids=[line for line, *_told in MISTAKES])
def test_a_mistake_is_told_with_place_and_remedy(
    line: str, problem: str, remedy: str, language: str, workplace: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("REINFORGE_LANG", language)
    (workplace / "folder.csv").mkdir(exist_ok=True)
    (workplace / "rows.csv").write_text("size,mass,island\n40,3000,Dream\n")
    before = sorted(workplace.rglob("*"))
    assert main([*line.split(), "--json"]) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    told = json.loads(shown.out.splitlines()[-1])["error"]
    assert told["exit_status"] == 2
    if language == "zh":
        assert shown.err.startswith("错误：")
        assert any("\u4e00" <= character <= "\u9fff" for character in told["problem"])
    else:
        assert problem in shown.err.splitlines()[0]
        assert remedy in (told["remedy"] or "")
    # Nothing is left behind, so that the mended command can be given again.
    made_new = [path for path in sorted(workplace.rglob("*")) if path not in before]
    assert [path for path in made_new if path != workplace / "runs"] == []


def test_serving_without_its_extra(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else real(name))
    assert main(["serve", str(workplace / "table"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert told["remedy"] == "pip install 'reinforge[serve]'"


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "reinforge", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def test_ctrl_c_ends_a_server_in_order(workplace: Path) -> None:
    process = start(workplace, "serve", "table", "--port", "0", "--json")
    assert process.stderr is not None
    url = process.stderr.readline().partition(" at ")[2].partition(" ")[0]
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert json.loads(out.splitlines()[-1])["url"] == url


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_training_with_the_way_on(times: int, workplace: Path, tmp_path: Path) -> None:
    """Once: a checkpoint. Again, while that waits for an update: at once."""
    folder = tmp_path / "run"
    process = start(
        workplace, "train", "linear.yaml", "learn.stop={seconds: 60}", "log.updates=1", "-o", str(folder), "--json"
    )
    while not (folder / "log.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    for _time in range(times):
        process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == f"Interrupted. Go on with: reinforge train --resume {folder}\n"
    assert json.loads(out.splitlines()[-1])["resume"] == f"reinforge train --resume {folder}"
    assert Run(folder).status["state"] == "interrupted"


def test_ctrl_c_before_anything_was_learned(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(workplace)
    monkeypatch.setattr("reinforge.workflow.train.assemble", interrupted)
    assert main(["train", "linear.yaml", "-o", str(tmp_path / "run"), "--json"]) == 130
    shown = capsys.readouterr()
    assert shown.err == "Interrupted.\n"
    assert json.loads(shown.out)["error"]["exit_status"] == 130
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("line", ["train pengins", "prepare pengins", "doctor pengins", "train penguins lern.lr=1"])
def test_a_slip_is_told_before_torch_is_loaded(line: str) -> None:
    code = (
        "import sys; from reinforge.cli import main; status = main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "False"]
