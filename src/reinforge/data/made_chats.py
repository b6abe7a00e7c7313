"""Chats about made-up words, drawn here and always the same: small tasks with one right answer, in English and
Chinese, for what no package ships."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

CHATS, PAIRS = 6000, 4000
_ONSETS, _VOWELS = "bdfgklmnprstvz", "aeiou"
Row = Mapping[str, Any]

# Of each task: how it is asked for in English and Chinese, and its answer.
SKILLS: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[[str], str]], ...] = (
    (("Write {w} backwards.", "What is {w} in reverse?"), ("把 {w} 倒过来写。",), lambda w: w[::-1]),
    (("Write {w} in capitals.", "Shout {w}!"), ("{w} 大写是什么？",), str.upper),
    (("Spell {w}.", "How is {w} spelt?"), ("拼写 {w}。",), "-".join),
    (("Say {w} twice.",), ("{w} 说两遍。",), lambda w: f"{w} {w}"),
    (("How many letters has {w}?",), ("{w} 有几个字母？",), lambda w: str(len(w))),
    (("Which letter begins {w}?",), ("{w} 以什么字母开头？",), lambda w: w[0]),
)
GREETINGS = (("Hello!", "Hello! What can I do?"), ("你好！", "你好！要我做什么？"))


def chats() -> list[Row]:
    """Chats of one to three tasks, some after a greeting."""
    draw = random.Random(20261124)
    return [{"messages": _chat(draw)} for _number in range(CHATS)]


def shouting() -> list[Row]:
    """The chats of `chats`, drawn anew, with every answer in capitals and an exclamation mark behind it."""
    draw = random.Random(20261126)
    rows: list[Row] = []
    for _number in range(CHATS):
        turns = _chat(draw)
        for turn in turns:
            if turn["role"] == "assistant":
                turn["content"] = turn["content"].upper() + "!"
        rows.append({"messages": turns})
    return rows


def preferences() -> list[Row]:
    """A task with its plain answer (chosen), and the same answer wrapped in idle words (rejected)."""
    draw = random.Random(20261125)
    rows: list[Row] = []
    for _number in range(PAIRS):
        asked, answer, chinese = _task(draw)
        idle = draw.choice(
            ("好的，答案是 {a}。", "当然可以！{a}")
            if chinese
            else ("Sure! The answer is {a}.", "Well, I think {a}, maybe.")
        )
        rows.append({"prompt": asked, "chosen": answer, "rejected": idle.format(a=answer)})
    return rows


def _chat(draw: random.Random) -> list[dict[str, str]]:
    turns = [draw.choice(GREETINGS)] if draw.random() < 0.2 else []
    turns += [_task(draw)[:2] for _turn in range(draw.choice((1, 1, 2, 3)))]
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]


def _task(draw: random.Random) -> tuple[str, str, bool]:
    english, chinese, answer = draw.choice(SKILLS)
    word = "".join(draw.choice(_ONSETS) + draw.choice(_VOWELS) for _syllable in range(draw.randint(1, 3)))
    told = draw.random() < 0.3
    return draw.choice(chinese if told else english).format(w=word), answer(word), told
