"""Learning to continue text."""

from __future__ import annotations

from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.core.contracts import Clock
from reinforge.data.options import TextOptions
from reinforge.data.text import prepare_text
from reinforge.errors import RecipeError
from reinforge.evaluation.text import TextEvaluator
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.sources.options import TokenOptions
from reinforge.workflow.tasks.language import written
from reinforge.workflow.tasks.task import Task, Tested, source_options, unfit

# Characters of validation text per golden row, and how many rows.
_EXAMPLE, _EXAMPLES = 48, 4


def text_task(recipe: Recipe, start: Bundle | None) -> Task:
    """Read and tokenize the text and put its training together. `start` freezes the tokenizer."""
    assert isinstance(recipe.data, TextOptions)
    if start is not None and not isinstance(start.form, TextForm):
        raise unfit(start, "text")
    data = prepare_text(recipe.data, start.form.pipeline if start and isinstance(start.form, TextForm) else None)
    signature = data.pipeline.signature
    model: nn.Module = REGISTRY.build("model", recipe.model, signature)
    objective = REGISTRY.build("objective", recipe.objective, signature)
    chosen = source_options(recipe.source, recipe.objective)
    source = REGISTRY.build("source", chosen, data.training, batch=recipe.learn.batch, seed=recipe.seed)
    block = chosen.block if isinstance(chosen, TokenOptions) else 64
    context = getattr(recipe.model, "context", block)
    if block > context:
        raise RecipeError(
            _("blocks of {block} tokens do not fit the model's context of {context}").format(
                block=block, context=context
            ),
            where="source.block",
            remedy=_("Lower source.block, or raise model.context."),
        )
    evaluator = TextEvaluator(data.validation, characters=data.validation_characters, block=block)

    def test(learner: nn.Module) -> Tested:
        found = {f"validation/{name}": value for name, value in evaluator.evaluate(learner, Clock()).items()}
        return Tested(found, answers=written(learner, form, examples, recipe.seed))

    decode, form = data.pipeline.tokenizer.decode, TextForm(data.pipeline)
    parts = [data.validation[i * _EXAMPLE : (i + 1) * _EXAMPLE] for i in range(_EXAMPLES)]
    examples = [{data.pipeline.FIELD: decode(part)} for part in parts if len(part) > 1]
    return Task(
        signature=signature,
        model=model,
        model_options=recipe.model,
        objective=objective,
        source=source,
        form=form,
        examples=examples,
        test=test,
        evaluator=evaluator,
        monitor=("loss", "min"),
        ships="best",
        digest=data.digest,
        notes=(f"{len(data.training)} training tokens of {data.pipeline.tokenizer.size} kinds from {data.origin}",),
    )
