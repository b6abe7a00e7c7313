"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from reinforge.registry import Options, register

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Fill = Literal["black", "edge", "reflect"]
_FILL = "What comes in from outside: black, the edge's own colour, or the picture mirrored."


class ImageAugmentation(Options):
    """What every augmentation of images has."""

    inputs: tuple[str, ...] | None = Field(None, description="Images to change, all alike; by default every one.")
    probability: Probability = Field(1.0, description="Part of the rows that are changed.")


@register("augmentation", "reinforge.data.augmentation.geometry:Flip")
class FlipOptions(ImageAugmentation):
    """Mirror images, each direction by its own draw."""

    kind: Literal["flip"] = "flip"
    horizontal: Probability = Field(0.5, description="Part of the rows whose left and right change places.")
    vertical: Probability = Field(0.0, description="Part of the rows whose top and bottom change places.")


@register("augmentation", "reinforge.data.augmentation.geometry:Rotate")
class RotateOptions(ImageAugmentation):
    """Turn images about their middle."""

    kind: Literal["rotate"] = "rotate"
    degrees: float = Field(10.0, ge=0, le=180, description="Largest angle, to either side.")
    fill: Fill = Field("black", description=_FILL)


@register("augmentation", "reinforge.data.augmentation.geometry:Scale")
class ScaleOptions(ImageAugmentation):
    """Make what is in the images smaller or larger; the logarithm of the factor is uniform."""

    kind: Literal["scale"] = "scale"
    low: PositiveFloat = Field(0.9, description="Smallest factor; below 1 the picture shrinks.")
    high: PositiveFloat = Field(1.1, description="Largest factor.")
    fill: Fill = Field("black", description=_FILL)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


@register("augmentation", "reinforge.data.augmentation.geometry:Crop")
class CropOptions(ImageAugmentation):
    """Take a window out of each image and make it as large as the image was."""

    kind: Literal["crop"] = "crop"
    area: Fraction = Field(0.6, description="Smallest part of the image's area; the part is uniform up to 1.")
    ratio: float = Field(4 / 3, ge=1, description="Largest change of proportions, to either side.")


@register("augmentation", "reinforge.data.augmentation.geometry:Shift")
class ShiftOptions(ImageAugmentation):
    """Move images by whole pixels."""

    kind: Literal["shift"] = "shift"
    by: Fraction = Field(0.1, description="Largest move to each side, as a part of the width and of the height.")
    fill: Fill = Field("black", description=_FILL)


@register("augmentation", "reinforge.data.augmentation.pixels:Noise")
class NoiseOptions(ImageAugmentation):
    """Add normal noise to every pixel and channel."""

    kind: Literal["noise"] = "noise"
    deviation: NonNegativeFloat = Field(0.05, description="Standard deviation, as a part of the range from 0 to 255.")


@register("augmentation", "reinforge.data.augmentation.pixels:Erase")
class EraseOptions(ImageAugmentation):
    """Cover a rectangle of each image (Zhong et al., 2020; DeVries and Taylor, 2017)."""

    kind: Literal["erase"] = "erase"
    low: Fraction = Field(0.02, description="Smallest part of the area.")
    high: Fraction = Field(0.2, description="Largest part of the area.")
    ratio: float = Field(3.0, ge=1, description="How much longer than wide it may be, or wider than long.")
    value: Annotated[int, Field(ge=0, le=255)] = Field(0, description="What covers it, from 0 (black) to 255.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


@register("augmentation", "reinforge.data.augmentation.colour:Colour")
class ColourOptions(ImageAugmentation):
    """Change brightness, contrast, saturation and hue, in this order; grey images have only the first two."""

    kind: Literal["colour"] = "colour"
    brightness: Fraction | Literal[0] = Field(0.2, description="The factor is from 1 less this to 1 plus this.")
    contrast: Fraction | Literal[0] = Field(0.2, description="The same, of the distance to the image's mean grey.")
    saturation: Fraction | Literal[0] = Field(0.2, description="The same, of the distance to the pixel's grey.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Largest turn of the colours to either side; 1 is a whole turn.")


class Mixing(Options):
    """What the augmentations that mix rows have."""

    inputs: tuple[str, ...] | None = Field(
        None, description="Inputs to mix; by default all. Labels are mixed in proportion."
    )
    alpha: PositiveFloat = Field(description="The share follows a Beta(alpha, alpha) distribution.")
    probability: Probability = Field(1.0, description="Part of the rows that are mixed.")


@register("augmentation", "reinforge.data.augmentation.mixing:Mixup")
class MixupOptions(Mixing):
    """Mix each row with another of its batch, and their labels alike (Zhang et al., 2018)."""

    kind: Literal["mixup"] = "mixup"
    alpha: PositiveFloat = Field(0.2, description="The share follows Beta(alpha, alpha); the row keeps the greater.")


@register("augmentation", "reinforge.data.augmentation.mixing:Cutmix")
class CutmixOptions(Mixing):
    """Show a rectangle of another image of the batch in each, and mix the labels by area (Yun et al., 2019)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: PositiveFloat = Field(1.0, description="The part of the area follows Beta(alpha, alpha).")


class TextAugmentation(Options):
    """What every augmentation of texts has. The first and the last token stay: they may mark begin and end."""

    inputs: tuple[str, ...] | None = Field(None, description="Texts to change; by default every one.")
    probability: Probability = Field(1.0, description="Part of the rows that are changed.")


@register("augmentation", "reinforge.data.augmentation.tokens:TokenNoise")
class TokenNoiseOptions(TextAugmentation):
    """Misspell: letters with the tokenizer `character`, whole words or pieces of them with the others.

    It works on tokens, in batches: with words, a letter of one can't be changed.
    """

    kind: Literal["token-noise"] = "token-noise"
    swap: Probability = Field(0.02, description="Part of the tokens that change places with the next.")
    delete: Probability = Field(0.02, description="Part of the tokens that are left out.")
    replace: Probability = Field(0.02, description="Part of the tokens replaced by another one of the same text.")

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.swap + self.delete + self.replace > 1:
            raise ValueError("swap, delete and replace are parts of the tokens: together at most 1")
        return self


@register("augmentation", "reinforge.data.augmentation.tokens:TokenDropout")
class TokenDropoutOptions(TextAugmentation):
    """Hide tokens, so that no single one decides."""

    kind: Literal["token-dropout"] = "token-dropout"
    part: Probability = Field(0.1, description="Part of the tokens that are hidden.")
    token: NonNegativeInt = Field(0, description="What stands in for them; 0 is the unknown one of our tokenizers.")
