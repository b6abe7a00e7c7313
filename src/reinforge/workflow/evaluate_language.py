"""Measuring a language model: on text and documents by likelihood, on questions by what it writes, on choices by which
it holds to be the likeliest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.core.contracts import Clock
from reinforge.data.chats import document_of, question_of, taught
from reinforge.data.choices import Choices, choices_of
from reinforge.data.language_data import Documents, Rows, encoded_chats, encoded_documents, prepare_preferences
from reinforge.data.language_options import (
    ChatsOptions,
    DocumentsOptions,
    LanguageDataOptions,
    PreferencesOptions,
    QuestionsOptions,
)
from reinforge.data.options import TextOptions
from reinforge.data.prompts import Prompt
from reinforge.data.questions import prompt_of
from reinforge.data.reading.objects import Objects, read_objects
from reinforge.data.rewards import AnyReward, judged
from reinforge.data.text import TextPipeline, prepare_text, read_text
from reinforge.errors import BundleError, DataError
from reinforge.evaluation.choices import ChoiceEvaluator
from reinforge.evaluation.language import DocumentEvaluator
from reinforge.evaluation.masked import MaskedEvaluator, vocabulary_of
from reinforge.evaluation.questions import QuestionEvaluator
from reinforge.evaluation.resampling import Bounds
from reinforge.evaluation.text import TextEvaluator
from reinforge.messages import _, mark
from reinforge.models.decoder import Decoder
from reinforge.objectives.options import MaskedOptions
from reinforge.recipe import load as load_recipe
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY, Options
from reinforge.sources.options import TokenOptions
from reinforge.storage import strict_json
from reinforge.storage.files import write_atomic
from reinforge.workflow.tasks.questions import asking, interaction_of

_MORE = mark("Give data of your own: --data FILE.")
# Texts that are kept of a document, to know it by.
_EXCERPT = 80
_ROWS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".gz", ".zip", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Asking:
    """How questions are asked: so many answers of each, drawn at this temperature (where null, the likeliest of one, at
    1 of several), of so many tokens at most (where null, the recipe's), and what they get. `reward` is a kind or its
    options as a recipe has them; where null the recipe's, or `exact`."""

    samples: int = 1
    temperature: float | None = None
    tokens: int | None = None
    reward: object = None
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """Metrics with their intervals, and a line for each thing that was measured."""

    on: str
    counts: Mapping[str, int]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Bounds]
    samples: Sequence[Mapping[str, Any]]


def evaluate_language(
    bundle: Bundle, form: TextForm, recipe: Recipe | None, data: object, how: Asking, output: Path | None
) -> dict[str, Any]:
    """Metrics of a bundle that continues text, with their "intervals". `data`: rows (a file, or in memory) of documents
    {"text"}, chats, questions {"prompt" or "messages", "answer"}, choices {..., "choices", "answer"} or pairs
    {"prompt", "chosen", "rejected"}; a text file; where None, what the recipe holds back. `output`: where what was
    measured is written, a line each. Raises DataError and BundleError."""
    model = bundle.model
    if not isinstance(model, Decoder):
        raise BundleError(_("its model does not write text"), where=str(bundle.path))
    if not model.options.causal and not _reads_documents(recipe, data):
        raise BundleError(
            _("its model writes nothing: it is measured on documents alone"), where=str(bundle.path),
            remedy=_('Give {{"{name}": "..."}}.').format(name=form.pipeline.FIELD),
        )  # fmt: skip
    if data is not None:
        found = _given(bundle, form.pipeline, recipe, data, how)
    elif recipe is not None:
        found = _held(bundle, form.pipeline, recipe, how)
    else:
        raise DataError(
            _("the bundle doesn't say what was held back when it was trained"), where=str(bundle.path),
            remedy=_(_MORE),
        )  # fmt: skip
    told: dict[str, Any] = {"on": found.on, **found.counts, **found.metrics}
    told["intervals"] = {name: list(bounds) for name, bounds in found.intervals.items()}
    if output is not None:
        told["samples"] = write_lines(output, found.samples)
    return told


def _reads_documents(recipe: Recipe | None, data: object) -> bool:
    """Whether documents would be measured."""
    if data is None:
        return recipe is None or isinstance(recipe.data, DocumentsOptions)
    if isinstance(data, str | Path) and not _is_rows(str(data)):
        return False
    first = read_objects(data)[0].rows[0]
    return "text" in first and not {"choices", "chosen", "answer"} & set(first)


