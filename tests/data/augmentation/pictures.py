"""What the tests of augmentations of images share."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from reinforge.data.augmentation.augment import Augment
from reinforge.registry import Options
from reinforge.schema.signature import Input, Output, Signature


def pictures(*shape: int) -> Tensor:
    """Random ones, uint8."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(images: Tensor, *options: Options, seed: int = 0, epoch: int = 0) -> Tensor:
    """The images after a list of augmentations; the rows are called 0, 1, 2, ..."""
    signature = Signature(
        inputs={"image": Input(form="image", shape=tuple(images.shape[1:]))},
        outputs={"y": Output(form="category", size=3)},
    )
    batch = {"inputs": {"image": images}, "targets": {"y": torch.arange(len(images)) % 3}, "valid": {}}
    found = Augment(options, signature).apply(batch, torch.arange(len(images)), seed, epoch)
    return cast(Any, found)["inputs"]["image"]
