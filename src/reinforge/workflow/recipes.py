"""The recipes that come with the package."""

from __future__ import annotations

from reinforge.recipe import Shipped, shipped


def recipes() -> list[Shipped]:
    """The shipped recipes, by name, each with its summary and file."""
    return shipped()
