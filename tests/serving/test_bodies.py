"""Bodies other than JSON: tables as Arrow, rows as forms; and what of a model the page is made from."""

import io
import re

import httpx
import numpy as np
import polars as pl
import pytest

from reinforge.serving import page
from reinforge.serving.asked import asked, example
from reinforge.serving.bodies import ARROW
from tests.bundle import made


def post(url, name="table", **more):
    return httpx.post(f"{url}/v1/models/{name}/predict", timeout=20, **more)


def stream(frame):
    file = io.BytesIO()
    frame.write_ipc_stream(file)
    return file.getvalue()


def test_a_table_comes_and_goes_as_arrow(url, bundles):
    rows = [{k: v for k, v in row.items() if k in ("size", "mass", "island")} for row in made.rows(60, seed=3)]
    answer = post(url, content=stream(pl.DataFrame(rows)), headers={"content-type": ARROW})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == ARROW
    found = pl.read_ipc_stream(answer.content)
    expected = bundles["table"].predict(rows)
    assert found["species"].to_list() == [one["species"]["label"] for one in expected]
    np.testing.assert_allclose(found["price"].to_numpy(), [one["price"]["value"] for one in expected], rtol=1e-6)
    np.testing.assert_allclose(
        found["species.Adelie"].to_numpy(), [one["species"]["probabilities"]["Adelie"] for one in expected], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"ARROW1\0\0" + b"\xff" * 200, 400),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" * 4, 400),
        (stream(pl.DataFrame({"size": [1.0]}))[:100], 400),
        (stream(pl.DataFrame({"size": []})), 400),
        (stream(pl.DataFrame({"size": [1.0] * 501, "mass": [1] * 501, "island": ["Dream"] * 501})), 413),
        (stream(pl.DataFrame({"size": [1.0], "mass": [1]})), 422),
        (stream(pl.DataFrame({"size": [1.0], "mass": ["x"], "island": ["Dream"]})), 422),
    ],
)  # fmt: skip
def test_arrow_that_is_none_or_does_not_fit_is_refused(url, content, status):
    answer = post(url, content=content, headers={"content-type": ARROW})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["problem"]
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_rows_of_a_policy_are_no_table(url):
    assert post(url, "policy", content=b"", headers={"content-type": ARROW}).status_code == 415


def test_a_form_is_a_row_or_several(url, bundles):
    one = {"size": "1.5", "mass": "4", "island": "Dream"}
    answer = post(url, files={name: (None, value) for name, value in one.items()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == bundles["table"].predict([{"size": 1.5, "mass": 4, "island": "Dream"}])
    several = [(name, (None, value)) for value in ("1", "2") for name in ("size", "mass")]
    several += [("island", (None, "Dream")), ("island", (None, "Biscoe"))]
    assert len(post(url, files=several).json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"", "multipart/form-data", 400),
        (b"x" * 100_001, "multipart/form-data; boundary=x", 413),
        (b"<a/>", "application/xml", 415),
    ],
)
def test_other_bodies_are_refused(url, body, kind, status):
    answer = post(url, content=body, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["problem"]
    if status == 400:
        assert answer.json()["error"]["where"] == "body"
        assert answer.json()["error"]["remedy"]


def test_forms_whose_fields_make_no_rows(url):
    uneven = [("size", (None, "1")), ("size", (None, "2")), ("mass", (None, "3"))]
    assert post(url, files=uneven).status_code == 400
    bad = post(url, files={"size": (None, "wide"), "mass": (None, "3"), "island": (None, "Dream")})
    assert bad.status_code == 422
    assert "size" in bad.json()["error"]["where"]


def test_usual_values_are_a_row_that_the_model_takes_and_nobodys_own(bundles):
    found = {one["name"]: one for one in asked(bundles["table"])}
    assert found["island"]["labels"] == ["Biscoe", "Dream", "Torgersen"]
    assert found["size"]["low"] < found["size"]["usual"] < found["size"]["high"]
    assert not found["mass"]["integer"]
    assert found["size"]["optional"]
    row = example(bundles["table"])
    sizes = [one["size"] for one in made.rows() if one["size"] is not None]
    assert row["size"] == pytest.approx(np.median(sizes), rel=1e-3)
    assert row["size"] not in sizes
    assert bundles["table"].predict([row])[0]["species"]["label"]
    assert bundles["policy"].predict([example(bundles["policy"])])
    assert example(bundles["text"]) is None


def test_the_page_loads_nothing_from_elsewhere(url):
    index = httpx.get(url)
    assert index.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', index.text)
    assert {"page.js", "page.css"} <= set(named)
    for name in named:
        if not name.startswith("data:"):
            assert httpx.get(f"{url}/{name}").status_code == 200, name
    for name in ("page.js", "talk.js", "page.css"):
        assert not re.search(rb"https?://", page._content(name))
    assert not re.search(r"<script>|style=|onclick=", index.text), "what the policy would block"
    assert httpx.get(f"{url}/../server.py").status_code == 404
    assert httpx.get(f"{url}/server.py").status_code == 404


def test_every_text_of_the_page_is_there_in_both_languages():
    source = page._content("page.js").decode()
    english, chinese = (
        set(re.findall(r"(\w+):", part)) for part in re.findall(r"  (?:en|zh): \{(.*?)\n  \}", source, re.S)
    )
    assert english == chinese
    sources = source + page._content("talk.js").decode()
    used = set(re.findall(r'\bt\("(\w+)"\)', sources))
    assert used
    assert used <= english
