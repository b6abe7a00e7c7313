"""The data card: figures are those of the data, everything is escaped, in both languages; `prepare` writes it."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.profile import profile
from reinforge.errors import RecipeError
from reinforge.workflow.prepare import prepare
from reinforge.workflow.train import train

EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")


def rows(count: int = 300) -> dict[str, list[object]]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=count)
    found: dict[str, list[object]] = {
        "x": [None if i % 10 == 0 else float(v) for i, v in enumerate(x)],
        "wide": np.exp(3 * x).tolist(),
        "day": [f"2026-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(count)],
        "city": generator.choice(["a", "b", EVIL, None], count).tolist(),
        EVIL: generator.normal(size=count).tolist(),
        "y": np.where(x + generator.normal(size=count) > 0, EVIL, "no").tolist(),
    }
    found["late"] = [str(value) + "!" for value in found["y"]]
    return {name: [*values, *values[:7]] for name, values in found.items()}


RECIPE = {"name": "clinic", "data": {"kind": "table", "targets": ["y"]}, "model": "composed", "objective": "supervised"}


class Tags(html.parser.HTMLParser):
    """Which elements open, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "circle"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_the_page_is_whole_and_escaped(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", language)
    path = tmp_path / "card.html"
    prepare(RECIPE, data=rows(), output=path)
    page = path.read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe"}
    assert "&lt;script&gt;" in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert ("数据卡" in page) == (language == "zh_CN")
    visible = re.sub(r"<[^>]*>", " ", page.split("</style>")[1])
    if language == "zh_CN":
        for english in ("rows", "missing", "Cleaning", "Columns", "Correlations", "duplicate"):
            assert not re.search(rf"\b{english}\b", visible), english
    else:
        assert re.search(r"late\s+100\.0%.{0,12}a leak\?", visible, re.DOTALL)
        assert "duplicate rows" in visible


def test_the_profile_is_that_of_polars() -> None:
    prepared = prepare_table(TableOptions(targets=["y"]), data=rows())
    found = {column.name: column for column in profile(prepared.training, prepared.schema).columns}
    frame = pl.DataFrame(prepared.training.columns)
    for name, column in found.items():
        assert column.missing == frame[name].null_count()
        assert column.distinct == frame[name].drop_nulls().n_unique()
    for name in ("x", "wide", EVIL):
        facts = found[name].facts
        series = frame[name].drop_nulls()
        expected = [series.quantile(q, "linear") for q in (0, 0.25, 0.5, 0.75, 1)]
        expected += [series.mean(), series.std(ddof=0)]
        assert list(facts.values()) == pytest.approx(expected)
        counts = found[name].histogram.counts
        assert sum(map(sum, counts.values())) == len(series)
        for label, by in counts.items():
            assert sum(by) == frame.filter(pl.col("y") == label)[name].drop_nulls().len()
    top = dict(found["city"].top)
    for label, by in top.items():
        assert by == {y: frame.filter((pl.col("city") == label) & (pl.col("y") == y)).height for y in (EVIL, "no")}
    assert found["wide"].histogram.logarithmic
    assert not found["x"].histogram.logarithmic


def test_correlations_are_those_of_polars() -> None:
    prepared = prepare_table(TableOptions(targets=["y"]), data=rows())
    found = profile(prepared.training, prepared.schema)
    frame = pl.DataFrame(prepared.training.columns)
    for one, line in zip(found.correlated, found.correlations, strict=True):
        for other, value in zip(found.correlated, line, strict=True):
            both = frame.select(one, other).drop_nulls() if one != other else frame.select(one).drop_nulls()
            assert value == pytest.approx(both.select(pl.corr(one, other)).item(), abs=1e-9)


def test_a_prepared_folder_is_data(tmp_path: Path) -> None:
    recipe = {**RECIPE, "learn": {"stop": {"epochs": 2}}}
    prepare(recipe, data=rows(), output=tmp_path / "ready")
    assert (tmp_path / "ready" / "data-card.html").is_file()
    plain = train(recipe, data=rows(), output=tmp_path / "a")
    stored = {**recipe, "data": {**RECIPE["data"], "path": str(tmp_path / "ready")}}
    mapped = train(stored, output=tmp_path / "b")
    assert mapped.metrics == plain.metrics


def test_only_a_table_has_a_card(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="only a table"):
        prepare("cartpole-dqn", output=tmp_path / "card.html")


def pictured() -> dict[str, object]:
    generator = np.random.default_rng(0)
    sets = [["a"] * bool(i % 2) + ["b"] * bool(i % 3) + [EVIL] * (i % 5 == 0) for i in range(60)]
    return {
        "photo": pl.Series(generator.integers(0, 256, (60, 8, 8), np.uint8)),
        "tags": [";".join(held) if i % 7 else None for i, held in enumerate(sets)],
        "y": pl.Series(sets, dtype=pl.List(pl.String)),
    }


SETS = {
    "name": "sets", "data": {"kind": "table", "targets": ["y"], "fields": {"tags": {"kind": "labels",
    "separator": ";"}}}, "model": "composed", "objective": "supervised", "learn": {"stop": {"epochs": 1}},
}  # fmt: skip


def test_sets_of_labels_are_counted_label_by_label() -> None:
    options = TableOptions(targets=["y"], fields={"tags": {"kind": "labels", "separator": ";"}})
    prepared = prepare_table(options, data=pictured())
    found = {column.name: column for column in profile(prepared.training, prepared.schema).columns}
    tags = prepared.training.column("tags").to_list()
    assert found["tags"].missing == sum(not value for value in tags)
    for name, values in (
        ("tags", [(v or "").split(";") for v in tags]),
        ("y", prepared.training.column("y").to_list()),
    ):
        assert dict(found[name].top) == {
            label: {"": sum(label in held for held in values)} for label in ("a", "b", EVIL)
        }
    assert found["photo"].distinct == len(prepared.training)


def test_the_report_holds_the_card_and_pictures_escaped(tmp_path: Path) -> None:
    run = train(SETS, data=pictured(), output=tmp_path / "run")
    page = (run.folder / "report.html").read_text("utf-8")
    tags = Tags()
    tags.feed(re.sub(r"<(img|br)[^>]*>", "", page))
    assert tags.open == []
    card = page.partition('<details class="card">')[2].partition("</details>")[0]
    assert card.count("data:image/png;base64,") == 12
    assert "Data card" in card
    assert EVIL not in page
    assert "&lt;script&gt;" in card
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_lengths_of_texts_have_long_tails() -> None:
    texts = ["good " * 4 + str(i) for i in range(80)] + ["good " * 400 + str(i) for i in range(20)]
    prepared = prepare_table(
        TableOptions.model_validate({"targets": ["y"], "fields": {"t": {"kind": "text"}}, "split": {"kind": "random"}}),
        data={"t": texts, "y": ["a", "b"] * 50},
    )
    found = {column.name: column for column in profile(prepared.training, prepared.schema).columns}
    assert found["t"].histogram.logarithmic
    assert found["t"].histogram.unit == "characters"
