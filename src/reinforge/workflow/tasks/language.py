"""Learning from documents, chats and preferences: language models from nothing, or from a bundle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import Form
from reinforge.bundle.language_encoder import pipeline_of
from reinforge.bundle.loading import load
from reinforge.bundle.score_form import ScoreForm
from reinforge.bundle.text_form import TextForm
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Evaluator, Source
from reinforge.core.ragged import Ragged
from reinforge.data.language_data import Answers as Taught
from reinforge.data.language_data import LanguageData, PreferenceData
from reinforge.data.language_options import LanguageDataOptions, PreferencesOptions
from reinforge.data.text import TextPipeline
from reinforge.errors import RecipeError
from reinforge.evaluation.answers import Answers
from reinforge.evaluation.continuations import continuations
from reinforge.evaluation.language import DocumentEvaluator
from reinforge.evaluation.masked import MaskedEvaluator, vocabulary_of
from reinforge.evaluation.preferences import PreferenceEvaluator
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.scorer_options import ScorerOptions
from reinforge.objectives.options import DistillationOptions, MaskedOptions, RewardModelOptions
from reinforge.objectives.preferences import Preference
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY, Options
from reinforge.sources.loader import LoaderSource
from reinforge.sources.options import LoaderOptions, TokenOptions
from reinforge.sources.tokens import TokenSource
from reinforge.workflow.tasks.task import Given, Task, Tested, source_options, unfit

# What a recipe may set of a bundle's decoder without making it another network.
_ADJUSTABLE = ("dropout", "context", "causal")


def language_task(recipe: Recipe, start: Bundle | None, given: Given) -> Task:
    """Read, render and encode the data, and put the training together. `start` gives decoder, tokenizer and
    template."""
    options = recipe.data
    assert isinstance(options, LanguageDataOptions)
    scores = isinstance(recipe.objective, RewardModelOptions)
    if start is not None and not isinstance(start.form, (TextForm, ScoreForm) if scores else TextForm):
        raise unfit(start, "text")
    pipeline = start.form.pipeline if start is not None and isinstance(start.form, TextForm | ScoreForm) else None
    teacher = _teacher(recipe)
    if teacher is not None:
        pipeline = pipeline or pipeline_of(teacher)
    chosen = decoder_options(recipe.model, start)
    if scores and not isinstance(chosen, ScorerOptions):
        chosen = ScorerOptions(**{**chosen.model_dump(), "kind": "scorer", "tied": True})
    context = chosen.context
    if isinstance(options, PreferencesOptions) and options.length is None:
        options = options.model_copy(update={"length": context})
    data: LanguageData | PreferenceData = REGISTRY.find("data", str(getattr(options, "kind", ""))).load()(
        options, pipeline, seed=recipe.seed, data=given.data
    )
    form = ScoreForm(data.pipeline) if scores else TextForm(data.pipeline)
    signature = form.signature
    model: nn.Module = REGISTRY.build("model", chosen, signature)
    taught: dict[str, Any] = {} if teacher is None else {"teacher": _fit(teacher, data.pipeline, context)}
    masked = recipe.objective if isinstance(recipe.objective, MaskedOptions) else None
    if masked is not None:
        taught["vocabulary"] = vocabulary_of(data.pipeline, masked)
    objective = REGISTRY.build("objective", recipe.objective, signature, **taught)
    named = source_options(recipe.source, recipe.objective)
    if isinstance(data, PreferenceData):
        source, evaluator, notes = _preferences(recipe, data, named, objective)
    else:
        source, evaluator, notes = _documents(recipe, data, named, context)
        if masked is not None:
            held = data.validation.tokens
            evaluator = MaskedEvaluator(held, masked, taught["vocabulary"], context=context)

    examples = _fitting(data.examples, form, context)

    writes = not scores and masked is None

    def test(learner: nn.Module) -> Tested:
        found = {f"validation/{name}": value for name, value in evaluator.evaluate(learner, Clock()).items()}
        return Tested(found, answers=written(learner, form, examples, recipe.seed) if writes else None)

    return Task(
        signature=signature, model=model, model_options=chosen, objective=objective, source=source,
        form=form, examples=examples, test=test, evaluator=evaluator,
        monitor=("loss", "min"), ships="best", digest=data.digest, notes=(*notes, *data.notes),
        fresh=_fresh(start) if scores else (),
    )  # fmt: skip


def decoder_options(given: Options, start: Bundle | None) -> DecoderOptions:
    """The bundle's own options, or the recipe's. Raises RecipeError where the recipe asks for another network."""
    if not isinstance(given, DecoderOptions):
        raise RecipeError(
            _("a model of kind {kind!r} learns no language").format(kind=str(getattr(given, "kind", "?"))),
            where="model", remedy=_("Set model.kind to decoder."),
        )  # fmt: skip
    if start is None:
        return given
    own = start.blueprint.options
    if not isinstance(own, DecoderOptions):
        raise unfit(start, "text")
    # A run's recipe says every option: what stands at its default was not asked for.
    usual = DecoderOptions()
    asked = {name: value for name, value in vars(given).items() if value != getattr(usual, name) and name != "depth"}
    other = [name for name, value in asked.items() if value != getattr(own, name) and name not in _ADJUSTABLE]
    if other:
        raise RecipeError(
            _("the bundle's decoder has {key} {own}, and the recipe asks for {value}").format(
                key=other[0], own=getattr(own, other[0]), value=asked[other[0]]
            ),
            where=f"model.{other[0]}",
            remedy=_("Leave the model out: the bundle's own is taken."),
        )
    return own.model_copy(update={name: asked[name] for name in _ADJUSTABLE if name in asked})


def _documents(recipe: Recipe, data: LanguageData, named: Options, context: int) -> tuple[Source, Evaluator, list[str]]:
    if not isinstance(named, TokenOptions):
        raise RecipeError(_("documents and chats come from the source tokens"), where="source")
    if named.block > context:
        raise RecipeError(
            _("blocks of {block} tokens do not fit the model's context of {context}").format(
                block=named.block, context=context
            ),
            where="source.block",
            remedy=_("Lower source.block, or raise model.context."),
        )
    training, held = data.training, data.validation
    source = TokenSource(
        named, training.tokens, batch=recipe.learn.batch, seed=recipe.seed, name=data.pipeline.BLOCK,
        learned=training.learned,
    )  # fmt: skip
    evaluator = DocumentEvaluator(held.tokens, held.learned, context=context, sizes=held.sizes)
    notes = [
        _("{documents} documents of {tokens} tokens ({kinds} kinds) from {origin}").format(
            documents=len(training), tokens=len(training.tokens.values), kinds=data.pipeline.tokenizer.size,
            origin=data.origin,
        )
    ]  # fmt: skip
    if source.packing is not None:
        lost = source.packing.lost
        notes.append(_("rows are {part:.1%} full").format(part=source.packing.filled))
        if lost.long:
            notes.append(
                _("{n} documents are longer than {block} tokens, {tokens} tokens were lost").format(
                    n=lost.long, block=named.block, tokens=lost.tokens
                )
            )
    return source, evaluator, notes


def _preferences(
    recipe: Recipe, data: PreferenceData, named: Options, objective: Any
) -> tuple[Source, Evaluator, list[str]]:
    if not isinstance(named, LoaderOptions):
        raise RecipeError(_("preferences come from the source loader"), where="source")
    if not isinstance(objective, Preference) or objective.options.judged != (data.wanted is not None):
        fits = "kto" if data.wanted is not None else "dpo, ipo, simpo, orpo, reward-model"
        raise RecipeError(
            _("the objective does not fit the data's preferences"), where="objective",
            remedy=_("For these rows there are: {names}.").format(names=fits),
        )  # fmt: skip
    training, held = _batch(data.training, data.wanted, 0), _batch(data.validation, data.wanted, 1)
    source = LoaderSource(named, training, batch=recipe.learn.batch, seed=recipe.seed)
    note = _("{n} preferences from {origin}").format(n=source.rows, origin=data.origin)
    return source, PreferenceEvaluator(objective, held), [note]


def _batch(answers: Mapping[str, Taught], wanted: tuple[Tensor, Tensor] | None, side: int) -> Batch:
    """All rows as `objectives.preferences` takes them."""
    batch: dict[str, Batch | Tensor] = {
        name: {"tokens": answer.tokens, "learned": Ragged(answer.learned, answer.tokens.offsets)}
        for name, answer in answers.items()
    }
    return batch if wanted is None else {**batch, "wanted": wanted[side]}


def _teacher(recipe: Recipe) -> Bundle | None:
    """The bundle to be distilled. Raises RecipeError where it is no language model."""
    if not isinstance(recipe.objective, DistillationOptions):
        return None
    if not recipe.objective.teacher:
        raise RecipeError(
            _("there is no teacher"), where="objective.teacher", remedy=_("Name the bundle of a larger model.")
        )
    bundle = load(recipe.objective.teacher)
    if not isinstance(bundle.form, TextForm):
        raise RecipeError(_("the bundle is no language model"), where="objective.teacher")
    return bundle


def _fit(teacher: Bundle, pipeline: TextPipeline, context: int) -> nn.Module:
    """The teacher's model. Raises RecipeError where it reads other tokens, or fewer."""
    if pipeline_of(teacher).tokenizer.to_json() != pipeline.tokenizer.to_json():
        raise RecipeError(
            _("the teacher has another tokenizer than the bundle to begin with"), where="objective.teacher",
            remedy=_("Begin without a bundle: the teacher's tokenizer is taken."),
        )  # fmt: skip
    model = teacher.model
    assert isinstance(model, Decoder)
    if model.options.context < context:
        raise RecipeError(
            _("the teacher's context is {theirs}, and the model's {own}").format(
                theirs=model.options.context, own=context
            ),
            where="model.context", remedy=_("Lower it."),
        )  # fmt: skip
    return model


def written(learner: nn.Module, form: Form, rows: Sequence[Mapping[str, Any]], seed: int) -> Answers | None:
    """How the learner's model goes on from raw rows of text or messages."""
    assert isinstance(form, TextForm)
    beginnings = [
        (str(row["text"] if "text" in row else row["messages"][-1]["content"]), ids.row(0))
        for row in rows
        if isinstance(ids := form.inputs([row])[form.pipeline.BLOCK], Ragged)
    ]
    model = cast(Decoder, learner.model)
    return Answers(continued=continuations(model, form.pipeline, beginnings, seed)) if beginnings else None


def _fresh(start: Bundle | None) -> tuple[str, ...]:
    """Weights of a scorer that a decoder doesn't have, or has in vain."""
    if start is None or isinstance(start.form, ScoreForm):
        return ()
    return ("score.*", "head.*") if "head.weight" in start.model.state_dict() else ("score.*",)


def _fitting(rows: Sequence[Mapping[str, Any]], form: TextForm | ScoreForm, context: int) -> list[Mapping[str, Any]]:
    """Golden rows that the context has room for."""
    return [row for row in rows if 1 < len(cast(Ragged, form.inputs([row])[form.pipeline.BLOCK]).values) <= context]
