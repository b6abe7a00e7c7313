"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.models.policy_options import PolicyOptions
from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register


@register("potential", "reinforge.objectives.wrapped:LinearPotential")
class LinearPotentialOptions(Options):
    """A weighted sum of the numbers in an observation, and of their squares: energies, distances."""

    kind: Literal["linear"] = "linear"
    weights: dict[str, tuple[float, ...]] = Field(
        {}, description="A weight for each number, by part of the observation (`observation` where it has no parts)."
    )
    squares: dict[str, tuple[float, ...]] = Field({}, description="A weight for the square of each number, likewise.")
    bias: float = Field(0.0, description="What is added to the sum.")


@register("objective", "reinforge.objectives.supervised:Supervised")
class SupervisedOptions(Options):
    """Learn targets from labels: one loss per target, their weighted sum; missing targets are left out."""

    default_source: ClassVar[str] = "loader"
    kind: Literal["supervised"] = "supervised"
    losses: dict[str, Annotated[Options, OneOf("loss")]] = Field(
        {}, description="Losses by target; by default that of the model's head."
    )
    weights: dict[str, NonNegativeFloat] = Field({}, description="Weights of the losses by target; by default 1.")
    weighting: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="uncertainty: learn a variance for each target; its loss is divided by it, and half its logarithm "
        "is added (Kendall et al., 2018). `weights` multiply both.",
    )


@register("objective", "reinforge.objectives.gan:GAN")
class GANOptions(Options):
    """Generate what can't be told from the data: a generator (the model) against a discriminator."""

    default_source: ClassVar[str] = "loader"
    kind: Literal["gan"] = "gan"
    discriminator: Annotated[Options, OneOf("model")] = Field(
        ComposedOptions(body=MLPOptions(sizes=(128, 128), activation="leaky-relu", norm="layer")),
        description="The model that tells real from generated.",
    )


@register("objective", "reinforge.objectives.language:Language")
class LanguageOptions(Options):
    """Predict the next token: the mean cross-entropy over the valid tokens of an update."""

    default_source: ClassVar[str] = "tokens"
    kind: Literal["language"] = "language"


Fraction = Annotated[float, Field(ge=0, le=1)]


@register("objective", "reinforge.objectives.distillation:Distillation")
class DistillationOptions(LanguageOptions):
    """Predict the next token as a larger model does, and as the text goes on (arXiv:1503.02531)."""

    kind: Literal["distillation"] = "distillation"  # type: ignore[assignment]
    teacher: str = Field("", description="The larger model's bundle, or its run; its tokenizer becomes the model's.")
    temperature: PositiveFloat = Field(1.0, description="Of both distributions; higher, unlikely tokens teach more.")
    weight: Fraction = Field(0.9, description="Weight of the teacher's distribution; the rest is the text's own.")


@register("objective", "reinforge.objectives.masked:Masked")
class MaskedOptions(LanguageOptions):
    """Fill in what is hidden of a text, from both sides (arXiv:1810.04805): for encoders, that is a decoder with
    causal: false."""

    kind: Literal["masked"] = "masked"  # type: ignore[assignment]
    part: Annotated[float, Field(gt=0, lt=1)] = Field(0.15, description="Part of the tokens that are to be told.")
    hidden: Fraction = Field(0.8, description="Of these, the part in whose place the mask stands.")
    random: Fraction = Field(0.1, description="Of these, the part in whose place any token stands; the rest stay.")
    whole_words: bool = Field(False, description="Whether the tokens of a word are told together.")

    @model_validator(mode="after")
    def together(self) -> Self:
        if self.hidden + self.random > 1:
            raise ValueError("hidden and random are parts of one whole: together at most 1")
        return self


class PreferenceOptions(Options):
    """What objectives share that learn from preferences. `reference`: whether they compare with the model as it was at
    the start; `judged`: whether they take answers alone, each judged, rather than pairs."""

    default_source: ClassVar[str] = "loader"
    reference: ClassVar[bool] = True
    judged: ClassVar[bool] = False


@register("objective", "reinforge.objectives.preferences:DPO")
class DPOOptions(PreferenceOptions):
    """Direct preference optimisation (arXiv:2305.18290): chosen answers become likelier than rejected ones, measured
    from the model at the start."""

    kind: Literal["dpo"] = "dpo"
    beta: PositiveFloat = Field(0.1, description="How closely the model stays with the one at the start.")
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Probability that a pair is the wrong way round (conservative DPO)."
    )


