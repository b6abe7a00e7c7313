"""Text: read from a file or a named resource, split by position, and turned into token ids and back; chats too."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.data.chats import Chat, Message
from reinforge.data.options import CharacterOptions, TextOptions
from reinforge.data.special_tokens import LanguageTokenizer, Marks, SpecialTokenizer, special_id
from reinforge.data.templates import BOS, EOS, TEMPLATES, Part, Template
from reinforge.data.tokenizers import BytePairTokenizer, PretrainedTokenizer, WordTokenizer
from reinforge.data.values import placed
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.registry import REGISTRY
from reinforge.schema.fields import Text
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature

FORMAT_VERSION = 2
UNKNOWN = 0
UNMARKED = Marks()
UNKNOWN_TEXT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """Text to ids and back. `size` is the vocabulary; ids lie in [0, size)."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(n,) int32, `limit` of them at most."""
        ...

    def decode(self, ids: Tensor | Sequence[int]) -> str: ...

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(n, 2) int64: where each of `encode`'s tokens starts and ends in the text, in characters, ends exclusive."""
        ...

    def to_json(self) -> dict[str, Any]: ...


class CharacterTokenizer:
    """One id per character of the training text, in code point order from 1; 0 stands for every other character, and is
    decoded to U+FFFD."""

    def __init__(self, characters: str) -> None:
        points = [ord(character) for character in characters]
        if not points or points != sorted(set(points)):
            raise IntegrityError("characters must be in order, each once", where="pipeline tokenizer")
        self.characters = characters
        # Any code point to its id, with a plain look-up.
        self._ids: NDArray[np.int32] = np.zeros(points[-1] + 2, dtype=np.int32)
        self._ids[points] = np.arange(1, len(points) + 1)
        self._texts = [UNKNOWN_TEXT, *characters]

    @property
    def size(self) -> int:
        """Characters, and the unknown one."""
        return len(self._texts)

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(characters,) int32, the first `limit`."""
        points = np.frombuffer(text[:limit].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return torch.from_numpy(self._ids[np.minimum(points, len(self._ids) - 1)])

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of (n,) ids. Raises DataError for an id outside the vocabulary."""
        numbers: list[int] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.size:
            raise DataError(_("ids must lie in [0, {size})").format(size=self.size), where="tokenizer")
        return "".join([self._texts[number] for number in numbers])

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(characters, 2) int64: each character is a token."""
        starts = torch.arange(len(text[:limit]))
        return torch.stack([starts, starts + 1], 1)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal tokenizer."""
        return {"kind": "character", "version": 1, "characters": self.characters}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CharacterTokenizer:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        if set(value) != {"kind", "version", "characters"} or value["version"] != 1:
            raise IntegrityError("it must be version 1 of a character tokenizer", where="pipeline tokenizer")
        if not isinstance(value["characters"], str):
            raise IntegrityError("its characters must be one text", where="pipeline tokenizer")
        return cls(value["characters"])


def fit_characters(options: CharacterOptions, texts: Iterable[str]) -> CharacterTokenizer:
    """A tokenizer of the characters of these (training) texts."""
    return CharacterTokenizer("".join(sorted(set().union(*texts))))


# The closed set that a bundle may name.
STORED: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "character": CharacterTokenizer.from_json,
    "word": WordTokenizer.from_json,
    "byte-pair": BytePairTokenizer.from_json,
    "pretrained": PretrainedTokenizer.from_json,
    "pretrained-language": LanguageTokenizer.from_json,
    "special": lambda value: SpecialTokenizer.from_json(value, load_tokenizer(value.get("base"))),
}


def load_tokenizer(stored: Any) -> Tokenizer:
    """The tokenizer that was stored. Raises IntegrityError."""
    kind = stored.get("kind") if isinstance(stored, dict) else None
    if not isinstance(kind, str) or kind not in STORED:
        raise IntegrityError(f"there is no tokenizer {kind!r}", where="pipeline")
    return STORED[kind](cast(Mapping[str, Any], stored))


