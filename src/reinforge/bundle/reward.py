"""A reward model's bundle as the reward of what another model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from reinforge.bundle.loading import load
from reinforge.bundle.score_form import SCORE, ScoreForm
from reinforge.core.batch import split
from reinforge.data.prompts import Prompt
from reinforge.data.reward_options import ModelOptions
from reinforge.engine.distributed import device_of
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.scorer import Scorer

# Rows that go through the model at once.
ROWS = 32


class ModelReward:
    """The score of a whole chat, prompt and completion, by the reward model's own tokenizer and template. Raises
    RecipeError for a bundle that gives no scores."""

    def __init__(self, options: ModelOptions) -> None:
        bundle = load(options.bundle)
        if not isinstance(bundle.form, ScoreForm):
            raise RecipeError(
                _("its model gives no scores"), where=options.bundle,
                remedy=_("Train one on preferences: objective: reward-model."),
            )  # fmt: skip
        device = device_of(options.device)
        self.form, self.model, self.device = bundle.form, cast(Scorer, bundle.model.to(device)), device
        self.scale, self.shift = options.scale, options.shift

    def of(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One score for each."""
        inputs = self.form.inputs([self._row(prompt, text) for prompt, text in zip(prompts, completions)])
        found: list[float] = []
        with torch.inference_mode():
            for part in split(inputs, ROWS):
                rows = part[self.form.pipeline.BLOCK]
                moved = type(rows)(rows.values.to(self.device), rows.offsets)  # type: ignore[union-attr, call-arg]
                outputs, _state = self.model({self.form.pipeline.BLOCK: moved})
                found += outputs[SCORE].squeeze(1).double().tolist()
        return [self.scale * (value - self.shift) for value in found]

    def _row(self, prompt: Prompt, text: str) -> dict[str, object]:
        if self.form.pipeline.template is None:
            return {"text": f"{prompt.text}{text}"}
        asked = prompt.chat.messages if prompt.chat else ()
        turns = [{"role": each.role, "content": each.content} for each in asked]
        turns = turns or [{"role": "user", "content": prompt.text}]
        return {"messages": [*turns, {"role": "assistant", "content": text}]}