@register("objective", "reinforge.objectives.preferences:IPO")
class IPOOptions(PreferenceOptions):
    """Identity preference optimisation (arXiv:2310.12036): a margin to reach, not to exceed; per token of an answer."""

    kind: Literal["ipo"] = "ipo"
    beta: PositiveFloat = Field(0.1, description="The margin is 1 / (2 beta) nats a token.")


@register("objective", "reinforge.objectives.preferences:SimPO")
class SimPOOptions(PreferenceOptions):
    """Simple preference optimisation (arXiv:2405.14734): by log-probabilities per token, without a reference."""

    reference: ClassVar[bool] = False
    kind: Literal["simpo"] = "simpo"
    beta: PositiveFloat = Field(2.0, description="Scale of the mean log-probabilities.")
    gamma: NonNegativeFloat = Field(1.0, description="The margin that chosen answers should have, after beta.")


@register("objective", "reinforge.objectives.preferences:ORPO")
class ORPOOptions(PreferenceOptions):
    """Odds ratio preference optimisation (arXiv:2403.07691): learning the chosen answers and their odds at once."""

    reference: ClassVar[bool] = False
    kind: Literal["orpo"] = "orpo"
    weight: NonNegativeFloat = Field(0.1, description="Weight of the odds ratio (lambda).")


@register("objective", "reinforge.objectives.preferences:KTO")
class KTOOptions(PreferenceOptions):
    """Kahneman-Tversky optimisation (arXiv:2402.01306): from answers that are judged alone, wanted or not."""

    judged: ClassVar[bool] = True
    kind: Literal["kto"] = "kto"
    beta: PositiveFloat = Field(0.1, description="How closely the model stays with the one at the start.")
    wanted: PositiveFloat = Field(1.0, description="Weight of wanted answers.")
    unwanted: PositiveFloat = Field(1.0, description="Weight of unwanted answers.")


@register("objective", "reinforge.objectives.reward_model:RewardModel")
class RewardModelOptions(PreferenceOptions):
    """A reward model from pairs of answers: the chosen one's score shall be the higher (Bradley and Terry, 1952)."""

    reference: ClassVar[bool] = False
    kind: Literal["reward-model"] = "reward-model"
    centre: NonNegativeFloat = Field(
        0.01, description="Weight of the squared sum of both scores, which keeps scores near 0 (arXiv:2312.09244)."
    )


class DiscountedOptions(Options):
    """What objectives share that add up rewards."""

    gamma: Fraction = Field(0.99, description="Discount per environment step.")


class CriticsOptions(DiscountedOptions):
    """What objectives share whose learner holds critics beside the policy."""

    tau: Fraction = Field(0.005, description="How far targets move to the networks that they follow.")
    critic_sizes: tuple[PositiveInt, ...] = Field((256, 256), min_length=1, description="Widths of each critic.")
    critic_activation: Literal["relu", "leaky-relu", "gelu", "silu", "tanh"] = Field(
        "relu", description="What follows each hidden layer of the critics."
    )
    critic_norm: Literal["layer"] | None = Field(
        None,
        description="Normalisation, without weights, before each activation of the critics: it bounds how far "
        "values run off where no data are, so that more updates per step pay (Ball et al., 2023).",
    )


class PolicyGradientOptions(DiscountedOptions):
    """What objectives share that climb the gradient of a policy's own returns."""

    value_weight: NonNegativeFloat = Field(0.5, description="Weight of the value loss, where there is one.")
    entropy_weight: NonNegativeFloat = Field(0.0, description="Weight of the entropy bonus.")


class MunchausenOptions(Options):
    """Reward what the policy is sure of (Vieillard et al., 2020)."""

    weight: Fraction = Field(0.9, description="How much the policy's log-probability adds to the reward.")
    temperature: PositiveFloat = Field(0.03, description="Of the policy that values stand for, in units of return.")
    floor: Annotated[float, Field(lt=0)] = Field(-1.0, description="The least that is added, before the weight.")