def write_lines(output: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    """Where they were written."""
    write_atomic(output, "".join(strict_json.compact(dict(line)).decode() + "\n" for line in lines))
    return str(output)


def _held(bundle: Bundle, pipeline: TextPipeline, recipe: Recipe, how: Asking) -> Found:
    """What the recipe holds back, which must still be what the bundle was not trained on."""
    options, on = recipe.data, "validation part"
    if isinstance(options, TextOptions):
        text = prepare_text(options, pipeline)
        same_data(bundle, text.digest)
        size = text.validation_bytes
        return _stream(bundle, recipe, text.validation, text.validation_characters, size, on, how)
    if isinstance(options, QuestionsOptions):
        asked = asking(options, pipeline, recipe.seed)
        if options.task is None:
            same_data(bundle, asked.digest)
        reward = asked.task.reward if how.reward is None else by_answer(reward_of(how.reward))
        return _questions(bundle, pipeline, asked.held, reward, how, options, on)
    if isinstance(options, PreferencesOptions):
        if options.length is None:
            options = options.model_copy(update={"length": _context(bundle)})
        same_data(bundle, prepare_preferences(options, pipeline, seed=recipe.seed).digest)
        rows = Rows.read(options, recipe.seed, None)
        held = [(row, place) for row, place, side in zip(rows.rows, rows.places, rows.sides) if side]
        return _choices(bundle, [choices_of(row, pipeline, _context(bundle), *place) for row, place in held], on)
    assert isinstance(options, LanguageDataOptions)
    prepared = REGISTRY.find("data", str(getattr(options, "kind", ""))).load()(options, pipeline, seed=recipe.seed)
    same_data(bundle, prepared.digest)
    return _documents(bundle, pipeline, recipe, prepared.validation, on, how)


def _given(bundle: Bundle, pipeline: TextPipeline, recipe: Recipe | None, data: object, how: Asking) -> Found:
    """All of the data, by what its first row is."""
    on = str(data) if isinstance(data, str | Path) else "given data"
    if isinstance(data, str | Path) and not _is_rows(str(data)):
        text, on = read_text(TextOptions(path=str(data)))
        tokens, size = pipeline.tokenizer.encode(text), len(text.encode("utf-8", "replace"))
        return _stream(bundle, recipe, tokens, len(text), size, on, how)
    parts, context = read_objects(data), _context(bundle)
    first = parts[0].rows[0]
    if "choices" in first or "chosen" in first:
        return _choices(bundle, [choices_of(row, pipeline, context, *place) for row, place in _each(parts)], on)
    if "answer" in first:
        prompts = [prompt_of(question_of(row, *place)) for row, place in _each(parts)]
        trained = recipe is not None and isinstance(recipe.data, QuestionsOptions)
        own = recipe.data if recipe is not None and isinstance(recipe.data, QuestionsOptions) else QuestionsOptions()
        reward = reward_of(how.reward if how.reward is not None else own.reward if trained else "exact")
        return _questions(bundle, pipeline, prompts, by_answer(reward), how, own, on)
    if "text" in first:
        texts = [document_of(row, *place) for row, place in _each(parts)]
        return _documents(bundle, pipeline, recipe, encoded_documents(texts, pipeline), on, how)
    if pipeline.template is None:
        raise DataError(
            _("this model has no chat template"), where=on,
            remedy=_('Give {{"{name}": "..."}}.').format(name=pipeline.FIELD),
        )  # fmt: skip
    chats = [taught(row, *place) for row, place in _each(parts)]
    own_data = recipe.data if recipe is not None else None
    learn = own_data.learn if isinstance(own_data, ChatsOptions) else ChatsOptions().learn
    rendered = [(chat, pipeline.template.render(chat)) for chat in chats]
    return _documents(bundle, pipeline, recipe, encoded_chats(rendered, pipeline, learn), on, how)


def reward_of(given: object) -> AnyReward:
    """A reward by its kind or options, as a recipe has them. Raises RecipeError."""
    if not isinstance(given, Options):
        options = load_recipe({"data": {"kind": "questions", "path": "-", "reward": given}}).data
        assert isinstance(options, QuestionsOptions)
        given = options.reward
    reward: AnyReward = REGISTRY.build("reward", given)
    return reward


def by_answer(reward: AnyReward) -> Callable[[Prompt, str], float]:
    """A reward of one question and what was written."""
    return lambda prompt, written: judged(reward, [prompt], [written])[0]


def _stream(
    bundle: Bundle, recipe: Recipe | None, tokens: torch.Tensor, characters: int, size: int, on: str, how: Asking
) -> Found:
    # As long as those that it learned from.
    source = recipe.source if recipe is not None else None
    block = source.block if isinstance(source, TokenOptions) else _context(bundle)
    if len(tokens) < 2:
        raise DataError(_("the text is too short"), where=on)
    evaluator = TextEvaluator(tokens, characters=characters, size=size, block=min(block, _context(bundle)))
    metrics = evaluator.evaluate(_Holder(bundle.model), Clock())
    lines = [
        {"block": number, "tokens": count, "loss": loss / count}
        for number, (loss, count) in enumerate(evaluator.blocks)
    ]  # fmt: skip
    return Found(on, {"tokens": len(tokens)}, metrics, evaluator.intervals(how.seed), lines)


def _documents(
    bundle: Bundle, pipeline: TextPipeline, recipe: Recipe | None, documents: Documents, on: str, how: Asking
) -> Found:
    evaluator = _document_evaluator(bundle, pipeline, recipe, documents)
    metrics = evaluator.evaluate(_Holder(bundle.model), Clock())
    measured = [each for each in evaluator.scored if each.tokens]
    if not measured:
        raise DataError(_("no document is long enough to be measured"), where=on)
    lines = [
        {
            "document": each.document, "text": _begins(pipeline, documents, each.document), "tokens": each.tokens,
            "loss": each.loss / each.tokens, "accuracy": each.right / each.tokens,
        } for each in measured
    ]  # fmt: skip
    counts = {"documents": len(lines), "tokens": sum(each.tokens for each in measured)}
    return Found(on, counts, metrics, evaluator.intervals(how.seed), lines)


def _document_evaluator(
    bundle: Bundle, pipeline: TextPipeline, recipe: Recipe | None, documents: Documents
) -> DocumentEvaluator:
    """Of an encoder, as it was trained: what it tells of what is hidden."""
    assert isinstance(bundle.model, Decoder)
    if bundle.model.options.causal:
        return DocumentEvaluator(
            documents.tokens, documents.learned, context=_context(bundle), sizes=documents.sizes
        )  # fmt: skip
    options = (
        recipe.objective if recipe is not None and isinstance(recipe.objective, MaskedOptions) else MaskedOptions()
    )
    return MaskedEvaluator(documents.tokens, options, vocabulary_of(pipeline, options), context=_context(bundle))


def _begins(pipeline: TextPipeline, documents: Documents, number: int) -> str:
    return pipeline.tokenizer.decode(documents.tokens.row(number)[:_EXCERPT])[:_EXCERPT]


def _questions(
    bundle: Bundle, pipeline: TextPipeline, prompts: Sequence[Prompt], reward: Callable[[Prompt, str], float],
    how: Asking, options: QuestionsOptions, on: str,
) -> Found:  # fmt: skip
    evaluator = QuestionEvaluator(
        prompts, reward, pipeline, tokens=how.tokens or options.tokens, samples=how.samples,
        temperature=how.temperature, seed=how.seed, interaction=interaction_of(options), turns=options.turns,
    )  # fmt: skip
    metrics = evaluator.evaluate(_Holder(bundle.model), Clock())
    # Said by the interval; and tokens are counts elsewhere.
    metrics = {"length" if name == "tokens" else name: v for name, v in metrics.items() if name not in ("low", "high")}
    intervals = {"length" if name == "tokens" else name: bounds for name, bounds in evaluator.intervals.items()}
    lines = [
        {"question": number // how.samples, **asdict(answered)} for number, answered in enumerate(evaluator.answered)
    ]
    return Found(on, {"questions": len(prompts), "drawn": how.samples}, metrics, intervals, lines)


def _choices(bundle: Bundle, questions: Sequence[Choices], on: str) -> Found:
    evaluator = ChoiceEvaluator(questions)
    metrics = evaluator.evaluate(_Holder(bundle.model), Clock())
    lines = [{"question": number, **asdict(each)} for number, each in enumerate(evaluator.chosen)]
    return Found(on, {"questions": len(questions)}, metrics, evaluator.intervals(), lines)


def same_data(bundle: Bundle, digest: str) -> None:
    """Raise DataError where the recipe's data have changed since the training."""
    stated = bundle.provenance.get("data") if isinstance(bundle.provenance, Mapping) else None
    if digest != stated:
        raise DataError(
            _("the recipe's data are no longer those it was trained on: their test split may hold training rows"),
            remedy=_(_MORE),
        )


def _context(bundle: Bundle) -> int:
    assert isinstance(bundle.model, Decoder)
    return bundle.model.options.context


def _is_rows(name: str) -> bool:
    path = Path(name)
    return name.startswith(("made:", "datasets:", "package:")) or path.is_dir() or path.suffix.lower() in _ROWS


def _each(parts: Sequence[Objects]) -> list[tuple[Mapping[str, Any], tuple[Any, int]]]:
    return [(row, (part.origin, index)) for part in parts for index, row in enumerate(part.rows)]


class _Holder(nn.Module):
    """A learner with nothing but the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
