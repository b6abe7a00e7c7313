"""Behaviour cloning: doing as the data do."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.models.deterministic import Deterministic
from reinforge.models.policy import Policy
from reinforge.objectives.options import CloningOptions
from reinforge.objectives.returns import parts, tensor
from reinforge.schema.signature import Signature


class CloningLearner(nn.Module):
    """The policy, and nothing beside it."""

    def __init__(self, model: Policy) -> None:
        super().__init__()
        self.model = model


class Cloning:
    """-log pi(a | s) of the actions taken; of a deterministic policy, the squared distance in learner space.

    Scores of a q-network count as logits. Values beside the policy do not learn.
    """

    default_optimizer: ClassVar[Mapping[str, object]] = {"kind": "adam"}

    def __init__(self, options: CloningOptions, signature: Signature) -> None:
        self.options = options

    def build(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, Policy):
            raise ComponentError(f"a {type(model).__name__} can't act", remedy="Use a policy as model.")
        if model.initial_state(1) and model.frames == 1:
            raise ComponentError("transitions have no memory", remedy="Use a policy without one.")
        return CloningLearner(model)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """As it is."""
        return experience

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """The experience's updates, in order."""
        rows = {name: experience.batch[name] for name in ("observation", "action")}
        total = batches.rows(rows)
        size = total // int(experience.extra["updates"])
        for start in range(0, total, size):
            yield batches.part(rows, start, start + size)

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        assert isinstance(learner, CloningLearner)
        return [Step("clone", learner.model.acting(), self._loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(batches.rows(batch))
        return {"actions": rows, "entropy": rows} if self.options.entropy_weight else {"actions": rows}

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing follows an update."""

    def _loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        assert isinstance(learner, CloningLearner)
        model, action = learner.model, tensor(batch, "action")
        outputs, _ = model(parts(batch, "observation"))
        if isinstance(model, Deterministic):
            return Loss({"actions": Term((outputs["mean"] - action).square().sum())})
        terms = {"actions": Term(-model.log_prob(outputs, action).sum())}
        if self.options.entropy_weight:
            terms["entropy"] = Term(model.entropy(outputs).sum(), -self.options.entropy_weight)
        return Loss(terms)