@register("objective", "reinforge.objectives.dqn:DQN")
class DQNOptions(DiscountedOptions):
    """Deep Q-learning, for discrete actions; what its network can be besides is up to the model q-network."""

    default_source: ClassVar[str] = "replay"
    kind: Literal["dqn"] = "dqn"
    double: bool = Field(False, description="Double Q-learning: the network picks the action, the target values it.")
    period: PositiveInt = Field(1, description="Updates between two moves of the target network.")
    tau: Fraction = Field(0.005, description="How far the target moves to the network; 1 copies it.")
    delta: PositiveFloat = Field(1.0, description="Where Huber's square turns into a line.")
    munchausen: MunchausenOptions | None = Field(
        None, description="Soft values, and rewards for what the policy is sure of; none where null."
    )
    conservative: NonNegativeFloat = Field(
        0.0,
        description="Weight of conservative Q-learning, for learning from a file: values fall, but those of actions "
        "taken rise (CQL; Kumar et al., 2020, equation 4).",
    )


@register("objective", "reinforge.objectives.tabular:QLearning")
class QLearningOptions(DiscountedOptions):
    """Q-learning in a table (Watkins, 1989); `learn.lr` is its alpha."""

    default_source: ClassVar[str] = "rollout"
    kind: Literal["q-learning"] = "q-learning"


@register("objective", "reinforge.objectives.tabular:SARSA")
class SARSAOptions(DiscountedOptions):
    """SARSA in a table (Rummery and Niranjan, 1994): it values how it acts, exploration and all."""

    default_source: ClassVar[str] = "rollout"
    kind: Literal["sarsa"] = "sarsa"


@register("objective", "reinforge.objectives.sac:SAC")
class SACOptions(CriticsOptions):
    """Soft actor-critic, for continuous actions."""

    default_source: ClassVar[str] = "replay"
    kind: Literal["sac"] = "sac"
    period: PositiveInt = Field(1, description="Updates between two moves of the target critics.")
    delay: PositiveInt = Field(
        1, description="Updates of the critics for each one of the actor and of the temperature."
    )
    temperature: PositiveFloat = Field(1.0, description="Weight of the entropy, at the beginning where it adapts.")
    adapt: bool = Field(True, description="Adapt the temperature to the target entropy.")
    target_entropy: float | None = Field(
        None, description="In nats, of actions in (-1, 1); minus the number of action dimensions where null."
    )
    conservative: NonNegativeFloat = Field(
        0.0,
        description="Weight of conservative Q-learning, for learning from a file: values fall, but those of actions "
        "taken rise (CQL; Kumar et al., 2020, equation 4); 5 is a start.",
    )
    conservative_actions: PositiveInt = Field(
        10, description="With `conservative`, actions drawn for each row from the policy, and as many uniformly."
    )


@register("objective", "reinforge.objectives.td3:TD3")
class TD3Options(CriticsOptions):
    """Twin delayed deterministic policy gradients, for continuous actions (Fujimoto et al., 2018)."""

    default_source: ClassVar[str] = "replay"
    kind: Literal["td3"] = "td3"
    delay: PositiveInt = Field(2, description="Updates of the critics for each one of the actor and of all targets.")
    target_noise: NonNegativeFloat = Field(0.2, description="Deviation of the noise on the target's actions.")
    noise_clip: PositiveFloat = Field(0.5, description="The largest noise on the target's actions.")


@register("objective", "reinforge.objectives.td3:DDPG")
class DDPGOptions(CriticsOptions):
    """Deep deterministic policy gradients, for continuous actions (Lillicrap et al., 2016); td3 is steadier."""

    default_source: ClassVar[str] = "replay"
    kind: Literal["ddpg"] = "ddpg"


@register("objective", "reinforge.objectives.ppo:PPO")
class PPOOptions(PolicyGradientOptions):
    """Proximal policy optimisation, for all kinds of actions."""

    default_source: ClassVar[str] = "rollout"
    kind: Literal["ppo"] = "ppo"
    gae_lambda: Fraction = Field(0.95, description="Lambda of the advantage estimation.")
    epochs: PositiveInt = Field(10, description="Passes over each rollout.")
    minibatches: PositiveInt = Field(4, description="Updates per pass, each of an equal part of the sequences.")
    clip: PositiveFloat = Field(0.2, description="How far from 1 the ratio of probabilities counts.")
    clip_horizon: PositiveInt | None = Field(None, description="Environment steps over which the clip falls to 0.")
    value_clip: PositiveFloat | None = Field(
        None,
        description="How far a value may move from the old one and still teach, in units of return; no limit "
        "where null, which is rarely worse (Andrychowicz et al., 2021).",
    )
    kl_limit: PositiveFloat | None = Field(None, description="Divergence (nats) from which a rollout's updates end.")
    normalise_advantages: bool = Field(True, description="Zero mean and unit deviation over each update.")


