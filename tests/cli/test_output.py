"""What a command says at its end."""

from __future__ import annotations

import json

import pytest

from reinforge.cli.output import Result, show


def test_sentences_stand_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "run": "runs/a",
        "notes": ["one thing", "another"],
        "parents": [],
        "sizes": [1, 2],
        "loss": 0.25,
        "interval": [0.20833333333333334, 1.0],
    }
    show(Result(values), as_json=True)
    *text, line = capsys.readouterr().out.splitlines()
    assert text == [
        "run       runs/a",
        "notes     one thing",
        "          another",
        "parents   []",
        "sizes     [1, 2]",
        "loss      0.25",
        "interval  [0.208333, 1]",
    ]
    assert json.loads(line) == values
