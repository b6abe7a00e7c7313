"""Encoders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import gcd
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from reinforge.errors import ComponentError
from reinforge.models.activations import ACTIVATIONS
from reinforge.models.options import CNNOptions, NatureCNNOptions
from reinforge.schema.signature import Input

_GROUPS = 8


class CNN(nn.Module):
    """Convolutional stages, each with twice the channels and half the side of the one before, and global pooling.

    Images (rows, channels, height, width) as bytes, or as float32 from 0 to 1, to (rows, features). `sequence` gives
    the last stage's places, line by line of the image: (rows, places, features), all of them there.
    """

    def __init__(self, options: CNNOptions, block: Input) -> None:
        super().__init__()
        if block.form not in ("image", "box") or len(block.shape) != 3:
            raise ComponentError(
                f"it takes images of channels, height and width, not {block.form} of shape {block.shape}",
                where="encoder 'cnn'",
                remedy="Name another encoder.",
            )
        self.stem = Convolution(options, block.shape[0], options.width, 3, options.stride)
        self.activation = ACTIVATIONS[options.activation]
        stages, before = [], options.width
        for stage in range(options.stages):
            width = options.width * 2**stage
            blocks = []
            for index in range(options.depth):
                stride = 2 if stage and not index else 1
                blocks.append(BLOCKS[options.block](options, before, width, stride))
                before = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.how, self.dropout, self.checkpointing = options.pool, options.dropout, options.checkpointing
        self.features = self.token_features = before

    def forward(self, block: Tensor) -> Tensor:
        """(rows, features)."""
        maps = self._maps(block)
        return self._drop(maps.mean((2, 3)) if self.how == "mean" else maps.amax((2, 3)))

    def sequence(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, places, features) and (rows, places) of True."""
        places = self._maps(block).flatten(2).transpose(1, 2)
        return places, torch.ones(places.shape[:2], dtype=torch.bool, device=places.device)

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, features)."""
        return self._drop(sequence.mean(1) if self.how == "mean" else sequence.amax(1))

    def _maps(self, block: Tensor) -> Tensor:
        pixels = block.float() / 255 if block.dtype == torch.uint8 else block
        # From -1 to 1, about centred, as the first layer's bias would have to learn otherwise.
        maps = self.activation(self.stem((pixels * 2 - 1).to(self.stem.convolution.weight.dtype)))
        saving = self.checkpointing and self.training and torch.is_grad_enabled()
        for stage in cast("Iterable[nn.Sequential]", self.stages):
            maps = checkpoint(stage, maps, use_reentrant=False) if saving else stage(maps)
        return maps

    def _drop(self, features: Tensor) -> Tensor:
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


class NatureCNN(nn.Module):
    """Convolutions 8x8 by 4 (32), 4x4 by 2 (64) and 3x3 (64), then a linear layer, each with a ReLU.

    Images as bytes, or float32 from 0 to 1, to (rows, features). Smaller images meet smaller kernels: a layer takes no
    more than what is left, and steps by one where a larger step would leave nothing. Source: Mnih et al., 2015.
    """

    def __init__(self, options: NatureCNNOptions, block: Input) -> None:
        super().__init__()
        if block.form not in ("image", "box") or len(block.shape) != 3:
            raise ComponentError(
                f"it takes images of channels, height and width, not {block.form} of shape {block.shape}",
                where="encoder 'nature-cnn'",
                remedy="Name another encoder.",
            )
        channels, height, width = block.shape
        layers: list[nn.Module] = []
        for filters, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            kernel = min(kernel, height, width)
            stride = stride if min(height, width) - kernel >= 2 * stride else 1
            convolution = nn.Conv2d(channels, filters, kernel, stride)
            nn.init.orthogonal_(convolution.weight, 2**0.5)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU()]
            channels, height, width = filters, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        linear = nn.Linear(channels * height * width, options.size)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        self.layers = nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())
        self.features = options.size

    def forward(self, block: Tensor) -> Tensor:
        """(rows, features)."""
        pixels = block.float() / 255 if block.dtype == torch.uint8 else block
        first = cast(nn.Conv2d, self.layers[0])
        return cast(Tensor, self.layers(pixels.to(first.weight.dtype)))


class Convolution(nn.Module):
    """A convolution that keeps height and width (up to its stride), and its normalisation."""

    def __init__(
        self, options: CNNOptions, channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            channels, width, kernel, stride, kernel // 2, groups=groups, bias=options.norm is None
        )
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.norm = _norm(options, width)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.convolution(maps)
        return maps if self.norm is None else cast(Tensor, self.norm(maps))


class Plain(nn.Module):
    """One 3x3 convolution (VGG: Simonyan and Zisserman, arXiv:1409.1556)."""

    def __init__(self, options: CNNOptions, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.only = Convolution(options, channels, width, 3, stride)
        self.activation = ACTIVATIONS[options.activation]

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.only(maps))


class Separable(nn.Module):
    """A 3x3 convolution of each channel by itself, then 1x1 over channels (MobileNet: arXiv:1704.04861)."""

    def __init__(self, options: CNNOptions, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = Convolution(options, channels, channels, 3, stride, groups=channels)
        self.pointwise = Convolution(options, channels, width, 1)
        self.activation = ACTIVATIONS[options.activation]

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.pointwise(self.activation(self.depthwise(maps))))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet: He et al., arXiv:1512.03385, figure 5, left)."""

    def __init__(self, options: CNNOptions, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(self._convolutions(options, channels, width, stride))
        same = channels == width and stride == 1
        self.shortcut = None if same else Convolution(options, channels, width, 1, stride)
        self.activation = ACTIVATIONS[options.activation]

    def _convolutions(self, options: CNNOptions, channels: int, width: int, stride: int) -> list[Convolution]:
        return [Convolution(options, channels, width, 3, stride), Convolution(options, width, width, 3)]

    def forward(self, maps: Tensor) -> Tensor:
        inner = maps
        for index, convolution in enumerate(self.convolutions):
            inner = convolution(self.activation(inner) if index else inner)
        return self.activation(inner + (maps if self.shortcut is None else self.shortcut(maps)))


class Bottleneck(Residual):
    """1x1 to a quarter of the channels, 3x3, 1x1 back, beside a shortcut (the same, right)."""

    def _convolutions(self, options: CNNOptions, channels: int, width: int, stride: int) -> list[Convolution]:
        narrow = max(width // 4, 1)
        return [
            Convolution(options, channels, narrow, 1),
            Convolution(options, narrow, narrow, 3, stride),
            Convolution(options, narrow, width, 1),
        ]


BLOCKS: dict[str, Callable[[CNNOptions, int, int, int], nn.Module]] = {
    "plain": Plain, "residual": Residual, "bottleneck": Bottleneck, "separable": Separable,
}  # fmt: skip


def _norm(options: CNNOptions, width: int) -> nn.Module | None:
    match options.norm:
        case "group":
            return nn.GroupNorm(gcd(_GROUPS, width), width)
        case "layer":
            return nn.GroupNorm(1, width)
        case "batch":
            return nn.BatchNorm2d(width)
        case None:
            return None
