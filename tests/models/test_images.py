"""The convolutional encoder against networks of torch's layers built by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.contracts import Clock
from reinforge.errors import ComponentError
from reinforge.models.composed import Composed
from reinforge.models.images import CNN, NatureCNN
from reinforge.models.options import CNNOptions, ComposedOptions, NatureCNNOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.supervised import Supervised
from reinforge.schema.signature import Input, Output, Signature

IMAGE = Input(form="image", shape=(3, 12, 10))
KINDS = ["plain", "residual", "bottleneck", "separable"]


def build(**options: Any) -> CNN:
    torch.manual_seed(0)
    return CNN(CNNOptions.model_validate({"width": 8, "stages": 2, **options}), IMAGE)


def pictures(n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, 3, 12, 10), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def by_hand(convolution: Any, maps: Tensor, stride: int = 1, groups: int = 1, normed: bool = True) -> Tensor:
    weight = convolution.convolution.weight
    maps = functional.conv2d(maps, weight, convolution.convolution.bias, stride, weight.shape[-1] // 2, 1, groups)
    if not normed:
        return maps
    return functional.group_norm(maps, min(8, weight.shape[0]), convolution.norm.weight, convolution.norm.bias)


def test_residual_stages_by_hand() -> None:
    encoder = build()
    x = encoder.stem
    maps = functional.relu(by_hand(x, pictures().float() / 127.5 - 1))
    for stage, width, stride in ((0, 8, 1), (1, 16, 2)):
        block: Any = encoder.stages[stage][0]  # type: ignore[index]
        inner = functional.relu(by_hand(block.convolutions[0], maps, stride))
        inner = by_hand(block.convolutions[1], inner)
        maps = functional.relu(inner + (maps if stage == 0 else by_hand(block.shortcut, maps, 2)))
        assert maps.shape[1] == width
    torch.testing.assert_close(encoder(pictures()), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert (block.shortcut is not None) == (stage == 1)


def test_bottleneck_and_separable_by_hand() -> None:
    encoder = build(block="bottleneck", stages=1)
    stem = functional.relu(by_hand(encoder.stem, pictures().float() / 127.5 - 1))
    block: Any = encoder.stages[0][0]  # type: ignore[index]
    first, second, third = block.convolutions
    assert first.convolution.weight.shape == (2, 8, 1, 1)
    inner = functional.relu(by_hand(second, functional.relu(by_hand(first, stem))))
    expected = functional.relu(by_hand(third, inner) + stem)
    torch.testing.assert_close(encoder(pictures()), expected.mean((2, 3)), rtol=1e-4, atol=1e-5)

    encoder = build(block="separable", stages=1, norm=None, pool="max")
    stem = functional.relu(by_hand(encoder.stem, pictures().float() / 127.5 - 1, normed=False))
    block = encoder.stages[0][0]  # type: ignore[index]
    inner = functional.relu(by_hand(block.depthwise, stem, groups=8, normed=False))
    expected = functional.relu(by_hand(block.pointwise, inner, normed=False))
    torch.testing.assert_close(encoder(pictures()), expected.amax((2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", KINDS)
@pytest.mark.parametrize("norm", ["group", "layer", "batch", None])
def test_all_kinds_learn(block: str, norm: str | None) -> None:
    encoder = build(block=block, norm=norm, depth=2, activation="gelu")
    features = encoder(pictures())
    assert features.shape == (3, 16)
    weights = torch.randn(16, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((features @ weights).square().sum(), list(encoder.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)
    sequence, mask = encoder.sequence(pictures())
    assert sequence.shape == (3, 6 * 5, 16)
    assert mask.all()


def test_separable_has_far_fewer_weights_than_plain() -> None:
    sizes = {kind: sum(p.numel() for p in build(block=kind, width=64).stages.parameters()) for kind in KINDS}
    assert sizes["separable"] < sizes["plain"] / 5
    assert sizes["bottleneck"] < sizes["residual"] / 4


def test_bytes_are_parts_of_one() -> None:
    encoder = build()
    assert torch.equal(encoder(pictures()), encoder(pictures().float() / 255))


def test_any_size_of_image() -> None:
    encoder = build(stages=3, stride=2)
    assert encoder(torch.zeros(2, 3, 5, 64, dtype=torch.uint8)).shape == (2, 32)
    assert encoder(torch.zeros(2, 3, 1, 1, dtype=torch.uint8)).shape == (2, 32)


@pytest.mark.parametrize("block", KINDS)
def test_checkpointing_changes_nothing(block: str) -> None:
    results = []
    for checkpointing in (False, True):
        encoder = build(block=block, checkpointing=checkpointing)
        features = encoder(pictures())
        results.append([features, *torch.autograd.grad(features.square().sum(), list(encoder.parameters()))])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_batch_normalisation_is_declared() -> None:
    signature = Signature(inputs={"image": IMAGE}, outputs={"c": Output(form="category", size=2)})
    batch: Any = {"inputs": {"image": pictures(4)}, "targets": {"c": torch.tensor([0, 1, 1, 0])}}
    for norm, coupled in (("batch", True), ("group", False)):
        options = ComposedOptions.model_validate({"encoders": {"image": {"kind": "cnn", "width": 4, "norm": norm}}})
        objective = Supervised(SupervisedOptions(), signature)
        learner = objective.build(Composed(options, signature))
        assert objective.loss(learner, batch, objective.counts(batch)).terms["c"].coupled is coupled
    # In evaluation it uses what it has seen: a row is a row.
    learner.eval()
    assert Clock().updates == 0
    assert isinstance(learner.model.encoders["image"], CNN)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in learner.modules())


def test_only_images_are_taken() -> None:
    with pytest.raises(ComponentError, match="not numbers of shape"):
        CNN(CNNOptions(), Input(form="numbers", shape=(5,)))


def test_the_network_for_frames_by_hand() -> None:
    """Mnih et al. (2015), "Model architecture": 8x8 by 4, 4x4 by 2, 3x3 by 1, of 84 x 84 frames to 7 x 7 x 64."""
    model = NatureCNN(NatureCNNOptions(size=5), Input(form="image", shape=(4, 84, 84)))
    frames = torch.randint(0, 256, (2, 4, 84, 84), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    (last,) = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    maps = frames.float() / 255
    for layer, shape, stride in zip(convolutions, [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)], (4, 2, 1)):
        assert layer.weight.shape == shape
        maps = functional.conv2d(maps, layer.weight, layer.bias, stride).clamp(min=0)
    assert maps.shape == (2, 64, 7, 7)
    torch.testing.assert_close(model(frames), (maps.flatten(1) @ last.weight.T + last.bias).clamp(min=0))
    torch.testing.assert_close(model(frames.float() / 255), model(frames))