@register("objective", "reinforge.objectives.policy_gradient:A2C")
class A2COptions(PolicyGradientOptions):
    """Advantage actor-critic, for all kinds of actions (Mnih et al., 2016): one update for each rollout."""

    default_source: ClassVar[str] = "rollout"
    kind: Literal["a2c"] = "a2c"
    gae_lambda: Fraction = Field(1.0, description="Lambda of the advantage estimation; 1 sums all rewards there are.")
    normalise_advantages: bool = Field(False, description="Zero mean and unit deviation over each update.")


@register("objective", "reinforge.objectives.policy_gradient:REINFORCE")
class REINFORCEOptions(PolicyGradientOptions):
    """Policy gradients from whole returns, for all kinds of actions (Williams, 1992)."""

    default_source: ClassVar[str] = "rollout"
    kind: Literal["reinforce"] = "reinforce"
    baseline: bool = Field(True, description="Subtract the learned value of the state from each return.")
    normalise_advantages: bool = Field(
        True, description="Zero mean and unit deviation over each update; a baseline of its own."
    )


@register("objective", "reinforge.objectives.cloning:Cloning")
class CloningOptions(Options):
    """Behaviour cloning: do as the data do, for all kinds of actions."""

    default_source: ClassVar[str] = "transitions"
    kind: Literal["behaviour-cloning"] = "behaviour-cloning"
    entropy_weight: NonNegativeFloat = Field(
        0.0, description="Weight of an entropy bonus: what is to be explored from should not be too sure."
    )


@register("objective", "reinforge.objectives.iql:IQL")
class IQLOptions(CriticsOptions):
    """Implicit Q-learning from a file, for discrete or continuous actions (Kostrikov et al., 2022)."""

    default_source: ClassVar[str] = "transitions"
    kind: Literal["iql"] = "iql"
    expectile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.7, description="0.5: the mean of the actions taken; nearer to 1, the best of them."
    )
    beta: NonNegativeFloat = Field(3.0, description="How much better actions count more; 0 clones.")
    limit: PositiveFloat = Field(100.0, description="The most that an action counts.")


@register("objective", "reinforge.objectives.wrapped:Curious")
class CuriousOptions(Options):
    """Any objective of reinforcement learning, with rewards for what is new (Burda et al., 2019)."""

    kind: Literal["curious"] = "curious"
    of: Annotated[Options, OneOf("objective")] = Field(PPOOptions(), description="The objective itself.")
    weight: PositiveFloat = Field(
        0.1, description="What an observation adds whose novelty lies one deviation above nothing."
    )
    network: PolicyOptions = Field(PolicyOptions(), description="Encoders and layers of both networks.")
    features: PositiveInt = Field(32, description="Numbers that one network has to guess of the other.")

    @property
    def default_source(self) -> str:
        """That of the objective itself."""
        return getattr(self.of, "default_source", "loader")

    @property
    def gamma(self) -> float | None:
        """That of the objective itself; None where it does not discount."""
        return getattr(self.of, "gamma", None)


@register("objective", "reinforge.objectives.wrapped:Shaped")
class ShapedOptions(Options):
    """Any objective of reinforcement learning, with rewards shaped by a potential (Ng et al., 1999)."""

    kind: Literal["shaped"] = "shaped"
    of: Annotated[Options, OneOf("objective")] = Field(PPOOptions(), description="The objective itself.")
    potential: Annotated[Options, OneOf("potential")] = Field(
        LinearPotentialOptions(), description="How good each observation looks; yours comes by --use."
    )

    @property
    def default_source(self) -> str:
        """That of the objective itself."""
        return getattr(self.of, "default_source", "loader")

    @property
    def gamma(self) -> float | None:
        """That of the objective itself; None where it does not discount."""
        return getattr(self.of, "gamma", None)
