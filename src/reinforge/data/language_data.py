"""Data for language models: documents and chats as token ids, with what of them is to be learned; pairs of answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.data.chats import (
    Chat,
    Message,
    document_of,
    judged_of,
    pair_of,
    taught,
)
from reinforge.data.cleaning.texts import clean_texts
from reinforge.data.language_options import (
    ChatsOptions,
    DocumentsOptions,
    LanguageDataOptions,
    PreferencesOptions,
)
from reinforge.data.options import PretrainedTokenizerOptions
from reinforge.data.reading.objects import Objects, Row, read_objects, row_key
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES, Part, Template, by_name
from reinforge.data.text import TextPipeline
from reinforge.data.values import Origin
from reinforge.errors import DataError, RecipeError
from reinforge.messages import _
from reinforge.registry import REGISTRY

# Golden rows of a bundle, and characters of a document in one.
EXAMPLES, EXAMPLE = 4, 48
Item = TypeVar("Item")


@dataclass(frozen=True)
class Documents:
    """`tokens`: Ragged int32, one row a document. `learned`: which of its values count as targets (bool); all where
    None. `sizes`: bytes in UTF-8 of each document's text that is learned."""

    tokens: Ragged
    learned: Tensor | None
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class LanguageData:
    """Documents or chats, read, split and encoded. `digest` names the content of all rows; `examples` are raw rows for
    golden replay; `notes` is what a reader should know."""

    training: Documents
    validation: Documents
    pipeline: TextPipeline
    digest: str
    origin: str
    examples: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """Answers behind their prompts: `tokens` Ragged int64, `learned` which of the values are the answer's own."""

    tokens: Ragged
    learned: Tensor


@dataclass(frozen=True)
class PreferenceData:
    """Pairs (`training` and `validation` hold "chosen" and "rejected") or judged answers ("answer", and `wanted`)."""

    training: Mapping[str, Answers]
    validation: Mapping[str, Answers]
    wanted: tuple[Tensor, Tensor] | None
    pipeline: TextPipeline
    digest: str
    origin: str
    examples: tuple[Row, ...]
    notes: tuple[str, ...]


def prepare_documents(
    options: DocumentsOptions, pipeline: TextPipeline | None = None, *, seed: int = 0, data: object = None
) -> LanguageData:
    """Read, split, fit the tokenizer on the training documents (or take the pipeline as it is), and encode.

    Raises DataError that names file, line, field and remedy.
    """
    rows = Rows.read(options, seed, data)
    texts = rows.each(document_of)
    if options.clean is not None:
        cleaned = clean_texts(texts, options.clean, rows.places)
        texts, rows = list(cleaned.texts), rows.only(cleaned.kept, cleaned.notes)
    if pipeline is None:
        template = by_name(options.template or "chatml")
        pipeline = _fitted(options, template, [text for text, side in zip(texts, rows.sides) if not side])
    _refuse_marks(texts, pipeline, rows)
    sides = [
        encoded_documents([text for text, each in zip(texts, rows.sides) if each == side], pipeline)
        for side in (False, True)
    ]
    held = [text for text, side in zip(texts, rows.sides) if side]
    examples = tuple({"text": text[:EXAMPLE]} for text in held if len(text) > 1)[:EXAMPLES]
    return LanguageData(sides[0], sides[1], pipeline, rows.digest, rows.name, examples, (*rows.notes, *told(pipeline)))


def prepare_chats(
    options: ChatsOptions, pipeline: TextPipeline | None = None, *, seed: int = 0, data: object = None
) -> LanguageData:
    """Read, split, fit the tokenizer on the training chats as they are written (or take the pipeline as it is), and
    encode, with what the assistant said as what is learned.

    Raises DataError that names file, line, field and remedy.
    """
    rows = Rows.read(options, seed, data)
    chats = [_with_system(chat, options.system) for chat in rows.each(taught)]
    template = _template(options, pipeline)
    rendered = rows.each_of(chats, template.render)
    if pipeline is None:
        pipeline = _fitted(options, template, _texts(rendered, rows.sides))
    pipeline = _with_template(pipeline, template)
    _refuse_rendered(chats, rows)
    sides = [
        encoded_chats(
            [pair for pair, each in zip(zip(chats, rendered), rows.sides) if each == side], pipeline, options.learn
        )
        for side in (False, True)
    ]
    held = [chat for chat, side in zip(chats, rows.sides) if side]
    return LanguageData(
        sides[0], sides[1], pipeline, rows.digest, rows.name, _asked(held), (*rows.notes, *told(pipeline))
    )


