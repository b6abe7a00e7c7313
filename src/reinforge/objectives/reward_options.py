"""Options of learning from rewards for completions: how advantages, ratios and sums are taken, and their named
combinations. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


class AdvantageOptions(Options):
    """What kinds of advantages share. `grouped`: whether completions are compared within their group alone."""

    grouped: ClassVar[bool] = True


@register("advantage", "reinforge.objectives.completions:group_normalised")
class GroupNormalisedOptions(AdvantageOptions):
    """Reward less the group's mean, over the group's standard deviation (GRPO; arXiv:2402.03300)."""

    kind: Literal["group-normalised"] = "group-normalised"


@register("advantage", "reinforge.objectives.completions:group_mean")
class GroupMeanOptions(AdvantageOptions):
    """Reward less the group's mean (Dr. GRPO; arXiv:2503.20783)."""

    kind: Literal["group-mean"] = "group-mean"


@register("advantage", "reinforge.objectives.completions:leave_one_out")
class LeaveOneOutOptions(AdvantageOptions):
    """Reward less the mean of the group's others (RLOO; arXiv:2402.14740)."""

    kind: Literal["leave-one-out"] = "leave-one-out"


@register("advantage", "reinforge.objectives.completions:batch_mean")
class BatchMeanOptions(AdvantageOptions):
    """Reward less the mean of the whole experience: REINFORCE with a baseline (Williams, 1992)."""

    grouped: ClassVar[bool] = False
    kind: Literal["batch-mean"] = "batch-mean"
    normalise: bool = Field(False, description="Divide by the standard deviation of the whole experience, too.")


@register("advantage", "reinforge.objectives.token_critic:TokenCritic")
class CriticOptions(AdvantageOptions):
    """What each token gained over what a critic expected there: PPO with a value for every token, from a second network
    that begins as a copy of the policy. `learn.steps.critic.lr` sets its learning rate."""

    grouped: ClassVar[bool] = False
    kind: Literal["critic"] = "critic"
    gamma: float = Field(1.0, gt=0, le=1, description="Discount per token.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Lambda of the advantage estimation; 1 sums all rewards.")
    kl: NonNegativeFloat = Field(
        0.05, description="What a token pays for each nat that it is likelier than for the reference; 0: no reference."
    )
    value_clip: PositiveFloat | None = Field(
        0.2, description="How far a value may move from the old one and still teach, in units of reward; no limit "
        "where null.",
    )  # fmt: skip
    normalise: bool = Field(True, description="Zero mean and unit deviation over the tokens of each experience.")


class ClippedOptions(Options):
    """What clipped ratios share."""

    low: PositiveFloat = Field(0.2, lt=1, description="How far below 1 a ratio still teaches.")
    high: PositiveFloat = Field(0.2, description="How far above 1 (DAPO: 0.28).")


@register("ratio", "reinforge.objectives.completions:token_ratio")
class TokenRatioOptions(ClippedOptions):
    """The probability ratio of each token, clipped (PPO; arXiv:1707.06347)."""

    kind: Literal["token"] = "token"


@register("ratio", "reinforge.objectives.completions:sequence_ratio")
class SequenceRatioOptions(ClippedOptions):
    """The ratio of each whole completion, to the power of 1 / its length, clipped (GSPO; arXiv:2507.18071)."""

    kind: Literal["sequence"] = "sequence"
    low: PositiveFloat = Field(3e-4, lt=1, description="How far below 1 a ratio still teaches.")
    high: PositiveFloat = Field(4e-4, description="How far above 1.")


@register("ratio", "reinforge.objectives.completions:no_ratio")
class NoRatioOptions(Options):
    """The plain gradient of log-probabilities: right where each experience is used once."""

    kind: Literal["none"] = "none"


@register("aggregation", "reinforge.objectives.completions:per_sequence")
class PerSequenceOptions(Options):
    """The mean over each completion's tokens, then over completions (GRPO): short ones weigh more by token."""

    kind: Literal["sequence-mean"] = "sequence-mean"


@register("aggregation", "reinforge.objectives.completions:per_token")
class PerTokenOptions(Options):
    """The mean over all tokens of the update (DAPO; arXiv:2503.14476)."""

    kind: Literal["token-mean"] = "token-mean"


@register("aggregation", "reinforge.objectives.completions:per_constant")
class PerConstantOptions(Options):
    """Sums over completions divided by a constant, never by their lengths (Dr. GRPO)."""

    kind: Literal["constant"] = "constant"
    divisor: PositiveFloat = Field(
        64, description="Tokens by which each completion's sum is divided: the source's max_tokens, say."
    )


# What each name stands for; a part that is given overrules it.
PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr-grpo": {"advantage": "group-mean", "aggregation": "constant", "beta": 0.0},
    "dapo": {
        "ratio": {"kind": "token", "high": 0.28}, "aggregation": "token-mean", "beta": 0.0, "mask_truncated": True,
    },
    "gspo": {"ratio": "sequence", "beta": 0.0},
    "rloo": {"advantage": "leave-one-out", "ratio": "none", "aggregation": "constant"},
    "ppo": {"advantage": "critic", "aggregation": "token-mean", "beta": 0.0, "epochs": 2},
    "reinforce": {"advantage": "batch-mean", "ratio": "none", "aggregation": "token-mean", "beta": 0.0},
}  # fmt: skip


@register("objective", "reinforge.objectives.grpo:GRPO")
class GRPOOptions(Options):
    """Completions that are rewarded more than others of their group become likelier: GRPO and its sisters."""

    default_source: ClassVar[str] = "completions"
    kind: Literal["grpo"] = "grpo"
    preset: Literal["grpo", "dr-grpo", "dapo", "gspo", "rloo", "reinforce", "ppo"] = Field(
        "grpo", description="A named combination of what follows; what is given beside it stands."
    )
    advantage: Annotated[Options, OneOf("advantage")] = Field(
        GroupNormalisedOptions(), description="What a completion's reward is compared with."
    )
    ratio: Annotated[Options, OneOf("ratio")] = Field(
        TokenRatioOptions(), description="How far updates may go from the policy that wrote."
    )
    aggregation: Annotated[Options, OneOf("aggregation")] = Field(
        PerSequenceOptions(), description="What each token's part is divided by."
    )
    beta: NonNegativeFloat = Field(0.04, description="Weight of the divergence from the frozen reference; 0: none.")
    temperature: PositiveFloat = Field(1.0, description="Divides the logits; must be the source's.")
    epochs: PositiveInt = Field(1, description="Passes over each experience.")
    minibatch: PositiveInt | None = Field(None, description="Completions of one update; all where null.")
    mask_truncated: bool = Field(True, description="Leave completions out that were cut before they ended.")

    @model_validator(mode="before")
    @classmethod
    def from_preset(cls, value: object) -> object:
        chosen = PRESETS.get(value.get("preset", "grpo")) if isinstance(value, Mapping) else None
        if chosen is None or not isinstance(value, Mapping):
            return value
        return {**chosen, **value}
