import pytest
import torch

import reinforge.bundle
from reinforge.bundle import golden
from reinforge.bundle.task import Continuation, Task
from reinforge.errors import DataError
from tests.bundle import made


def test_golden_log_probs_are_those_of_the_full_forward_pass(tmp_path):
    """Oracle: every prefix fed alone."""
    bundle = made.text_bundle(tmp_path / "a")
    (line, _second) = golden.read((bundle.path / "golden.jsonl").read_bytes())
    ids = bundle.form.pipeline.tokenizer.encode("the quick").long()
    for position in range(1, len(ids)):
        logits = bundle.model({"tokens": ids[None, :position]})[0]["tokens"][0, -1]
        assert line["outputs"]["tokens"][position - 1] == pytest.approx(
            float(logits.log_softmax(-1)[ids[position]].detach()), abs=1e-5
        )


def test_continuations_are_greedy_and_the_same_alone_and_in_a_batch(tmp_path):
    bundle = made.text_bundle(tmp_path / "a", task=Task(text=Continuation(max_tokens=6)))
    rows = [{"text": "the"}, {"text": "quick brown"}, {"text": "the"}]
    together = bundle.predict(rows)
    assert together == [bundle.predict([row])[0] for row in rows]
    ids = bundle.form.pipeline.tokenizer.encode("quick brown").long()
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, bundle.model({"tokens": ids[None]})[0]["tokens"][0, -1].argmax()[None]])
    assert together[1]["text"]["text"] == bundle.form.pipeline.tokenizer.decode(ids[-6:])
    assert reinforge.bundle.load(bundle.path).task.text.max_tokens == 6


def test_texts_end_where_the_model_ends_them(tmp_path, monkeypatch):
    """Unless the task says otherwise: after the first token that ends a turn or a text."""
    bundle = made.chat_bundle(tmp_path / "a")
    rows = [{"text": "hello"}]
    assert bundle.form.pipeline.stops
    assert bundle.form.requests(bundle.form.inputs(rows), bundle.task)[0].sampling.stop == bundle.form.pipeline.stops
    (free,) = bundle.predict(rows)
    ids = bundle.form.pipeline.opened("hello").long()
    with torch.no_grad():
        first = int(bundle.model({"tokens": ids[None]})[0]["tokens"][0, -1].argmax())
    monkeypatch.setattr(type(bundle.form.pipeline), "stops", property(lambda self: (first,)))
    (ended,) = bundle.predict(rows)
    assert ended["text"]["stopped"]
    assert len(ended["text"]["text"]) < len(free["text"]["text"])


def test_sampling_is_a_function_of_prompt_and_seed(tmp_path):
    bundle = made.text_bundle(tmp_path / "a", task=Task(text=Continuation(max_tokens=20, temperature=1.0, seed=3)))
    rows = [{"text": "the"}, {"text": "quick brown"}]
    assert bundle.predict(rows) == bundle.predict(rows[:1]) + bundle.predict(rows[1:])
    other = made.text_bundle(tmp_path / "b", task=Task(text=Continuation(max_tokens=20, temperature=1.0, seed=4)))
    assert bundle.predict(rows) != other.predict(rows)


@pytest.mark.parametrize("row", [{}, {"text": ""}, {"text": 3}, {"text": None}, {"text": "x" * 100}, "text"])
def test_bad_prompts_are_refused(tmp_path, row):
    bundle = made.text_bundle(tmp_path / "a")
    with pytest.raises(DataError):
        bundle.predict([row])