def encoded_documents(texts: Sequence[str], pipeline: TextPipeline) -> Documents:
    """Texts between their marks."""
    sizes = tuple(len(text.encode("utf-8", "replace")) for text in texts)
    return Documents(Ragged.from_rows([pipeline.document(text) for text in texts]), None, sizes)


def encoded_chats(chats: Sequence[tuple[Chat, Sequence[Part]]], pipeline: TextPipeline, learn: str) -> Documents:
    """Chats with the parts that they were rendered to; `learn` as `ChatsOptions` has it."""
    ids, learned, sizes = [], [], []
    for chat, parts in chats:
        tokens, own, turns = pipeline.parts(parts)
        ids.append(tokens)
        learned.append(_learned(learn, chat, own, turns))
        own_parts = (part for part in parts if part.learned and not part.special)
        sizes.append(sum(len(part.text.encode("utf-8", "replace")) for part in own_parts))
    return Documents(Ragged.from_rows(ids), torch.cat(learned), tuple(sizes))


def prepare_preferences(
    options: PreferencesOptions, pipeline: TextPipeline | None = None, *, seed: int = 0, data: object = None
) -> PreferenceData:
    """Read, split, fit the tokenizer on the training rows (or take the pipeline as it is), and encode.

    Raises DataError that names file, line, field and remedy.
    """
    rows = Rows.read(options, seed, data)
    template = _template(options, pipeline)
    judged = "label" in rows.first and "chosen" not in rows.first
    named: dict[str, list[list[Part]]]
    prompts: list[Chat]
    if judged:
        answers = rows.each(judged_of)
        prompts = [_with_system(answer.prompt, options.system) for answer in answers]
        named = {"answer": _answers(rows, template, prompts, [answer.answer for answer in answers])}
        wanted = torch.tensor([answer.wanted for answer in answers])
    else:
        pairs = rows.each(pair_of)
        prompts = [_with_system(pair.prompt, options.system) for pair in pairs]
        named = {
            "chosen": _answers(rows, template, prompts, [pair.chosen for pair in pairs]),
            "rejected": _answers(rows, template, prompts, [pair.rejected for pair in pairs]),
        }
    if pipeline is None:
        texts = [text for rendered in named.values() for text in _texts(rendered, rows.sides)]
        pipeline = _fitted(options, template, texts)
    pipeline = _with_template(pipeline, template)
    sides: list[dict[str, Answers]] = [{}, {}]
    sides_b = torch.tensor(rows.sides)
    cut = 0
    for name, rendered in named.items():
        encoded = [pipeline.parts(parts) for parts in rendered]
        kept = []
        for (ids, own, turns), prompt in zip(encoded, prompts):
            # The assistant's earlier turns belong to the prompt.
            learned = own & (turns >= len(prompt.messages))
            short, cut_here = shortened(ids, learned, options.length)
            cut += cut_here
            kept.append(short)
        for side in (0, 1):
            chosen = [pair for pair, each in zip(kept, rows.sides) if each == bool(side)]
            tokens = Ragged.from_rows([ids.long() for ids, _own in chosen])
            sides[side][name] = Answers(tokens, torch.cat([own for _ids, own in chosen]))
    notes = list(rows.notes)
    if cut:
        notes.append(
            _("{n} answers with their prompts are longer than {length} tokens and were cut").format(
                n=cut, length=options.length
            )
        )
    held = [replace(chat) for chat, side in zip(prompts, rows.sides) if side]
    return PreferenceData(
        sides[0], sides[1], (wanted[~sides_b], wanted[sides_b]) if judged else None, pipeline, rows.digest, rows.name,
        _asked(held), (*notes, *told(pipeline)),
    )  # fmt: skip


def told(pipeline: TextPipeline) -> tuple[str, ...]:
    """What is remarkable about a pipeline's marks."""
    marks = pipeline.marks
    if marks.pad is not None and marks.pad == marks.eos:
        text = _(
            "the tokenizer's pad token is its end token {token}: here lengths alone say what is padding, so the end is "
            "learned; trainers that mask padding by its token never learn to stop. Give it a pad token of its own "
            "before training elsewhere"
        )
        return (text.format(token=marks.eos),)
    return ()


