"""Chats, pairs, documents: read from every form that people keep them in, split, encoded; refusals that say where."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest
import torch

from reinforge.data.chats import Call, Message, asked, chat_of, judged_of, pair_of, question_of, taught
from reinforge.data.language_data import prepare_chats, prepare_documents, prepare_preferences, sides_of, told
from reinforge.data.language_options import ChatsOptions, DocumentsOptions, PreferencesOptions
from reinforge.data.options import BytePairOptions, CharacterOptions
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.errors import DataError, RecipeError

USER = {"role": "user", "content": "2 + 3"}
ANSWER = {"role": "assistant", "content": "5"}
ROWS = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"ok {n}"}]}
    for n in range(20)
]
CHARACTERS = CharacterOptions()


def test_every_form_of_a_chat() -> None:
    plain = (Message("user", "2 + 3"), Message("assistant", "5"))
    assert chat_of({"messages": [USER, ANSWER]}).messages == plain
    assert chat_of({"prompt": "2 + 3", "completion": "5"}).messages == plain
    assert chat_of({"prompt": [USER], "completion": [ANSWER]}).messages == plain
    shared = {"conversations": [{"from": "human", "value": "2 + 3"}, {"from": "gpt", "value": "5"}]}
    assert chat_of(shared).messages == plain
    parts = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 3"}]}]
    }
    assert chat_of(parts).messages == plain[:1]
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    tools = '[{"type": "function"}]'
    chat = chat_of({"messages": [USER, call, {"role": "tool", "content": "5"}], "tools": tools})
    assert chat.messages[1] == Message("assistant", "", (Call("add", {"a": 1}),))
    assert chat.tools == ({"type": "function"},)


def test_every_form_of_a_pair() -> None:
    texts = pair_of({"prompt": "2 + 3", "chosen": "5", "rejected": "6"})
    lists = pair_of({"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "6"}]})
    whole = pair_of({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "6"}]})
    both = pair_of({"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "6"}]})
    assert texts == lists == whole == both
    assert texts.prompt.messages == (Message("user", "2 + 3"),)
    assert judged_of({"prompt": "a", "completion": "b", "label": False}).wanted is False
    assert question_of({"prompt": "2 + 3", "answer": 5}).answer == "5"
    assert asked({"messages": [USER]}).messages == texts.prompt.messages


@pytest.mark.parametrize(
    ("row", "problem", "where", "remedy"),
    [
        ({"text": "a"}, "has the keys 'text'", "row 3", "prompt"),
        ({"messages": []}, "a list of messages", "'messages'", "role"),
        ({"messages": [{"role": "bot9", "content": "a"}]}, "no role 'bot9'", r"messages\[0\]", "assistant"),
        ({"messages": [USER, {"role": "assistant"}]}, "must be a text", r"messages\[1\]", "write one"),
        ({"messages": [USER]}, "nothing to learn", "messages", "Add the answer"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, "no text", r"messages\[0\]", "type"),
        ({"messages": [{**USER, "tool_calls": [{"name": "a"}]}, ANSWER]}, "of the assistant", r"messages\[0\]", None),
        ({"messages": [{**ANSWER, "tool_calls": [{"nam": "a"}]}]}, "name and arguments", r"messages\[0\]", "function"),
        ({"messages": [USER, ANSWER], "tools": {"a": 1}}, "list of JSON Schemas", "tools", None),
    ],
)
def test_refusals_say_where_and_what_to_do(row, problem, where, remedy) -> None:
    from reinforge.data.values import Origin

    with pytest.raises(DataError, match=problem) as caught:
        taught(row, Origin("chats.jsonl"), 3)
    assert "chats.jsonl, row 3" in caught.value.where
    assert __import__("re").search(where, caught.value.where)
    assert (remedy or "") in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "b"}, "do not say what it is"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"chosen": "b", "rejected": "c"}, "begin differently"),
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "no message of the assistant"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(row, problem) -> None:
    with pytest.raises(DataError, match=problem):
        pair_of(row)
    with pytest.raises(DataError, match="true or false"):
        judged_of({"prompt": "a", "completion": "b", "label": 1})
    with pytest.raises(DataError, match="nothing to answer"):
        asked({"messages": [USER, ANSWER]})
    with pytest.raises(DataError, match="a text or a number"):
        question_of({"prompt": "a", "answer": None})


def written(folder, form: str) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = folder / f"chats.{form}"
    if form == "jsonl":
        path.write_text(lines)
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    elif form == "parquet":
        pl.DataFrame(ROWS).write_parquet(path)
    elif form == "dataset":
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
        return f"datasets:{path}"
    else:
        path.mkdir()
        (path / "a.jsonl").write_text(lines[: len(lines) // 2].rsplit("\n", 1)[0] + "\n")
        (path / "b.jsonl").write_text(lines[len(lines[: len(lines) // 2].rsplit("\n", 1)[0]) + 1 :])
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "parquet", "dataset", "folder"])
def test_every_form_of_a_file_gives_the_same(tmp_path, form) -> None:
    expected = prepare_chats(ChatsOptions(tokenizer=CHARACTERS), data=ROWS)
    found = prepare_chats(ChatsOptions(path=written(tmp_path, form), tokenizer=CHARACTERS))
    assert found.pipeline.to_json() == expected.pipeline.to_json()
    for one, other in ((found.training, expected.training), (found.validation, expected.validation)):
        assert one.tokens.values.equal(other.tokens.values)
        assert one.tokens.offsets.equal(other.tokens.offsets)
        assert one.learned.equal(other.learned)
    assert len(found.validation) == 1
    assert found.examples == ({"messages": found.examples[0]["messages"]},)


def test_what_is_learned() -> None:
    rows = [{"messages": [USER, ANSWER, USER, {**ANSWER, "content": "five"}]}] * 2 + ROWS
    told_of = {}
    for learn in ("answers", "last", "all"):
        data = prepare_chats(ChatsOptions(tokenizer=CHARACTERS, learn=learn), data=rows)
        tokens, learned = data.training.tokens, data.training.learned
        first = slice(0, int(tokens.offsets[1]))
        told_of[learn] = data.pipeline.tokenizer.decode(tokens.values[first][learned[first]])
        if learn == "answers":
            texts = [m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"]
            assert sum(data.training.sizes) + sum(data.validation.sizes) == sum(map(len, texts))
    assert told_of["answers"] == "5five"
    assert told_of["last"] == "five"
    assert told_of["all"].count("2 + 3") == 2


def test_a_system_message_for_those_without() -> None:
    rows = [{"messages": [{"role": "system", "content": "own"}, *ROWS[0]["messages"]]}, *ROWS[1:]]
    data = prepare_chats(ChatsOptions(tokenizer=CHARACTERS, system="Be kind."), data=rows)
    texts = [data.pipeline.tokenizer.decode(part.tokens.row(n)) for part in (data.training, data.validation)
             for n in range(len(part))]  # fmt: skip
    assert sum("Be kind." in text for text in texts) == 19
    assert sum("own" in text for text in texts) == 1


def test_documents_stand_between_their_marks(tmp_path) -> None:
    (tmp_path / "poems").mkdir()
    for number in range(6):
        (tmp_path / "poems" / f"{number}.txt").write_text(f"poem {number} 床前明月光")
    data = prepare_documents(DocumentsOptions(path=str(tmp_path / "poems"), tokenizer=BytePairOptions(size=300)))
    assert (len(data.training), len(data.validation)) == (5, 1)
    tokenizer = data.pipeline.tokenizer
    bos, eos, pad = (tokenizer.special(mark) for mark in ("<|bos|>", "<|eos|>", "<|pad|>"))
    assert len({bos, eos, pad}) == 3
    for number in range(5):
        row = data.training.tokens.row(number).tolist()
        assert (row[0], row[-1], row.count(bos), row.count(eos)) == (bos, eos, 1, 1)
    assert "床前明月光" in tokenizer.decode(data.training.tokens.row(0))
    assert data.training.learned is None
    assert data.validation.sizes == (len("poem 0 床前明月光".encode()),)


def test_preferences_learn_the_last_answers_alone() -> None:
    earlier = [USER, {**ANSWER, "content": "earlier"}, {**USER, "content": "and now?"}]
    rows = [{"prompt": earlier, "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    data = prepare_preferences(PreferencesOptions(tokenizer=CHARACTERS), data=rows)
    decode = data.pipeline.tokenizer.decode
    for name, word in (("chosen", "good"), ("rejected", "bad")):
        answers = data.training[name]
        assert len(answers.tokens) == 19
        for row in range(19):
            at = slice(int(answers.tokens.offsets[row]), int(answers.tokens.offsets[row + 1]))
            assert decode(answers.tokens.values[at][answers.learned[at]]).startswith(word)
            assert "earlier" in decode(answers.tokens.values[at])
    cut = prepare_preferences(PreferencesOptions(tokenizer=CHARACTERS, length=30), data=rows)
    assert int(cut.training["chosen"].tokens.lengths.max()) == 30
    assert cut.training["chosen"].learned.sum() == data.training["chosen"].learned.sum(), "the prompt is cut first"
    assert any("longer than 30 tokens" in note for note in cut.notes)
    judged = [{"prompt": "a", "completion": f"b {n}", "label": n % 2 == 0} for n in range(20)]
    found = prepare_preferences(PreferencesOptions(tokenizer=CHARACTERS), data=judged)
    assert set(found.training) == {"answer"}
    assert sorted(map(len, found.wanted)) == [1, 19]


def test_equal_rows_are_on_one_side() -> None:
    rows = [row for row in ROWS for _copy in range(3)]
    for seed in range(5):
        sides = sides_of(rows, 0.2, seed)
        assert sum(sides) == 12
        assert all(len(set(sides[n : n + 3])) == 1 for n in range(0, 60, 3))
    assert sides_of(rows, 0.2, 1) != sides_of(rows, 0.2, 2)
    assert sides_of(rows, 0.2, 1) == sides_of(rows, 0.2, 1)


def test_errors_name_file_and_line(tmp_path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + '{"messages": 3}\n')
    with pytest.raises(DataError) as caught:
        prepare_chats(ChatsOptions(path=str(path), tokenizer=CHARACTERS))
    assert caught.value.where == f"{path}, line 3, column 'messages'"
    path.write_text(json.dumps(ROWS[0]) + "\n{broken\n")
    with pytest.raises(DataError, match="not valid JSON") as caught:
        prepare_chats(ChatsOptions(path=str(path), tokenizer=CHARACTERS))
    assert "line 2" in caught.value.where
    with pytest.raises(DataError, match="can't be read"):
        prepare_chats(ChatsOptions(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(RecipeError, match="no data are given"):
        prepare_chats(ChatsOptions())
    two = [{"messages": [USER, USER, ANSWER]}, {"messages": [USER, ANSWER]}]
    with pytest.raises(DataError, match="take turns") as caught:
        prepare_chats(ChatsOptions(tokenizer=CHARACTERS, template="gemma"), data=two)
    assert caught.value.where == "row 0, column 'messages[1]'"
    with pytest.raises(DataError, match="too little"):
        prepare_chats(ChatsOptions(tokenizer=CHARACTERS), data=ROWS[:1])


def test_marks_that_would_stand_twice_are_diagnosed() -> None:
    with pytest.raises(DataError, match=r"begins with <\|bos\|>, which would stand there twice") as caught:
        prepare_documents(DocumentsOptions(tokenizer=CHARACTERS), data=[{"text": "a"}, {"text": "<|bos|>b"}])
    assert "Take it out" in caught.value.remedy
    rendered = {"prompt": "<|im_start|>user\nhi<|im_end|>", "completion": "ho"}
    with pytest.raises(DataError, match="a mark of the template chatml") as caught:
        prepare_chats(ChatsOptions(tokenizer=CHARACTERS), data=[rendered, *ROWS])
    assert "once is enough" in caught.value.remedy


def test_a_pad_token_that_ends_is_told() -> None:
    tokenizer = SpecialTokenizer(CharacterTokenizer("ab"), ("<|eos|>",))
    (note,) = told(TextPipeline(tokenizer, Marks(None, "<|eos|>", "<|eos|>")))
    assert "never learn to stop" in note
    assert told(TextPipeline(tokenizer, Marks(None, "<|eos|>"))) == ()


def test_a_bundles_template_stays() -> None:
    first = prepare_chats(ChatsOptions(tokenizer=CHARACTERS, template="plain"), data=ROWS)
    again = prepare_chats(ChatsOptions(), first.pipeline, data=ROWS)
    assert again.training.tokens.values.equal(first.training.tokens.values)
    with pytest.raises(RecipeError, match="writes chats by plain") as caught:
        prepare_chats(ChatsOptions(template="chatml"), first.pipeline, data=ROWS)
    assert "Leave data.template out" in caught.value.remedy


def test_special_tokens_there_and_back() -> None:
    tokenizer = SpecialTokenizer(CharacterTokenizer("ab"), ("<|x|>",))
    assert tokenizer.size == 4
    assert tokenizer.special("<|x|>") == 3
    assert tokenizer.decode(torch.tensor([1, 3, 2])) == "ab"
    assert 3 not in tokenizer.encode("<|x|>ab").tolist()
    assert tokenizer.offsets("ab").tolist() == [[0, 1], [1, 2]]
    with pytest.raises(DataError, match="ids must lie"):
        tokenizer.decode([4])
