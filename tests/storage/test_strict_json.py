import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforge.errors import IntegrityError, StorageError
from reinforge.storage import strict_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=20
)


@given(VALUES)
def test_what_the_standard_library_writes_is_read_the_same(value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert strict_json.parse(text, "here") == value
    assert strict_json.parse(strict_json.compact(value), "here") == value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[1e999]", "too large"),
        (b"[" + b"1" * 500 + b"]", "digits"),
        (b"[0." + b"1" * 500 + b"]", "digits"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"\xff\xfe", "UTF-8"),
        (b'["\\ud800"]', "surrogate"),
        (b"[1] [2]", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'"\\"[[[[', "not valid JSON"),
        (b"]" * 10, "not valid JSON"),
    ],
)
def test_malformed_json_is_refused(content, says):
    with pytest.raises(IntegrityError, match=says):
        strict_json.parse(content, "here")


def test_depth_is_counted_exactly_and_not_inside_strings():
    assert strict_json.parse("[" * 64 + "]" * 64, "here") is not None
    with pytest.raises(IntegrityError, match="nested"):
        strict_json.parse("[" * 65 + "]" * 65, "here")
    assert strict_json.parse(json.dumps(["[" * 500 + '"' + "\\"]), "here") == ["[" * 500 + '"' + "\\"]


def test_numbers_are_exact():
    for value in (2**53 + 1, -(2**63), 0.1, 5e-324, -0.0):
        read = strict_json.parse(strict_json.compact([value]), "here")[0]
        assert read == value
        assert math.copysign(1, read) == math.copysign(1, value)


def test_a_file_is_bounded_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would never end
    with pytest.raises(IntegrityError, match="allowed"):
        strict_json.read(path)
    with pytest.raises(StorageError):
        strict_json.read(tmp_path / "missing.json")