@dataclass(frozen=True)
class Rows:
    """All rows in order, with where each stands and its side (True: validation)."""

    rows: list[Row]
    places: list[tuple[Origin, int]]
    sides: list[bool]
    digest: str
    name: str
    notes: tuple[str, ...]

    @classmethod
    def read(cls, options: LanguageDataOptions, seed: int, data: object) -> Rows:
        source = options.path if data is None else data
        if source is None:
            raise RecipeError(
                _("no data are given"), where="data.path", remedy=_("Name a file, or pass data= in Python.")
            )
        parts = read_objects(source)
        held = read_objects(options.held) if options.held is not None else []
        rows = [row for part in (*parts, *held) for row in part.rows]
        places = [(part.origin, index) for part in (*parts, *held) for index in range(len(part.rows))]
        given = sum(len(part.rows) for part in parts)
        by_content = [] if held else sides_of(rows, options.validation, seed)
        sides = by_content or [index >= given for index in range(len(rows))]
        if not any(sides) or all(sides):
            raise DataError(
                _("{n} rows leave too little for a part").format(n=len(rows)), where=_name(parts),
                remedy=_("Give more rows, or another data.validation."),
            )  # fmt: skip
        total = hashlib.sha256("".join(part.digest for part in (*parts, *held)).encode())
        notes = tuple(note for part in (*parts, *held) for note in part.notes)
        return cls(rows, places, sides, "sha256:" + total.hexdigest(), _name(parts), notes)

    @property
    def first(self) -> Row:
        return self.rows[0]

    def only(self, kept: Sequence[int], notes: Sequence[str]) -> Rows:
        """These rows alone, with more to be told. Raises DataError where a side has none left."""
        sides = [self.sides[number] for number in kept]
        if not any(sides) or all(sides):
            raise DataError(
                _("{n} rows leave too little for a part").format(n=len(kept)), where=self.name,
                remedy=_("Clean less: data.clean. {notes}").format(notes="; ".join(notes)),
            )  # fmt: skip
        return replace(
            self, rows=[self.rows[number] for number in kept], places=[self.places[number] for number in kept],
            sides=sides, notes=(*self.notes, *notes),
        )  # fmt: skip

    def each(self, function: Callable[[Row, Origin, int], Item]) -> list[Item]:
        """A function of every row."""
        return [function(row, *place) for row, place in zip(self.rows, self.places)]

    def each_of(self, items: Sequence[Any], function: Callable[[Any], Item]) -> list[Item]:
        """A function of what stands for each row, whose errors are told with the row's place."""
        found = []
        for item, (origin, index) in zip(items, self.places):
            try:
                found.append(function(item))
            except DataError as error:
                raise DataError(error.problem, where=origin.at(index, error.where), remedy=error.remedy) from None
        return found


def sides_of(rows: Sequence[Row], part: float, seed: int) -> list[bool]:
    """Which rows are held back: those whose content, hashed with the seed, comes first, so that equal rows are on one
    side; at least one of several."""
    keys = [hashlib.blake2b(row_key(row), digest_size=8, salt=seed.to_bytes(8, "little")).digest() for row in rows]
    distinct = sorted(set(keys))
    held = set(distinct[: max(1, round(part * len(distinct)))])
    return [key in held for key in keys]


def _name(parts: Sequence[Objects]) -> str:
    names = list(dict.fromkeys(part.origin.name or _("memory") for part in parts))
    return names[0] if len(names) == 1 else _("{n} files").format(n=len(names))


def _fitted(options: LanguageDataOptions, template: Template, texts: Sequence[str]) -> TextPipeline:
    """A pipeline whose tokenizer is fitted to these texts, with all tokens of the template."""
    if isinstance(options.tokenizer, PretrainedTokenizerOptions):
        from reinforge.data.template_import import pipeline_of

        return pipeline_of(options.tokenizer.source, template if options.template else None)
    marks = Marks(*template.documents)
    base = REGISTRY.build("tokenizer", options.tokenizer, texts)
    own = (text for text in (marks.pad, marks.bos, marks.eos, *template.specials) if text)
    pipeline = TextPipeline(SpecialTokenizer(base, tuple(dict.fromkeys(own))), marks, template)
    pipeline.check()
    return pipeline


