"""`generate`: how a language model goes on from prompts, and a conversation with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.core import seeds
from reinforge.data.chats import Chat, Message, asked
from reinforge.data.text import TextPipeline
from reinforge.data.values import Origin
from reinforge.errors import BundleError, DataError
from reinforge.inference.engine import PROMPTS, GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.speculative import PROPOSALS, SpeculativeEngine
from reinforge.inference.text import TextWriter
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.workflow.opened import opened
from reinforge.workflow.progress import Progress, Silent

# Prompts that are written side by side.
SLOTS = 32


@dataclass(frozen=True)
class Draws:
    """How texts are drawn; `inference.sampling` says what each number does. Completions end at a text of `stop` too,
    which is left out."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def sampling(self, stops: tuple[int, ...]) -> Sampling:
        """For the engine."""
        return Sampling(
            self.max_tokens, self.temperature, self.top_k, self.top_p, stops, self.min_p, self.repetition, self.presence
        )


@dataclass(frozen=True)
class Written:
    """A completion of a prompt. `reason`: "stop" where the model or a stop string ended it, "length" where a limit
    did. `log_prob`: the sum over its tokens. `proposed`, `accepted`: tokens that a draft proposed, and those of them
    that stayed; 0 without one."""

    prompt: str
    text: str
    tokens: int
    log_prob: float
    reason: str
    proposed: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Draft:
    """A small bundle with the model's own tokenizer, that proposes so many tokens at a time: the texts are distributed
    as without it."""

    bundle: Bundle | str | Path
    proposals: int = PROPOSALS


