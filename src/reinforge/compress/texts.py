"""What a language model learns again from: the texts of its recipe; after rewards, its own answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reinforge.bundle.bundle import Bundle
from reinforge.core import seeds
from reinforge.core.ragged import Ragged
from reinforge.data.language_data import LanguageData, PreferenceData
from reinforge.data.language_options import LanguageDataOptions, PreferencesOptions, QuestionsOptions
from reinforge.data.options import TextOptions
from reinforge.data.text import TextPipeline, prepare_text
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.turns import play
from reinforge.models.decoder import Decoder
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.workflow.tasks.questions import asking, interaction_of

# Questions that are answered: few are as many different ones as a small network needs.
ANSWERED, SLOTS = 2_000, 64


def texts(bundle: Bundle, pipeline: TextPipeline, recipe: Recipe, seed: int) -> Ragged | None:
    """Rows of tokens, none longer than the context; None where the recipe's data are no texts. Raises DataError."""
    model, options = bundle.model, recipe.data
    assert isinstance(model, Decoder)
    context = model.options.context
    if isinstance(options, TextOptions):
        return _cut([prepare_text(options, pipeline).training], context)
    if isinstance(options, QuestionsOptions):
        return _answered(model, pipeline, options, recipe.seed, seed)
    if not isinstance(options, LanguageDataOptions):
        return None
    if isinstance(options, PreferencesOptions) and options.length is None:
        options = options.model_copy(update={"length": context})
    data: LanguageData | PreferenceData = REGISTRY.find("data", str(getattr(options, "kind", ""))).load()(
        options, pipeline, seed=recipe.seed
    )
    parts = (
        [answers.tokens for answers in data.training.values()] if isinstance(data, PreferenceData)
        else [data.training.tokens]
    )  # fmt: skip
    return _cut([part.row(index) for part in parts for index in range(len(part))], context)


def _cut(rows: list[Tensor], context: int) -> Ragged:
    return Ragged.from_rows([part for row in rows for part in torch.split(row.long(), context) if len(part)])


def _answered(model: Decoder, pipeline: TextPipeline, options: QuestionsOptions, drawn: int, seed: int) -> Ragged:
    """Questions of the training part, with answers as the model draws them: where a smaller one will go too (Kim and
    Rush, "Sequence-Level Knowledge Distillation", arXiv:1606.07947)."""
    task, draw = asking(options, pipeline, drawn).task, seeds.generator(seed, "questions to learn from again")
    prompts = [task.draw(draw) for _number in range(ANSWERED)]
    engine = GenerationEngine(model.eval(), slots=SLOTS)
    sampling = Sampling(options.tokens, stop=pipeline.stops)
    numbers = [seeds.derive(seed, "answer", number) for number in range(len(prompts))]
    asked = [prompt.ids(pipeline) for prompt in prompts]
    interaction = interaction_of(options)
    found: Sequence[Completion]
    if interaction is not None:
        found = play(engine, pipeline, interaction, prompts, sampling, numbers, turns=options.turns)
    else:
        requests = [Request(tuple(ids.tolist()), sampling, number) for ids, number in zip(asked, numbers)]
        found = engine.run(requests)
    return _cut([torch.cat([ids, torch.tensor(each.tokens)]) for ids, each in zip(asked, found)], model.options.context)