def _template(options: LanguageDataOptions, pipeline: TextPipeline | None) -> Template:
    """The recipe's template. Raises RecipeError where a bundle to begin with was trained with another."""
    own = pipeline.template if pipeline is not None else None
    if options.template is None:
        if own is None and isinstance(options.tokenizer, PretrainedTokenizerOptions):
            from reinforge.data.template_import import pipeline_of

            own = pipeline_of(options.tokenizer.source).template
        return own or by_name("chatml")
    if own is not None and own.name != options.template:
        raise RecipeError(
            _("the bundle to begin with writes chats by {own}, and the recipe asks for {name}").format(
                own=own.name, name=options.template
            ),
            where="data.template",
            remedy=_("Leave data.template out: the bundle's own is taken."),
        )
    return by_name(options.template)


def _with_template(pipeline: TextPipeline, template: Template) -> TextPipeline:
    """The pipeline as it writes chats: one that had no template, a base model's say, takes this one. Raises DataError
    where its tokenizer lacks a token of it, and names templates that would fit."""
    if pipeline.template is not None:
        return pipeline
    taking = replace(pipeline, template=template)
    taking.check()
    return taking


def _texts(rendered: Sequence[Sequence[Part]], sides: Sequence[bool]) -> list[str]:
    """What a tokenizer is fitted to: all texts of the training rows."""
    return [part.text for parts, side in zip(rendered, sides) if not side for part in parts if not part.special]


def _with_system(chat: Chat, system: str | None) -> Chat:
    if system is None or chat.messages[0].role == "system":
        return chat
    return replace(chat, messages=(Message("system", system), *chat.messages))


def _learned(learn: str, chat: Chat, own: Tensor, turns: Tensor) -> Tensor:
    if learn == "all":
        return torch.ones_like(own)
    if learn == "last":
        last = max(n for n, message in enumerate(chat.messages) if message.role == "assistant")
        return own & (turns == last)
    return own


def _answers(
    rows: Rows, template: Template, prompts: Sequence[Chat], answers: Sequence[tuple[Message, ...]]
) -> list[list[Part]]:
    whole = [replace(prompt, messages=prompt.messages + answer) for prompt, answer in zip(prompts, answers)]
    return rows.each_of(whole, template.render)


def shortened(ids: Tensor, learned: Tensor, length: int | None) -> tuple[tuple[Tensor, Tensor], bool]:
    """At most `length` tokens: the prompt's beginning goes first, but for its first token; then the answer's end."""
    if length is None or len(ids) <= length:
        return (ids, learned), False
    first = int(learned.nonzero()[0]) if learned.any() else len(ids)
    drop = min(len(ids) - length, max(first - 2, 0))
    kept = torch.cat([torch.arange(1), torch.arange(1 + drop, len(ids))])[:length]
    return (ids[kept], learned[kept]), True


def _asked(chats: Sequence[Chat]) -> tuple[Row, ...]:
    """The shortest held-back chats up to their last question, as raw rows."""
    found = []
    for chat in chats:
        asked = next((n for n in reversed(range(len(chat.messages))) if chat.messages[n].role != "assistant"), None)
        if asked is None:
            continue
        before = chat.messages[: asked + 1]
        if not any(message.calls or message.thought for message in before):
            row: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in before]}
            found.append(row | ({"tools": [dict(tool) for tool in chat.tools]} if chat.tools else {}))
    return tuple(sorted(found, key=lambda row: len(str(row)))[:EXAMPLES])


def _refuse_marks(texts: Sequence[str], pipeline: TextPipeline, rows: Rows) -> None:
    """Raise DataError for a document that begins with the mark that is put before it anyway."""
    bos = pipeline.marks.bos
    for text, (origin, index) in zip(texts, rows.places):
        if bos is not None and text.startswith(bos):
            raise DataError(
                _("the text begins with {token}, which would stand there twice").format(token=bos),
                where=origin.at(index, "text"),
                remedy=_("Take it out of the data: it is put before each document."),
            )


def _refuse_rendered(chats: Sequence[Chat], rows: Rows) -> None:
    """Raise DataError for a message that a template has been applied to already."""
    marks = [(mark, template.name) for template in TEMPLATES.values() for mark in _openings(template)]
    for chat, (origin, index) in zip(chats, rows.places):
        for number, message in enumerate(chat.messages):
            for mark, name in marks:
                if message.content.startswith(mark):
                    raise DataError(
                        _("the message begins with {token}, a mark of the template {name}").format(
                            token=mark, name=name
                        ),
                        where=origin.at(index, f"messages[{number}]"),
                        remedy=_("Give what was said alone: the template is applied here, and once is enough."),
                    )


def _openings(template: Template) -> Iterator[str]:
    yield from (part.text for part in template.opening[:1])
    if template.documents[0] != template.documents[1]:
        yield template.documents[0]
