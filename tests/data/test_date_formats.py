"""Dates that are not written as ISO 8601 has it: by a stated format, or told from the column."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.data.operations.dates import moment
from reinforge.data.options import TableOptions
from reinforge.data.prepared import prepare_table
from reinforge.data.values import Nulls, Unreadable
from reinforge.errors import DataError, RecipeError
from reinforge.schema.date_format import pattern

NONE = Nulls.of(("", "n/a"))
FORMATS = [
    "%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%Y年%m月%d日", "%d %b %Y %H:%M:%S", "%B %d, %Y %I:%M %p", "%d%m%y %H%M",
    "%Y/%m/%d %H:%M:%S.%f", "%d.%m.%Y %H:%M %z",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@settings(deadline=None, max_examples=30)
@given(value=st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2068, 12, 31)), hours=st.integers(-12, 12))
def test_it_reads_what_python_writes(form, value, hours):
    zone = datetime.timezone(datetime.timedelta(hours=hours, minutes=30))
    text = value.replace(tzinfo=zone).strftime(form)
    expected = datetime.datetime.strptime(text, form)
    if expected.tzinfo is not None:
        expected = expected.astimezone(datetime.UTC).replace(tzinfo=None)
    assert moment(text, NONE, form=form) == (expected - datetime.datetime(1970, 1, 1)) // datetime.timedelta(
        microseconds=1
    )


def test_numbers_iso_texts_and_what_is_missing():
    day = moment("2024-12-31", NONE)
    for value in (20241231, 20241231.0, np.int64(20241231), "20241231", "2024-12-31", " 20241231 "):
        assert moment(value, NONE, form="%Y%m%d") == day
    missing = moment(None, NONE)
    assert [moment(value, NONE, form="%Y%m%d") for value in (None, "n/a", float("nan"))] == [missing] * 3
    assert moment("3.2.70", NONE, form="%d.%m.%y") == 33 * 86_400_000_000


@pytest.mark.parametrize("text", ["31.12", "32.12.2024", "29.2.2023", "2024-13-01", "1.1.2024 10:00", "12.31.2024"])
def test_what_is_no_such_date(text):
    with pytest.raises(Unreadable, match="is no date"):
        moment(text, NONE, form="%d.%m.%Y")


@pytest.mark.parametrize(
    ("form", "said"),
    [("%Y-%m", "needs a year"), ("%d.%m.%Y %q", "%q is none of"), ("%d.%d.%m.%Y", "says again"), ("", "needs a year"),
     ("%d.%m.%Y %I:%M", "hours are"), ("%d.%m.%Y %y", "needs a year"), ("%d.%m.%Y %", "% is none of")],
)  # fmt: skip
def test_what_is_no_format(form, said):
    with pytest.raises(ValueError, match=said):
        pattern(form)
    with pytest.raises((ValueError, RecipeError), match=said):
        TableOptions(targets=["y"], fields={"t": {"kind": "date", "format": form}})


def table(times):
    return {"t": times, "x": [float(i % 7) for i in range(len(times))], "y": [i * 1.5 for i in range(len(times))]}


DAYS = [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(60)]


@pytest.mark.parametrize(
    "form", ["%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y年%m月%d日", "%d %b %Y", "%d.%m.%y"]
)
def test_a_column_tells_its_format(form):
    plain = prepare_table(TableOptions(targets=["y"]), data=table([day.isoformat() for day in DAYS]))
    told = prepare_table(TableOptions(targets=["y"]), data=table([day.strftime(form) for day in DAYS]))
    assert told.train["inputs"]["numbers"].equal(plain.train["inputs"]["numbers"])
    assert any(form in note for note in told.notes)
    # A request may write it either way.
    one = told.pipeline.transform_row({"t": DAYS[3].strftime(form), "x": 3.0})
    assert one["inputs"]["numbers"].equal(told.pipeline.transform_row({"t": "2024-01-04", "x": 3})["inputs"]["numbers"])


def test_a_time_of_day_is_told_too():
    times = [f"{1 + i % 28:02d}.03.2024 {i % 24:02d}:15" for i in range(60)]
    field = prepare_table(TableOptions(targets=["y"]), data=table(times)).schema.field("t")
    assert (field.format, field.parts) == ("%d.%m.%Y %H:%M", ("elapsed", "month", "weekday", "hour"))


def test_what_may_be_read_in_two_ways_is_left_out_until_it_is_stated():
    times = [f"{1 + i % 12:02d}/{1 + i % 11:02d}/2024" for i in range(60)]
    doubtful = prepare_table(TableOptions(targets=["y"]), data=table(times))
    assert any("'t' is left out: its dates may be %d/%m/%Y or %m/%d/%Y" in note for note in doubtful.notes)
    stated = TableOptions(targets=["y"], fields={"t": {"format": "%m/%d/%Y"}})
    field = prepare_table(stated, data=table(times)).schema.field("t")
    assert (field.kind, field.format) == ("date", "%m/%d/%Y")
    with pytest.raises(DataError, match="may be"):
        prepare_table(TableOptions(targets=["y"], fields={"t": {"kind": "date"}}), data=table(times))


def test_a_split_by_time_reads_them_as_well():
    split = {"kind": "time", "column": "t", "validation": 0.1, "test": 0.2}
    plain = prepare_table(TableOptions(targets=["y"], split=split), data=table([day.isoformat() for day in DAYS[::-1]]))
    times = [day.strftime("%d.%m.%Y") for day in DAYS[::-1]]
    told = prepare_table(TableOptions(targets=["y"], split=split), data=table(times))
    assert told.rows.test.tolist() == plain.rows.test.tolist() == list(range(12))
    doubtful = [day.strftime("%d/%m/%Y") for day in DAYS[::-1] if day.day < 13]
    with pytest.raises(DataError, match=r"data\.split\.format"):
        prepare_table(TableOptions(targets=["y"], split=split), data=table(doubtful))
    stated = TableOptions(targets=["y"], split={**split, "format": "%d/%m/%Y"})
    assert prepare_table(stated, data=table(doubtful)).rows.test.tolist() == [0, 1, 2, 3, 4]
