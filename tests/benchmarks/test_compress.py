"""The table of compression: figures before and after, and what would be refused."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.compress import CASES, Case, Row, table
from reinforge.compress.compress import METHODS
from reinforge.compress.judged import Judged


def test_every_method_is_tried_on_each_kind() -> None:
    for name, chosen in CASES.items():
        assert {case.method for case in chosen} == set(METHODS), name


def test_commands_say_what_is_not_by_default() -> None:
    assert Case("int8").told() == "int8"
    assert Case("prune", 0.45, 300).told() == "prune --keep 0.45 --updates 300"
    assert Case("distill", model=("sizes=[24]",)).told() == "distill --model sizes=[24]"


def test_what_the_table_says() -> None:
    before, after = Judged("accuracy", 0.99, 1000, 2000, 0.5, 4.0), Judged("accuracy", 0.97, 250, 900, 0.4, 2.0)
    rows = [
        Row("int8", 0.02, asdict(before), asdict(after)), Row("prune", -0.01, asdict(before), asdict(after)),
        Row("low-rank", refused="no layer is large enough"),
    ]  # fmt: skip
    told, _blank, missing = table({"digits": rows, "reviews": []}).rpartition("\n\n")
    assert missing.startswith("Not measured yet: ")
    assert "reviews `int8-weight`" in missing
    assert "digits `int8`" not in missing
    assert told.splitlines()[2:] == [
        "| digits | | accuracy 0.99 | 1,000 | 0.500 | 4.00 | |",
        "| digits | `int8` | 0.97 | 250 (4.0x smaller) | 0.400 | 2.00 | refused: 0.020 lost |",
        "| digits | `prune` | 0.97 | 250 (4.0x smaller) | 0.400 | 2.00 |  |",
        "| digits | `low-rank` | | | | | refused: no layer is large enough |",
    ]
