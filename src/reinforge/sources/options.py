"""Options of the components of this room, free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reinforge.registry import Options, register


@register("source", "reinforge.sources.loader:LoaderSource")
class LoaderOptions(Options):
    """Batches from data in memory, epoch after epoch."""

    kind: Literal["loader"] = "loader"
    shuffle: bool = Field(True, description="A new order in each epoch, drawn from the seed and the epoch's number.")
    drop_last: bool = Field(False, description="Leave out an epoch's last batch where it is short.")


@register("source", "reinforge.sources.loader:IterableSource")
class IterableOptions(Options):
    """Batches from an iterable of the caller's, given in Python."""

    kind: Literal["iterable"] = "iterable"
    repeatable: bool | None = Field(
        None, description="Each pass gives the same batches, so resuming is exact; by default, where it is a sequence."
    )
