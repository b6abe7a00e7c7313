"""Options of classic models, free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from reinforge.registry import Options, register


class ClassicOptions(Options):
    """What all models share that scikit-learn fits at once (extra `data`)."""


@register("model", "reinforge.models.classic.linear:Linear")
class LinearOptions(ClassicOptions):
    """A weight for each number and each label of a category: logistic, ridge or Poisson regression."""

    kind: Literal["linear"] = "linear"
    l2: PositiveFloat = Field(
        1.0, description="Weight of half the squared weights beside the summed loss of the rows: shrinks them to 0."
    )


class Grown(Options):
    """How large an output's trees became."""

    nodes: PositiveInt = Field(description="Nodes of all trees together.")
    trees: NonNegativeInt = Field(description="Trees.")
    values: PositiveInt = Field(description="Numbers in a leaf.")
    sets: NonNegativeInt = Field(description="Splits by a set of labels.")
    codes: NonNegativeInt = Field(description="Labels that such a split knows of.")
    depth: NonNegativeInt = Field(description="Splits above the deepest leaf.")


class TreesOptions(ClassicOptions):
    """What models made of trees share."""

    grown: dict[str, Grown] = Field(
        {}, description="How large each output's trees became, as a bundle keeps it; nothing for a recipe to say."
    )


@register("model", "reinforge.models.classic.trees:Tree")
class TreeOptions(TreesOptions):
    """One decision tree, as rules that people can read."""

    kind: Literal["tree"] = "tree"
    depth: PositiveInt | None = Field(4, description="The most questions before an answer; any number where null.")
    leaf_rows: PositiveInt = Field(5, description="The fewest training rows behind an answer.")


@register("model", "reinforge.models.classic.trees:Forest")
class ForestOptions(TreesOptions):
    """The mean of many decision trees, each grown on rows drawn anew (Breiman, 2001)."""

    kind: Literal["forest"] = "forest"
    trees: PositiveInt = Field(200, description="How many.")
    depth: PositiveInt | None = Field(None, description="The most questions before an answer; any number where null.")
    leaf_rows: PositiveInt = Field(1, description="The fewest training rows behind an answer.")


@register("model", "reinforge.models.classic.trees:Boosting")
class BoostingOptions(TreesOptions):
    """Trees one after another, each grown on what those before left over: histogram gradient boosting."""

    kind: Literal["boosting"] = "boosting"
    rounds: PositiveInt = Field(
        300, description="The most trees for each value or class; those after the least validation loss are dropped."
    )
    rate: PositiveFloat = Field(0.1, description="How much of each tree counts.")
    leaves: int = Field(31, ge=2, description="The most leaves of a tree.")
    leaf_rows: PositiveInt | None = Field(
        None, description="The fewest training rows behind a leaf; a twentieth of them, from 2 to 20, where null."
    )
    l2: NonNegativeFloat = Field(0.0, description="Shrinks the leaves' values.")
