"""Each verb hands its arguments to the function of its name, and ends as it should."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import reinforge
from reinforge.cli import main
from reinforge.errors import DataError, TrainingDiverged
from reinforge.serving.task import Access
from reinforge.workflow.predict import Written

# A dry run of `train` is a function of its own.
HOMES = {**reinforge._HOMES, "rehearse": "reinforge.workflow.rehearsal"}
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Found:
    """What prepare, train and doctor answer."""

    def summary(self) -> dict[str, object]:
        return {"fine": True}

    def text(self) -> str:
        return "fine"


@dataclass
class Workflow:
    """Stands for the functions behind the verbs: records calls, returns or raises what it is told."""

    calls: list[tuple[str, Call]] = field(default_factory=list)
    answers: dict[str, object] = field(default_factory=lambda: dict.fromkeys(("prepare", "train", "doctor"), Found()))

    def function(self, verb: str) -> Callable[..., object]:
        def call(*arguments: Any, **keywords: Any) -> object:
            keywords.pop("progress", None)
            self.calls.append((verb, (arguments, keywords)))
            answer = self.answers.get(verb, {"fine": True})
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Workflow:
    monkeypatch.setenv("REINFORGE_LANG", "en")
    fake = Workflow()
    for verb in ("prepare", "train", "rehearse", "evaluate", "predict", "serve", "report", "verify", "doctor"):
        module = ModuleType(HOMES[verb])
        setattr(module, verb, fake.function(verb))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for verb in ("prepare", "train", "doctor"):
        monkeypatch.setattr(f"reinforge.cli.{verb}.checked", _listed)
    monkeypatch.setattr("reinforge.cli.train._ended", lambda folder: None)
    return fake


def _listed(recipe: str, overrides: list[str] | None, use: list[Path] | None) -> tuple[str, ...]:
    """Stands for the loaded recipe: what it would be loaded from."""
    return (recipe, *(overrides or ()), *map(str, use or ()))


CALLS: list[tuple[str, str, Call]] = [
    (
        "prepare r data.x=1 -o f.md --use u.py",
        "prepare",
        ((("r", "data.x=1", "u.py"),), {"output": Path("f.md")}),
    ),
    (
        "train r learn.lr=-1 a=b --from b -o out --use u.py --use v.py",
        "train",
        (
            (("r", "learn.lr=-1", "a=b", "u.py", "v.py"),),
            {
                "start": Path("b"),
                "output": Path("out"),
                "resume": None,
                "jobs": None,
                "use": [Path("u.py"), Path("v.py")],
            },
        ),
    ),
    (
        "train --resume run",
        "train",
        ((None,), {"start": None, "output": None, "resume": Path("run"), "jobs": None, "use": ()}),
    ),
    (
        "train r seed=2 --from b --use u.py --dry-run",
        "rehearse",
        ((("r", "seed=2", "u.py"),), {"start": Path("b")}),
    ),
    (
        "evaluate b --data f.csv",
        "evaluate",
        (
            (Path("b"),),
            {
                "data": "f.csv",
                "episodes": None,
                "seed": None,
                "stochastic": False,
                "asking": None,
                "output": None,
                "use": (),
            },
        ),
    ),
    (
        "evaluate b --episodes 7 --seed 3 --stochastic",
        "evaluate",
        (
            (Path("b"),),
            {"data": None, "episodes": 7, "seed": 3, "stochastic": True, "asking": None, "output": None, "use": ()},
        ),
    ),
    (
        "serve b --host ::1 --port 0 --workers 2 --threads 3 --allow-host * --access-log -",
        "serve",
        (
            (["b"],),
            {
                "port": 0,
                "access": Access("::1", ("*",), log="-"),
                "queue": None,
                "replicas": 2,
                "threads": 3,
                "use": (),
                "signed_by": (),
                "trials": {},
            },
        ),
    ),
    (
        "serve b c",
        "serve",
        (
            (["b", "c"],),
            {
                "port": 8000,
                "access": Access(),
                "queue": None,
                "replicas": 1,
                "threads": 1,
                "use": (),
                "signed_by": (),
                "trials": {},
            },
        ),
    ),
    ("verify b", "verify", ((Path("b"),), {"keys": (), "use": ()})),
    ("doctor", "doctor", ((None,), {"start": None})),
    ("doctor r seed=2", "doctor", ((("r", "seed=2"),), {"start": None})),
    ("doctor r --from base", "doctor", ((("r",),), {"start": Path("base")})),
]


@pytest.mark.parametrize(("line", "function", "call"), CALLS, ids=[line for line, *_call in CALLS])
def test_a_verb_hands_over_its_arguments(line: str, function: str, call: Call, workflow: Workflow) -> None:
    assert main(line.split()) == 0
    assert workflow.calls == [(function, call)]


@pytest.mark.parametrize(
    ("output", "said"),
    [("card.html", "data card is written to"), ("ready", "data.path="), ("a.md", "This is written to")],
)
def test_prepare_tells_what_it_wrote(
    output: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,z,y\n" + "".join(f"{i % 7},{i % 5},{i % 3 * 1.5}\n" for i in range(30)))
    (tmp_path / "t.yaml").write_text(f"data: {{kind: table, path: {path}, targets: [y]}}\n")
    assert main(["prepare", str(tmp_path / "t.yaml"), "-o", str(tmp_path / output)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert said in last
    assert str(tmp_path / output) in last
    assert (tmp_path / output).exists()


# None may drift from what its verb hands over.
@pytest.mark.parametrize(
    ("name", "call"),
    [
        *((name, call) for _line, name, call in CALLS),
        ("predict", ((Path("b"), Path("f")), {"output": None, "use": ()})),
        ("report", ((Path("r"),), {})),
    ],
)
def test_the_functions_behind_take_what_the_verbs_hand_over(name: str, call: Call) -> None:
    function = getattr(importlib.import_module(HOMES[name]), name)
    told = {"progress": None} if name in ("prepare", "train", "rehearse", "evaluate", "predict") else {}
    inspect.signature(function).bind(*call[0], **call[1], **told)


def test_json_is_the_last_line(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    workflow.answers["evaluate"] = {"accuracy": 0.5, "nothing": float("nan"), "path": Path("x"), "by": {"a": [1, 2]}}
    assert main(["evaluate", "b", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["accuracy", "0.5"]
    assert json.loads(lines[-1]) == {"accuracy": 0.5, "nothing": None, "path": "x", "by": {"a": [1, 2]}}
    assert main(["--json", "evaluate", "b"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] == 0.5
    assert main(["evaluate", "b"]) == 0
    assert "{" not in capsys.readouterr().out


def test_numbers_of_numpy_become_plain(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    workflow.answers["evaluate"] = {"a": np.float32(0.5), "b": np.arange(3)}
    assert main(["evaluate", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"a": 0.5, "b": [0, 1, 2]}


def test_of_several_ranks_the_first_speaks(
    workflow: Workflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate", "b", "--json"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["evaluate", "b", "--json"]) == 0
    assert capsys.readouterr().out != ""


def test_predictions_go_to_the_screen_or_a_file(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    workflow.answers["predict"] = [{"species": "Adelie"}, {"species": "Gentoo"}]
    assert main(["predict", "b", "--data", "f.csv", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"species": "Adelie"}, {"species": "Gentoo"}, {"rows": 2, "output": None}]
    workflow.answers["predict"] = Written(2, Path("o.jsonl"))
    assert main(["predict", "b", "--data", "f.csv", "-o", "o.jsonl"]) == 0
    assert capsys.readouterr().out == "2 rows written to o.jsonl\n"


def test_an_interrupted_run_tells_how_to_go_on(
    workflow: Workflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reinforge.workflow.run import Run

    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "run.json").write_text('{"state": "interrupted", "reason": "interrupted"}')
    workflow.answers["train"] = Run(folder)
    assert main(["train", "r", "--use", "u.py", "--json"]) == 130
    shown = capsys.readouterr()
    resume = f"reinforge train --resume '{folder}' --use=u.py"
    assert shown.err == f"Interrupted. Go on with: {resume}\n"
    assert json.loads(shown.out.splitlines()[-1])["resume"] == resume
    (folder / "run.json").write_text('{"state": "finished", "reason": "epochs", "metrics": {"test/accuracy": 1.0}}')
    assert main(["train", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"] == {"test/accuracy": 1.0}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("row 3 is torn", where="a.csv:3", remedy="Mend it."), 2),
        (TrainingDiverged("it diverged"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_how_a_verb_may_end(
    error: BaseException, status: int, workflow: Workflow, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workflow.answers["verify"] = error
    assert main(["verify", "b", "--json"]) == status
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    kept = list(tmp_path.iterdir())
    if isinstance(error, KeyboardInterrupt):
        assert shown.err == "Interrupted.\n"
        return
    told = json.loads(shown.out.splitlines()[-1])["error"]
    assert told["exit_status"] == status
    if isinstance(error, DataError):
        assert shown.err == "Error: a.csv:3: row 3 is torn\n  Mend it.\n"
        assert told == {
            "type": "DataError", "problem": "row 3 is torn", "where": "a.csv:3", "remedy": "Mend it.", "exit_status": 2,
        }  # fmt: skip
    # A fault of ours leaves its traceback in a file that the message names; what was foreseen leaves none.
    assert bool(kept) == isinstance(error, ZeroDivisionError)
    for file in kept:
        assert str(file) in shown.err
        assert "ZeroDivisionError: division by zero" in file.read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "there is no verb 'trian'\n  Did you mean 'train'?"),
        ("zzz", "there is no verb 'zzz'\n  Known: prepare, train"),
        ("train", "train needs a recipe"),
        ("train r --resume x", "--resume goes on with a run as it was begun"),
        ("train --resume x -o y", "--resume goes on with a run as it was begun"),
        ("serve", "BUNDLE is missing\n  See: reinforge serve --help"),
        ("serve b --port 99999", "--port must lie between 0 and 65535"),
        ("serve b --port x", "--port must be a whole number"),
        ("serve b --port", "--port needs a value"),
        ("train r --dry-run=3", "--dry-run takes no value"),
        ("serve b --prt 1", "there is no option --prt"),
        ("predict b", "--data is missing"),
        ("evaluate b --data f --episodes 1", "--data and --episodes exclude each other"),
        ("evaluate b --episodes 0", "--episodes must be at least 1, not 0"),
        ("recipes pengins", "there is no recipe called 'pengins'\n  Did you mean 'penguins'?"),
        ("report a b", "this is one argument too many: b"),
    ],
)
def test_a_mistake_gives_one_message_and_status_2(
    line: str, said: str, workflow: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: ")
    assert said in shown.err
    assert json.loads(shown.out)["error"]["exit_status"] == 2
    assert workflow.calls == []


def test_shipped_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out.splitlines()[-1])["recipes"]]
    assert "penguins" in names
    assert main(["recipes", "penguins"]) == 0
    assert "palmerpenguins" in capsys.readouterr().out
    assert main(["recipes", "--schema"]) == 0
    assert "$defs" in json.loads(capsys.readouterr().out)
