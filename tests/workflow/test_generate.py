"""Texts and conversations from a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import reinforge
from reinforge.data.chats import Chat, Message
from reinforge.errors import BundleError, DataError
from reinforge.workflow.generate import Conversation, Draws, generate
from tests.bundle import made


def test_texts_are_those_of_the_model(tmp_path: Path) -> None:
    """Greedy: each token the likeliest of a full pass."""
    bundle = made.chat_bundle(tmp_path / "a")
    pipeline, model = bundle.form.pipeline, bundle.model
    (found,) = generate(bundle, ["hello"], Draws(max_tokens=12, temperature=0.0))
    ids = pipeline.opened("hello").long()
    start, log_prob = len(ids), 0.0
    for _ in range(found.tokens):
        with torch.no_grad():
            logits = model({"tokens": ids[None]})[0]["tokens"][0, -1]
        log_prob += float(logits.log_softmax(-1).max())
        ids = torch.cat([ids, logits.argmax()[None]])
    assert found.text == pipeline.tokenizer.decode(ids[start:])
    assert found.log_prob == pytest.approx(log_prob, abs=1e-4)


def test_samples_seeds_files_and_stops(tmp_path: Path) -> None:
    made.chat_bundle(tmp_path / "a")
    rows = [{"text": "ab"}, {"messages": [{"role": "user", "content": "why?"}]}, {"prompt": "how?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draws = Draws(max_tokens=20, seed=3)
    found = reinforge.generate(tmp_path / "a", tmp_path / "rows.jsonl", draws, samples=2)
    assert [each.prompt for each in found] == ["ab", "ab", "why?", "why?", "how?", "how?"]
    assert found == generate(tmp_path / "a", rows, draws, samples=2)
    assert found[0].text != found[1].text
    assert found[:2] == generate(tmp_path / "a", rows[:1], draws, samples=2), "neighbours change nothing"
    assert found[0] != generate(tmp_path / "a", ["ab"], Draws(max_tokens=20, seed=4))[0]
    stop = found[0].text[3:5]
    (cut,) = generate(tmp_path / "a", ["ab"], Draws(max_tokens=20, seed=3, stop=(stop,)))
    assert cut.text == found[0].text[: found[0].text.find(stop)]
    assert cut.reason == "stop"


def test_a_conversation_is_added_to_and_never_encoded_again(tmp_path: Path) -> None:
    """Its tokens are those of the template over all turns, where answers are as they would be encoded."""
    bundle = made.chat_bundle(tmp_path / "a")
    talk = Conversation(bundle, Draws(max_tokens=5, temperature=1.0), system="be kind")
    for text in ("hello", "why?"):
        pieces = list(talk.say(text))
        assert "".join(pieces) == talk.messages[-1].content
    pipeline = bundle.form.pipeline
    whole, _own, _turns = pipeline.chat(Chat(tuple(talk.messages)))
    # The last turn's newline comes with the next turn.
    assert pipeline.tokenizer.decode(talk.ids) == pipeline.tokenizer.decode(whole)[:-1]
    special = [token for token in talk.ids if token >= pipeline.tokenizer.base.size]
    ours = [token for token in whole.tolist() if token >= pipeline.tokenizer.base.size]
    assert [token for token in special if token in ours][: len(ours)] == ours
    assert talk.messages[0] == Message("system", "be kind")
    talk.reset()
    assert [message.role for message in talk.messages] == ["system"]
    with pytest.raises(DataError, match="the conversation has"):
        list(talk.say("x" * 90))
    assert [message.role for message in talk.messages] == ["system"], "nothing was said"


def test_what_can_not_talk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not write text"):
        generate(made.table_bundle(tmp_path / "table"), ["a"])
    with pytest.raises(BundleError, match="no chat template"):
        Conversation(made.text_bundle(tmp_path / "text"))
    bundle = made.chat_bundle(tmp_path / "a")
    for wrong in ([], [{}], [{"messages": []}], ["x" * 200]):
        with pytest.raises(DataError):
            generate(bundle, wrong)
