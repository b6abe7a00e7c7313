"""Generative adversarial networks (Goodfellow et al., 2014), with the non-saturating generator loss."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.errors import ComponentError
from reinforge.objectives.options import GANOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature


class GANLearner(nn.Module):
    """The generator, which is the deployed model, and the discriminator beside it."""

    def __init__(self, model: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.model, self.discriminator = model, discriminator


class GAN:
    """A generator from latents (its one input of numbers) to samples (its one output of numbers), and a discriminator.

    Batches: {"targets": {output: (rows, size)}}. Latents are standard normal. Two steps in turn: the discriminator
    minimises softplus(-D(x)) + softplus(D(G(z))), the generator softplus(-D(G(z'))) with latents of its own.
    """

    def __init__(self, options: GANOptions, signature: Signature) -> None:
        inputs, outputs = list(signature.inputs.values()), list(signature.outputs.values())
        if [i.form for i in inputs] != ["numbers"] or [o.form for o in outputs] != ["number"]:
            raise ComponentError(
                "it needs one input of numbers (the latents) and one output of numbers", where="objective gan"
            )
        (self.latent,), (self.sample,) = signature.inputs, signature.outputs
        self.shape = inputs[0].shape
        self.options = options
        self.judged = Signature(
            inputs={self.sample: Input(form="numbers", shape=(outputs[0].size,))},
            outputs={"real": Output(form="number", size=1)},
        )

    def build(self, model: nn.Module) -> GANLearner:
        """The learner, with a new discriminator."""
        return GANLearner(model, REGISTRY.build("model", self.options.discriminator, self.judged))

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """As it is."""
        return experience

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """One update, with latents for each of the two steps."""
        n = batches.rows(experience.batch)
        draws = torch.randn(2, n, *self.shape, generator=generator)
        yield {**experience.batch, "latents": {"discriminator": draws[0], "generator": draws[1]}}

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        """First the discriminator, then the generator against what it has become."""
        assert isinstance(learner, GANLearner)
        return [
            Step("discriminator", list(learner.discriminator.parameters()), self.discriminator_loss),
            Step("generator", list(learner.model.parameters()), self.generator_loss),
        ]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, for every term."""
        n = torch.tensor(batches.rows(batch))
        return {"real": n, "generated": n, "deceived": n}

    def discriminator_loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """Terms "real" and "generated": how badly each is told."""
        assert isinstance(learner, GANLearner)
        with torch.no_grad():
            generated = self._generate(learner, batch, "discriminator")
        real = self._judge(learner, batches.section(batch, "targets")[self.sample])
        return Loss(
            {"real": Term(softplus(-real).sum()), "generated": Term(softplus(self._judge(learner, generated)).sum())}
        )

    def generator_loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """Term "deceived": how badly the generated pass for real."""
        assert isinstance(learner, GANLearner)
        return Loss(
            {"deceived": Term(softplus(-self._judge(learner, self._generate(learner, batch, "generator"))).sum())}
        )

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing."""

    def _generate(self, learner: GANLearner, batch: Batch, step: str) -> Tensor:
        outputs, _ = learner.model({self.latent: batches.section(batch, "latents")[step]})
        samples: Tensor = outputs[self.sample]
        return samples

    def _judge(self, learner: GANLearner, samples: Tensor) -> Tensor:
        outputs, _ = learner.discriminator({self.sample: samples})
        logits: Tensor = outputs["real"]
        return logits