@dataclass(frozen=True)
class TextPipeline:
    """The fitted road from text to tokens and back: training, evaluation and serving share it.

    `marks` stand around documents; `template` writes chats, where the data are such.
    """

    FORMAT = "reinforge.text"
    FIELD = "text"
    BLOCK = "tokens"

    tokenizer: Tokenizer
    marks: Marks = UNMARKED
    template: Template | None = None

    @property
    def schema(self) -> Schema:
        """One field of text."""
        return Schema(fields=(Text(name=self.FIELD),))

    @property
    def signature(self) -> Signature:
        """Tokens in, next tokens out."""
        size = self.tokenizer.size
        return Signature(
            inputs={self.BLOCK: Input(form="tokens", sizes=(size,))},
            outputs={self.BLOCK: Output(form="tokens", size=size)},
        )

    def transform(self, columns: Mapping[str, Sequence[object]], *, targets: bool = True) -> dict[str, Batch]:
        """The texts of the one column "text": {"inputs": {"tokens": Ragged}}, and with `targets` the tokens that follow
        each position but the last, which the inputs then lack. Raises DataError naming a row that is no text, or too
        short."""
        if self.FIELD not in columns:
            raise DataError(
                _("there is no column {name!r}").format(name=self.FIELD),
                remedy=_('Give {{"{name}": "..."}}.').format(name=self.FIELD),
            )
        rows = []
        for number, text in enumerate(columns[self.FIELD], 1):
            if not isinstance(text, str) or len(text) < 1 + targets:
                kind = type(text).__name__
                short = isinstance(text, str)
                problem = _("the text is too short") if short else _("{kind} is no text").format(kind=kind)
                raise DataError(problem, where=f"row {number}, column {self.FIELD!r}")
            rows.append(self.opened(text).long())
        if not targets:
            return {"inputs": {self.BLOCK: Ragged.from_rows(rows)}, "targets": {}, "valid": {}}
        return {
            "inputs": {self.BLOCK: Ragged.from_rows([row[:-1] for row in rows])},
            "targets": {self.BLOCK: Ragged.from_rows([row[1:] for row in rows])},
            "valid": {},
        }

    def check(self) -> None:
        """Raise DataError where the tokenizer lacks a token that a mark or the template names."""
        named = [mark for mark in (self.marks.bos, self.marks.eos, self.marks.pad) if mark is not None]
        for text in (*named, *(self.template.specials if self.template else ())):
            self._mark(text)

    def opened(self, text: str) -> Tensor:
        """A text to go on from, behind the mark of a document's beginning: (n,) int32."""
        ids = self.tokenizer.encode(text)
        return ids if self.marks.bos is None else torch.cat([ids.new_tensor([self._mark(self.marks.bos)]), ids])

    def document(self, text: str) -> Tensor:
        """A whole document between its marks: (n,) int32."""
        ids = self.opened(text)
        return ids if self.marks.eos is None else torch.cat([ids, ids.new_tensor([self._mark(self.marks.eos)])])

    def chat(self, chat: Chat, *, answer: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """A chat by the template: ids (n,) int32, which are the assistant's own (n,) bool, and of which message each is
        (n,) int32; `answer` opens the assistant's next turn. Raises DataError for what the template can't say."""
        if self.template is None:
            raise DataError(
                _("this model has no chat template"), where="messages",
                remedy=_('Give {{"{name}": "..."}}.').format(name=self.FIELD),
            )  # fmt: skip
        return self.parts(self.template.render(chat, answer=answer))

    def added(self, messages: Sequence[Message]) -> list[int]:
        """The tokens behind the assistant's last answer: what follows it in the template, the turns after it, and the
        opening of the next answer. What stands before them is left as it is, and never encoded again."""
        ids, own, turns = self.chat(Chat(tuple(messages)), answer=True)
        last = max(number for number, message in enumerate(messages) if message.role == "assistant")
        end = int((own & (turns == last)).nonzero().max()) + 1
        return [int(token) for token in ids[end:].tolist()]

    def parts(self, parts: Sequence[Part]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of rendered parts. Each part is encoded by itself, as generation will see it."""
        ids, learned, turns = [], [], []
        for part in parts:
            found = self._special(part.text) if part.special else self.tokenizer.encode(part.text)
            ids.append(found)
            learned.append(torch.full((len(found),), part.learned))
            turns.append(torch.full((len(found),), part.turn, dtype=torch.int32))
        return torch.cat(ids), torch.cat(learned), torch.cat(turns)

    @property
    def special_ids(self) -> dict[str, int]:
        """The ids of the marks that there are, by name: bos, eos, pad."""
        marks = {"bos": self.marks.bos, "eos": self.marks.eos, "pad": self.marks.pad}
        return {name: self._mark(text) for name, text in marks.items() if text is not None}

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end what the model writes: of an answer, and of a document."""
        texts = (self.template.stop if self.template else ()) + ((EOS,) if self.marks.eos else ())
        return tuple(dict.fromkeys(int(place) for text in texts for place in self._special(text)))

    def _special(self, text: str) -> Tensor:
        """The ids that stand for a special part: one, or none where the pipeline has no such mark."""
        named = {BOS: self.marks.bos, EOS: self.marks.eos}.get(text, text)
        return torch.tensor([] if named is None else [self._mark(named)], dtype=torch.int32)

    def _mark(self, text: str) -> int:
        return special_id(self.tokenizer, text, self.template.name if self.template else "plain")

    def transform_row(self, row: Mapping[str, object]) -> dict[str, Batch]:
        """The inputs of one raw row: the same as in any batch."""
        return self.transform({name: [value] for name, value in row.items()}, targets=False)

    def inverse(self, target: str, values: Tensor) -> list[str]:
        """Token ids (rows, time) or (time,) to texts."""
        return [self.tokenizer.decode(row) for row in (values if values.ndim == 2 else values[None])]

    def to_json(self) -> dict[str, Any]:
        """Everything: `arrays` is empty."""
        return {
            "format": self.FORMAT,
            "version": FORMAT_VERSION,
            "tokenizer": self.tokenizer.to_json(),
            "marks": self.marks.to_json(),
            "template": self.template.name if self.template else None,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing is stored as an array."""
        return {}

    @classmethod
    def load(cls, schema: Schema, description: Any, arrays: Mapping[str, NDArray[Any]]) -> TextPipeline:
        """From what `schema`, `to_json` and `arrays` gave. Raises IntegrityError."""
        keys = {"format", "version", "tokenizer", "marks", "template"}
        if not isinstance(description, dict) or set(description) != keys or description["format"] != cls.FORMAT:
            raise IntegrityError(f"it must have the keys {sorted(keys)}", where="pipeline")
        if description["version"] != FORMAT_VERSION:
            raise IntegrityError(f"only text pipeline version {FORMAT_VERSION} is supported", where="pipeline")
        name, marks = description["template"], Marks.from_json(description["marks"])
        if name is not None and (not isinstance(name, str) or name not in TEMPLATES):
            raise IntegrityError(f"there is no template {str(name)[:40]!r}", where="pipeline")
        pipeline = cls(load_tokenizer(description["tokenizer"]), marks, TEMPLATES[name] if name else None)
        try:
            pipeline.check()
        except DataError as error:
            raise IntegrityError(error.problem, where="pipeline") from None
        if schema != pipeline.schema or arrays:
            raise IntegrityError("its schema must be one text field, and it stores no arrays", where="pipeline")
        return pipeline


@dataclass(frozen=True)
class TextData:
    """A text, read, split and tokenized: `training` and `validation` (tokens,) int32; `digest` is the SHA-256 of the
    whole text in UTF-8; `validation_characters` and `validation_bytes` (in UTF-8) are what the validation tokens
    stand for."""

    training: Tensor
    validation: Tensor
    validation_characters: int
    validation_bytes: int
    pipeline: TextPipeline
    digest: str
    origin: str


def prepare_text(options: TextOptions, pipeline: TextPipeline | None = None) -> TextData:
    """Read, split by position, fit the tokenizer on the training part (or take the pipeline as it is) and encode.

    Raises DataError where the text can't be read or a part of it is too short.
    """
    text, origin = read_text(options)
    cut = len(text) - int(len(text) * options.validation)
    if min(cut, len(text) - cut) < 2:
        raise DataError(
            _("{n} characters leave too little for a part").format(n=len(text)),
            where=origin,
            remedy=_("Give more text, or another data.validation."),
        )
    training, validation = text[:cut], text[cut:]
    if pipeline is None:
        pipeline = TextPipeline(REGISTRY.build("tokenizer", options.tokenizer, [training]))
    digest = "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    encode = pipeline.tokenizer.encode
    size = len(validation.encode("utf-8", "surrogatepass"))
    return TextData(encode(training), encode(validation), len(validation), size, pipeline, digest, origin)


def read_text(options: TextOptions) -> tuple[str, str]:
    """The whole text, and where it comes from. A file is UTF-8, its line ends as they are."""
    if options.path is None:
        return RESOURCES[options.resource](), options.resource
    path = Path(options.path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            _("it can't be read: {reason}").format(reason=error.strerror),
            where=str(path),
            remedy=_("Check data.path."),
        ) from error
    try:
        return raw.decode("utf-8-sig"), str(path)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            _("byte {raw:#04x} is not UTF-8").format(raw=raw[error.start]),
            where=f"{path}, {placed('line', line)}",
            remedy=_("Save the file as UTF-8."),
        ) from error


# Modules whose documentation has been long and steady over Python's releases.
DOCUMENTED = (
    "difflib", "doctest", "inspect", "ipaddress", "logging", "statistics", "threading", "typing", "unittest.mock",
)  # fmt: skip


def python_documentation() -> str:
    """Python's own English documentation: docstrings of some of its modules in source order, then the language
    reference that `help()` shows, by topic. About 680 kB; differs between Python's releases, so pin by digest."""
    parts = []
    for name in DOCUMENTED:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            raise DataError(
                _("this Python has no source of {name}").format(name=name), where="data.resource python-documentation"
            )
        with tokenize.open(spec.origin) as file:
            nodes = ast.walk(ast.parse(file.read()))
        documented = [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        documented.sort(key=lambda node: getattr(node, "lineno", 0))
        parts += [text for node in documented if (text := ast.get_docstring(node))]
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    parts += [text.strip() for _, text in sorted(topics.items())]
    return "\n\n".join(parts) + "\n"


RESOURCES: dict[str, Callable[[], str]] = {"python-documentation": python_documentation}
