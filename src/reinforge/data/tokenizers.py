"""Tokenizers of words and of pieces of words, fitted to training texts, where token 0 stands for the unknown; and those
that come with a pretrained network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reinforge.data.options import BytePairOptions, PretrainedTokenizerOptions, WordOptions
from reinforge.data.words import UNKNOWN_TEXT, WORD, encoding, split, storable
from reinforge.errors import DataError, IntegrityError
from reinforge.messages import _
from reinforge.storage.model_folder import TOKENIZER, model_folder, read_json

_WHERE = "pipeline tokenizer"


class WordTokenizer:
    """One id per word, sign or Chinese character, the most frequent first from 1; 0 stands for every other."""

    def __init__(self, words: Sequence[str], lower: bool) -> None:
        self.words, self.lower = tuple(words), lower
        self._ids = {word: place for place, word in enumerate(self.words, 1)}

    @property
    def size(self) -> int:
        """Words, and the unknown one."""
        return len(self.words) + 1

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(words,) int32, the first `limit`."""
        return torch.tensor([self._ids.get(word, 0) for word in split(text, self.lower)[:limit]], dtype=torch.int32)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The words of (n,) ids, with spaces between them. Raises DataError for an id outside the vocabulary."""
        texts = (UNKNOWN_TEXT, *self.words)
        return " ".join(texts[place] for place in _checked(ids, self.size))

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(words, 2) int64: where each starts and ends in the text."""
        return torch.tensor([match.span() for match in WORD.finditer(text)][:limit], dtype=torch.int64).reshape(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal tokenizer."""
        return {"kind": "word", "version": 1, "lower": self.lower, "words": list(self.words)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WordTokenizer:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        if set(value) != {"kind", "version", "lower", "words"} or value["version"] != 1:
            raise IntegrityError("it must be version 1 of a word tokenizer", where=_WHERE)
        words, lower = value["words"], value["lower"]
        if not _texts(words) or len(set(words)) != len(words) or not isinstance(lower, bool):
            raise IntegrityError("its words must be texts, each once", where=_WHERE)
        return cls(words, lower)


class BytePairTokenizer:
    """Frequent pieces of texts: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016).

    Down to single bytes no text is unknown, every one comes back as it was, and token 0 stands for no text (Radford et
    al., "Language Models are Unsupervised Multitask Learners", 2019). Down to characters, token 0 stands for
    unknown ones. With single digits no piece holds a digit and more.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[tuple[str, str]],
        alphabet: str = "bytes",
        digits: str = "together",
    ) -> None:
        self.vocabulary, self.merges = tuple(vocabulary), tuple(merges)
        self.alphabet, self.digits = alphabet, digits

    @property
    def size(self) -> int:
        """Pieces, and the empty one."""
        return len(self.vocabulary)

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(pieces,) int32, the first `limit`."""
        return torch.tensor(self._library.encode(storable(text)).ids[:limit], dtype=torch.int32)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of (n,) ids. Raises DataError for an id outside the vocabulary."""
        known = _checked(ids, self.size)
        if self.alphabet == "bytes":
            known = [place for place in known if place]
        text: str = self._library.decode(known)
        return text

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(pieces, 2) int64: where each starts and ends in the text, without spaces before it."""
        places = self._library.encode(storable(text)).offsets[:limit]
        return torch.tensor(places, dtype=torch.int64).reshape(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal tokenizer."""
        pieces, merges = list(self.vocabulary), [list(pair) for pair in self.merges]
        named = {"kind": "byte-pair", "version": 1, "alphabet": self.alphabet}
        # What is as ever stands nowhere: older readers know such a tokenizer.
        apart = {} if self.digits == "together" else {"digits": self.digits}
        return {**named, **apart, "vocabulary": pieces, "merges": merges}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BytePairTokenizer:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        keys = {"kind", "version", "alphabet", "vocabulary", "merges"}
        if set(value) - {"digits"} != keys or value["version"] != 1:
            raise IntegrityError("it must be version 1 of a byte-pair tokenizer", where=_WHERE)
        digits = value.get("digits", "together")
        if digits not in ("together", "single"):
            raise IntegrityError("its digits must be together or single", where=_WHERE)
        if value["alphabet"] not in ("bytes", "characters"):
            raise IntegrityError("its pieces must begin from bytes or characters", where=_WHERE)
        pieces, merges = value["vocabulary"], value["merges"]
        if not _texts(pieces) or not pieces or len(set(pieces)) != len(pieces):
            raise IntegrityError("its pieces must be texts, each once", where=_WHERE)
        known = set(pieces)
        if not isinstance(merges, list) or not all(
            _texts(pair) and len(pair) == 2 and {*pair, "".join(pair)} <= known for pair in merges
        ):
            raise IntegrityError("its merges must be pairs of pieces", where=_WHERE)
        return cls(pieces, [(first, second) for first, second in merges], value["alphabet"], digits)

    def to_tokenizer_json(self) -> str:
        """The tokenizer.json of the same tokenizer."""
        text: str = self._library.to_str()
        return text

    @cached_property
    def _library(self) -> Any:
        from tokenizers import Tokenizer, decoders, models, processors

        places, merges = {piece: place for place, piece in enumerate(self.vocabulary)}, list(self.merges)
        if self.alphabet == "characters":
            built = Tokenizer(models.BPE(vocab=places, merges=merges, unk_token=self.vocabulary[0], fuse_unk=True))
            built.pre_tokenizer = _cuts(self.alphabet, self.digits)
            built.decoder = decoders.Metaspace(prepend_scheme="first")
            return built
        built = Tokenizer(models.BPE(vocab=places, merges=merges))
        built.pre_tokenizer = _cuts(self.alphabet, self.digits)
        built.post_processor = processors.ByteLevel(trim_offsets=True)
        built.decoder = decoders.ByteLevel()
        return built


