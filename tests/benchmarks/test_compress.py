"""The table of compression: figures before and after, and what would be refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.compress import CASES, Case, Row, digest, kept, table, versions
from reinforge.compress.compress import METHODS
from reinforge.compress.judged import Judged


def test_every_method_is_tried_on_each_kind() -> None:
    for name, chosen in CASES.items():
        assert {case.method for case in chosen} in (set(METHODS), {"int8-static"}), name


def test_commands_say_what_is_not_by_default() -> None:
    assert Case("int8").told() == "int8"
    assert Case("prune", 0.45, 300).told() == "prune --keep 0.45 --updates 300"
    assert Case("distill", model=("sizes=[24]",)).told() == "distill --model sizes=[24]"


def test_what_the_table_says() -> None:
    before, after = Judged("accuracy", 0.99, 1000, 2000, 0.5, 4.0), Judged("accuracy", 0.97, 250, 900, 0.4, 2.0)
    later = replace(before, milliseconds=0.8)
    rows = [
        Row("int8", "", {}, 0.02, asdict(before), asdict(after)),
        Row("prune", "", {}, -0.01, asdict(later), asdict(after)),
        Row("low-rank", "", {}, refused="no layer is large enough"),
    ]
    told, _blank, missing = table({"digits": rows, "reviews": []}).rpartition("\n\n")
    assert missing.startswith("Not measured yet: ")
    assert "reviews `int8-weight`" in missing
    assert "digits `int8`" not in missing
    same = "1,000 → 250 (4.0x smaller)"
    assert told.splitlines()[2:] == [
        f"| digits | `int8` | accuracy 0.99 → 0.97 | {same} | 0.500 → 0.400 | 4.00 → 2.00 | refused: 0.020 lost |",
        f"| digits | `prune` | accuracy 0.99 → 0.97 | {same} | 0.800 → 0.400 | 4.00 → 2.00 |  |",
        "| digits | `low-rank` | | | | | refused: no layer is large enough |",
    ]


def test_what_is_kept_is_of_the_recipe_as_it_is_and_of_these_versions(tmp_path: Path) -> None:
    rows = [
        Row("int8", digest("digits"), versions()), Row("prune", "another", versions()),
        Row("low-rank", digest("digits"), {**versions(), "torch": "1.0"}),
    ]  # fmt: skip
    (tmp_path / "digits.json").write_text(json.dumps([asdict(row) for row in rows]))
    assert kept(tmp_path, "digits") == rows[:1]
    assert kept(tmp_path, "reviews") == []
    assert digest("digits") != digest("reviews")
