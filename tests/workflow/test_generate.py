"""Texts and conversations from a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import reinforge
from reinforge.cli import main
from reinforge.data.chats import Chat, Message
from reinforge.errors import BundleError, DataError, ReinforgeError
from reinforge.workflow.generate import Conversation, Draft, Draws, generate
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


def test_a_draft_changes_nothing_but_the_time(tmp_path: Path) -> None:
    """Greedy, from the verb, and in a conversation; what it proposed is counted."""
    bundle, draft = made.chat_bundle(tmp_path / "a"), made.chat_bundle(tmp_path / "draft", width=16)
    with torch.no_grad():
        for parameter in (*bundle.model.parameters(), *draft.model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    draws = Draws(max_tokens=12, temperature=0.0)
    alone = generate(bundle, ["hello", "why?"], draws)
    for small in (draft, bundle):
        found = generate(bundle, ["hello", "why?"], draws, draft=Draft(small, 3))
        assert [each.text for each in found] == [each.text for each in alone]
        assert [each.log_prob for each in found] == pytest.approx([each.log_prob for each in alone], abs=1e-4)
        assert all(each.proposed > 0 for each in found)
        assert all(each.accepted == each.proposed for each in found) == (small is bundle)
    talks = [Conversation(bundle, draws), Conversation(bundle, draws, draft=Draft(draft))]
    for text in ("hello", "and?"):
        one, other = ("".join(talk.say(text)) for talk in talks)
        assert one == other


def test_a_draft_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    bundle = made.chat_bundle(tmp_path / "a")
    # Of the same size, so that its tokens alone tell.
    made.chat_bundle(tmp_path / "other", characters=" .,?!abcdefghijklmnopqrstuvwxyZ")
    with pytest.raises(BundleError, match="the draft's tokenizer is not the model's") as raised:
        generate(bundle, ["hello"], draft=Draft(tmp_path / "other"))
    assert str(tmp_path / "other") in str(raised.value)
    made.chat_bundle(tmp_path / "short", context=48)
    with pytest.raises(ReinforgeError, match="context of 48 is shorter"):
        generate(bundle, ["hello"], draft=Draft(tmp_path / "short"))
    with pytest.raises(BundleError, match="does not write text"):
        Conversation(bundle, draft=Draft(made.table_bundle(tmp_path / "table")))
    assert main(["generate", str(tmp_path / "a"), "--prompt", "hello", "--proposals", "2"]) == 2


def test_the_command_tells_how_many_were_accepted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made.chat_bundle(tmp_path / "a")
    arguments = [
        "--prompt",
        "hello",
        "--draft",
        str(tmp_path / "a"),
        "--max-tokens",
        "9",
        "--temperature",
        "0",
        "--json",
    ]
    assert main(["generate", str(tmp_path / "a"), *arguments]) == 0
    captured = capfd.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert f"{told['accepted']} of {told['proposed']} proposed tokens were accepted" in captured.err