def generate(
    bundle: Bundle | str | Path,
    prompts: Sequence[str | Mapping[str, Any]] | str | Path | None = None,
    draws: Draws | None = None,
    *,
    samples: int = 1,
    draft: Draft | None = None,
    use: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> list[Written]:
    """What the model writes after each prompt, `samples` times, in order.

    `prompts`: texts to go on from; rows {"text"}, {"prompt"} or {"messages"}, which the bundle's template writes; or a
    file of such rows. Raises DataError that names the row, BundleError for a bundle that writes no text or a draft that
    does not fit.
    """
    loaded, shown, drawn = opened(bundle, use), progress or Silent(), draws or Draws()
    _model, pipeline = writer_of(loaded)
    rows, origin = _rows(prompts)
    engine = _engine(loaded, draft, SLOTS, origin)
    writers: list[TextWriter] = []
    requests: list[tuple[str, Request]] = []
    for index, row in enumerate(rows):
        shown_prompt, ids = prompt_of(row, pipeline, origin, index)
        for sample in range(samples):
            writer = TextWriter(pipeline.tokenizer.decode, drawn.stop)
            seed = seed_of(drawn.seed, shown_prompt, sample)
            requests.append((shown_prompt, Request(ids, drawn.sampling(pipeline.stops), seed, watch=writer)))
            writers.append(writer)
    log_probs: dict[int, float] = {}
    counts: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for token in engine.stream(request for _prompted, request in requests):
        log_probs[token.request] = log_probs.get(token.request, 0.0) + token.log_prob
        counts[token.request] = counts.get(token.request, 0) + 1
        if token.reason is not None:
            reasons[token.request] = token.reason
            shown.update(len(reasons), len(requests), _("writing"))
    proposed, accepted = (engine.proposed, engine.accepted) if isinstance(engine, SpeculativeEngine) else ({}, {})
    return [
        Written(
            prompt, writers[number].finish(), counts[number], log_probs[number], reasons[number],
            proposed.get(number, 0), accepted.get(number, 0),
        )
        for number, (prompt, _request) in enumerate(requests)
    ]  # fmt: skip


class Conversation:
    """Turns with a model, by its own template. What was said stays as the tokens that it was said in: it is added to,
    and never encoded again."""

    def __init__(
        self, bundle: Bundle | str | Path, draws: Draws | None = None, *, system: str | None = None,
        draft: Draft | None = None,
    ) -> None:  # fmt: skip
        self.draws, self.system = draws or Draws(), system
        loaded = opened(bundle)
        _model, self.pipeline = writer_of(loaded)
        if self.pipeline.template is None:
            raise BundleError(
                _("this model has no chat template"),
                remedy=_("Go on from texts with it: {command}").format(
                    command="reinforge generate BUNDLE --prompt TEXT"
                ),
            )
        self.engine = _engine(loaded, draft, 1)
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system message."""
        self.messages: list[Message] = [Message("system", self.system)] if self.system else []
        self.ids: list[int] = []
        self.turns = 0

    def say(self, text: str) -> Iterator[str]:
        """The answer, in pieces as they are written. Raises DataError where the context is full; then nothing was
        said."""
        messages = [*self.messages, Message("user", text)]
        ids = [*self.ids, *self._added(messages)]
        room = self.engine.model.options.context
        if len(ids) >= room:
            raise DataError(
                _("the conversation has {n} tokens, and the model's context {context}").format(
                    n=len(ids), context=room
                ),
                remedy=_("Begin anew with {command}.").format(command="/reset"),
            )
        writer = TextWriter(self.pipeline.tokenizer.decode, self.draws.stop)
        seed = seeds.derive(self.draws.seed, "turn", self.turns)
        request = Request(tuple(ids), self.draws.sampling(self.pipeline.stops), seed, watch=writer)
        written: list[int] = []
        number = self.engine.add(request)
        try:
            for token in self.engine.stream():
                written.append(token.token)
                if new := writer.take():
                    yield new
            whole = writer.finish()
            if rest := writer.take():
                yield rest
        finally:
            self.engine.cancel(number)
        self.turns += 1
        self.messages = [*messages, Message("assistant", whole)]
        # An answer that a limit or a stop string cut is ended here, as the template ends all.
        ending = [] if written and written[-1] in self.pipeline.stops else list(self.pipeline.stops[:1])
        self.ids = [*ids, *written, *ending]

    def _added(self, messages: list[Message]) -> list[int]:
        """The tokens behind those that are there: what follows the last answer, the new turn, and the opening of the
        next answer."""
        if self.ids:
            return self.pipeline.added(messages)
        return [int(token) for token in self.pipeline.chat(Chat(tuple(messages)), answer=True)[0].tolist()]


def writer_of(bundle: Bundle) -> tuple[Decoder, TextPipeline]:
    """A bundle's decoder and its road to tokens and back. Raises BundleError where it writes no text."""
    if not isinstance(bundle.model, Decoder) or not isinstance(bundle.form, TextForm):
        raise BundleError(
            _("its model does not write text"), where=str(bundle.path),
            remedy=_("Use {command}.").format(command="reinforge predict"),
        )  # fmt: skip
    return bundle.model, bundle.form.pipeline


def _engine(bundle: Bundle, draft: Draft | None, slots: int, origin: Origin = PROMPTS) -> GenerationEngine:
    """What writes with this bundle. Raises BundleError where the draft's tokenizer is another."""
    model, pipeline = writer_of(bundle)
    if draft is None:
        return GenerationEngine(model, slots=slots, origin=origin)
    small = opened(draft.bundle)
    proposer, its_pipeline = writer_of(small)
    if its_pipeline.tokenizer.to_json() != pipeline.tokenizer.to_json():
        raise BundleError(
            _("the draft's tokenizer is not the model's"), where=str(small.path),
            remedy=_("Train the draft with {start}, from which it takes the tokenizer, or by distillation.").format(
                start="--from"
            ),
        )  # fmt: skip
    return SpeculativeEngine(model, proposer, proposals=draft.proposals, slots=slots, origin=origin)


def _rows(prompts: Sequence[str | Mapping[str, Any]] | str | Path | None) -> tuple[list[Any], Origin]:
    if isinstance(prompts, str | Path):
        from reinforge.data.reading.objects import read_objects

        parts = read_objects(str(prompts))
        return [row for part in parts for row in part.rows], parts[0].origin
    rows = list(prompts or ())
    if not rows:
        raise DataError(_("there is no prompt"), remedy=_("Give --prompt TEXT, or --data FILE."))
    return rows, Origin(unit="prompt")


def seed_of(seed: int, prompt: str, sample: int) -> int:
    """From which a text is drawn: whoever asks for the same with the same seed gets the same."""
    return seeds.derive(seed, "generate", prompt, sample)


def prompt_of(row: Any, pipeline: TextPipeline, origin: Origin, index: int) -> tuple[str, tuple[int, ...]]:
    """A prompt as it is shown, and its tokens. Raises DataError that names the row."""
    if isinstance(row, str):
        row = {"text": row}
    if isinstance(row, Mapping) and isinstance(row.get("text"), str):
        text = str(row["text"])
        ids = pipeline.opened(text)
    elif isinstance(row, Mapping) and pipeline.template is not None:
        chat = asked(row, origin, index)
        text, (ids, _own, _turns) = chat.messages[-1].content, pipeline.chat(chat, answer=True)
    elif isinstance(row, Mapping) and isinstance(row.get("prompt"), str):
        text = str(row["prompt"])
        ids = pipeline.opened(text)
    else:
        raise DataError(
            _("the row is no prompt"), where=origin.at(index),
            remedy=_("A row must be {examples}.").format(examples='{"text": "..."}, {"prompt": "..."}'),
        )  # fmt: skip
    if not len(ids):
        raise DataError(_("it is empty"), where=origin.at(index), remedy=_("A prompt needs a token at least."))
    return text, tuple(int(token) for token in ids.tolist())
