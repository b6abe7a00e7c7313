"""Advantages by a critic that values every token: PPO for language (arXiv:1909.08593, arXiv:2203.02155).

Shape suffixes: g completions, n completion tokens of all of them, end to end.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.models.adapters import whole_state
from reinforge.models.decoder import Decoder
from reinforge.models.scorer import Scorer
from reinforge.models.scorer_options import ScorerOptions
from reinforge.objectives.completions import predicting
from reinforge.objectives.returns import generalised_advantages
from reinforge.objectives.reward_options import CriticOptions
from reinforge.schema.signature import Input, Output, Signature

VALUE = "value"


class Valued(NamedTuple):
    """Of every completion token (n,) float32: how much better than expected it was, and what comes from it on."""

    advantage_n: Tensor
    return_n: Tensor


class TokenCritic:
    """Generalised advantage estimation over the tokens of each completion, whose end is the end of all rewards.

    The last token gets the completion's reward; every token pays `kl` times log p - log p_reference, so that the
    policy stays where the reference knows how to write.
    """

    def __init__(self, options: CriticOptions) -> None:
        self.options = options

    def __call__(
        self, reward_g: Tensor, value_n: Tensor, away_n: Tensor | None, length_g: Tensor, valid_g: Tensor
    ) -> Valued:
        """`value_n`: of what stands before each token; `away_n`: log p - log p_reference of each; `valid_g`: which
        completions teach, over whose tokens advantages are normalised."""
        options, width = self.options, int(length_g.max())
        within = torch.arange(width) < length_g[:, None]
        value, reward = (torch.zeros(len(length_g), width) for _each in range(2))
        value[within] = value_n.float().cpu()
        if away_n is not None:
            reward[within] = -options.kl * away_n.float().cpu()
        last = within & (torch.arange(width) == length_g[:, None] - 1)
        reward[last] += reward_g.float().cpu()[length_g > 0]
        following = torch.cat([value[:, 1:], torch.zeros(len(value), 1)], 1)
        found = generalised_advantages(
            reward, value, following, last, torch.zeros_like(last), within, options.gamma, options.gae_lambda
        )
        advantage_n, return_n = found[within], (found + value)[within]
        taught_n = valid_g.cpu().repeat_interleave(length_g)
        if options.normalise and int(taught_n.sum()) > 1:
            taught = advantage_n[taught_n]
            advantage_n = (advantage_n - taught.mean()) / (taught.std() + 1e-8)
        return Valued(advantage_n, return_n)

    def loss(self, value_n: Tensor, batch: Batch, valid_n: Tensor) -> Tensor:
        """Half the squared error of the valid tokens' values, of which none counts less than if it had moved by
        `value_clip` at most: a sum."""
        goal_n, old_n = (cast(Ragged, batch[name]).values for name in ("return", "old_values"))
        square_n = (value_n - goal_n).square()
        if self.options.value_clip is not None:
            moved_n = (value_n - old_n).clamp(-self.options.value_clip, self.options.value_clip)
            square_n = torch.maximum(square_n, (old_n + moved_n - goal_n).square())
        return 0.5 * (square_n * valid_n).sum()


def critic_of(model: Decoder) -> Scorer:
    """A critic that begins with the decoder's own weights (those of adapters left out), and with the value 0."""
    options = ScorerOptions.model_validate({**model.options.model_dump(), "kind": "scorer", "tied": True})
    tokens = Input(form="tokens", sizes=(model.embedding.num_embeddings,))
    critic = Scorer(options, Signature(inputs={model.input: tokens}, outputs={VALUE: Output(form="number", size=1)}))
    known = whole_state(model)
    with torch.no_grad():
        for name, tensor in critic.state_dict().items():
            tensor.copy_(known[name]) if name in known else tensor.zero_()
    return critic.to(model.embedding.weight.device)


def token_values(critic: Scorer, batch: Batch) -> Tensor:
    """What the critic expects from where each completion token is written, row after row: (n,) float32."""
    rows, place_n, _targets = predicting(batch)
    return critic.values(rows).squeeze(1)[place_n]