class PretrainedTokenizer:
    """The tokenizer of a pretrained network, as its tokenizer.json describes it, with the marks it puts around a text.

    Marks (such as BERT's [CLS] and [SEP]) stay where a text is cut off, and begin and end at 0 in `offsets`.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        try:
            self._library = Tokenizer.from_str(json.dumps(description))
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
            raise IntegrityError(f"it is no tokenizer: {str(error)[:200]}", where=_WHERE) from None
        # How a text is cut off and filled up is not the tokenizer's matter here.
        self._library.no_padding()
        self._library.no_truncation()
        self.size: int = max(self._library.get_vocab().values(), default=-1) + 1
        if not self.size:
            raise IntegrityError("it has no vocabulary", where=_WHERE)

    def encode(self, text: str, limit: int | None = None) -> Tensor:
        """(pieces and marks,) int32, `limit` of them at most."""
        return torch.tensor(self._encoded(text, limit).ids, dtype=torch.int32)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of (n,) ids, without marks. Raises DataError for an id outside the vocabulary."""
        text: str = self._library.decode(_checked(ids, self.size))
        return text

    def offsets(self, text: str, limit: int | None = None) -> Tensor:
        """(pieces and marks, 2) int64: where each starts and ends in the text."""
        return torch.tensor(self._encoded(text, limit).offsets, dtype=torch.int64).reshape(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` gives an equal tokenizer."""
        return {"kind": "pretrained", "version": 1, "tokenizer": json.loads(self._library.to_str())}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PretrainedTokenizer:
        """Read and check what `to_json` wrote. Raises IntegrityError."""
        if set(value) != {"kind", "version", "tokenizer"} or value["version"] != 1:
            raise IntegrityError("it must be version 1 of a pretrained tokenizer", where=_WHERE)
        if not isinstance(value["tokenizer"], dict):
            raise IntegrityError("its description must be an object", where=_WHERE)
        return cls(value["tokenizer"])

    def _encoded(self, text: str, limit: int | None) -> Any:
        return encoding(self._library, text, limit)


def load_pretrained(options: PretrainedTokenizerOptions, texts: Iterable[str]) -> PretrainedTokenizer:
    """The tokenizer that a pretrained network was trained with; nothing is fitted.

    Raises ComponentError where it can't be had.
    """
    folder = model_folder(options.source, (TOKENIZER,))
    return PretrainedTokenizer(read_json(folder, TOKENIZER, options.source))


def fit_words(options: WordOptions, texts: Iterable[str]) -> WordTokenizer:
    """A tokenizer of the most frequent words of these (training) texts; of equal ones the first in the alphabet."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text, options.lower))
    often = sorted((-count, word) for word, count in counts.items() if count >= options.least)
    return WordTokenizer([word for _count, word in often[: options.size - 1]], options.lower)


def fit_byte_pairs(options: BytePairOptions, texts: Iterable[str]) -> BytePairTokenizer:
    """A tokenizer whose pieces are merged as often as these (training) texts have them side by side."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    chosen: dict[str, Any]
    if options.alphabet == "bytes":
        empty = "<empty>"
        chosen = {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    else:
        empty = UNKNOWN_TEXT
        chosen = {"limit_alphabet": options.size - 1}
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _cuts(options.alphabet, options.digits)
    trainer = trainers.BpeTrainer(
        vocab_size=options.size, min_frequency=options.least, special_tokens=[empty], show_progress=False, **chosen
    )
    trained.train_from_iterator((storable(text) for text in texts), trainer)
    places = trained.get_vocab()
    merges = [(first, second) for first, second in json.loads(trained.to_str())["model"]["merges"]]
    return BytePairTokenizer(sorted(places, key=places.__getitem__), merges, options.alphabet, options.digits)


def _cuts(alphabet: str, digits: str) -> Any:
    """Where no piece goes on: between words and signs; from characters at spaces alone, which begin the piece that
    follows them; and around single digits."""
    from tokenizers import pre_tokenizers

    words = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if alphabet == "bytes"
        else pre_tokenizers.Metaspace(prepend_scheme="first")
    )
    if digits == "together":
        return words
    single = pre_tokenizers.Digits(individual_digits=True)
    # The sign of a space that is put before a text must not stay with a digit, which is known after it was put there.
    return pre_tokenizers.Sequence([single, words] if alphabet == "bytes" else [words, single])


def _checked(ids: Tensor | Sequence[int], size: int) -> list[int]:
    places: list[int] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if places and not 0 <= min(places) <= max(places) < size:
        raise DataError(_("ids must lie in [0, {size})").format(size=size), where="tokenizer")
    return places


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
