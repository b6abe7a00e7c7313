"""The GAN objective: known values, gradients that stay in their step, and digits that begin to look like digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from reinforge.core.contracts import Clock, Experience
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamOptions
from reinforge.errors import ComponentError
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.objectives.gan import GAN, GANLearner
from reinforge.objectives.options import GANOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.loader import LoaderSource
from reinforge.sources.options import LoaderOptions

LATENT, PIXELS = 8, 64
SIGNATURE = Signature(
    inputs={"latent": Input(form="numbers", shape=(LATENT,))}, outputs={"image": Output(form="number", size=PIXELS)}
)


def parts(seed: int = 0) -> tuple[GAN, GANLearner]:
    torch.manual_seed(seed)
    small = MLPOptions(sizes=(32, 32), norm="layer", activation="leaky-relu")
    objective = GAN(GANOptions(discriminator=ComposedOptions(body=small)), SIGNATURE)
    return objective, objective.build(Composed(ComposedOptions(body=small), SIGNATURE))


def update(objective: GAN, images: Tensor) -> Any:
    generator = torch.Generator().manual_seed(0)
    return next(objective.updates(Experience({"targets": {"image": images}}), generator, Clock()))


def test_an_undecided_discriminator_costs_log_two_each() -> None:
    objective, learner = parts()
    for p in learner.discriminator.parameters():
        nn.init.zeros_(p)
    batch = update(objective, torch.rand(6, PIXELS))
    counts = objective.counts(batch)
    for step, names in zip(objective.steps(learner), [("real", "generated"), ("deceived",)]):
        terms = step.loss(learner, batch, counts).terms
        assert tuple(terms) == names
        for name in names:
            assert float(terms[name].sum.detach() / counts[name]) == pytest.approx(math.log(2), rel=1e-6)


def test_losses_are_those_of_the_paper() -> None:
    objective, learner = parts()
    batch = update(objective, torch.rand(6, PIXELS))
    counts = objective.counts(batch)
    discriminate, generate = (step.loss(learner, batch, counts).terms for step in objective.steps(learner))
    latents = batch["latents"]
    real = learner.discriminator({"image": batch["targets"]["image"]})[0]["real"].sigmoid()
    fakes = {k: learner.model({"latent": z})[0]["image"] for k, z in latents.items()}
    judged = {k: learner.discriminator({"image": fake})[0]["real"].sigmoid() for k, fake in fakes.items()}
    torch.testing.assert_close(discriminate["real"].sum, -real.log().sum())
    torch.testing.assert_close(discriminate["generated"].sum, -(1 - judged["discriminator"]).log().sum())
    torch.testing.assert_close(generate["deceived"].sum, -judged["generator"].log().sum())


def test_the_discriminator_step_leaves_the_generator_alone() -> None:
    objective, learner = parts()
    batch = update(objective, torch.rand(6, PIXELS))
    first, _ = objective.steps(learner)
    terms = first.loss(learner, batch, objective.counts(batch)).terms
    total = terms["real"].sum + terms["generated"].sum
    assert torch.autograd.grad(total, list(learner.model.parameters()), allow_unused=True, retain_graph=True) == (
        None,
    ) * len(list(learner.model.parameters()))


def test_latents_are_drawn_anew_for_each_step_and_from_the_generator_alone() -> None:
    objective, _ = parts()
    images = torch.rand(500, PIXELS)
    batch = update(objective, images)
    first, second = batch["latents"]["discriminator"], batch["latents"]["generator"]
    assert first.shape == (500, LATENT)
    assert not torch.equal(first, second)
    assert abs(float(first.mean())) < 0.1
    assert abs(float(first.std()) - 1) < 0.1
    torch.manual_seed(5)
    assert torch.equal(update(objective, images)["latents"]["generator"], second)


def test_a_signature_that_is_no_generator_is_refused() -> None:
    label = Signature(inputs=SIGNATURE.inputs, outputs={"y": Output(form="category", size=3)})
    with pytest.raises(ComponentError, match="one input of numbers"):
        GAN(GANOptions(), label)


def test_digits() -> None:
    """What is generated moves onto the real digits: near to one of them each, and with their mean."""
    images = torch.from_numpy(load_digits().data).float() / 16
    objective, learner = parts()
    model = learner.model

    def distances() -> tuple[float, float]:
        with torch.no_grad():
            latents = torch.randn(500, LATENT, generator=torch.Generator().manual_seed(1))
            fakes = model({"latent": latents})[0]["image"]
        nearest = torch.cdist(fakes, images).min(1).values.mean()
        return float(nearest), float((fakes.mean(0) - images.mean(0)).norm())

    before = distances()
    source = LoaderSource(LoaderOptions(), {"targets": {"image": images}}, batch=64)
    learn = Learn(batch=64, lr=2e-3, optimizer=AdamOptions(betas=(0.5, 0.999)), stop=Stop(updates=600))
    Engine(objective, model, source, learn=learn).run()
    after = distances()
    assert after[0] < before[0] / 2
    assert after[1] < before[1] / 2
