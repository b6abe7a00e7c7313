"""KEY=VALUE on top of a recipe: dotted keys, YAML values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.recipe.document import Document, Path
from reinforge.recipe.yaml_form import read_value


@dataclass(frozen=True)
class Override:
    """One value for one key; `place` says for errors where it was given."""

    path: Path
    value: object
    place: str


def parse(text: str) -> Override:
    """An override from "learn.lr=3e-4". Raises RecipeError where it has no key or its value is no YAML."""
    key, equals, value = text.partition("=")
    place = _("override {text!r}").format(text=text)
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(
            _("an override is written KEY=VALUE"), where=place, remedy=_("For example: learn.lr=3e-4 or model.body=mlp")
        )
    return Override(path, read_value(value, place), place)


def apply(document: Document, overrides: Iterable[str] | Mapping[str, object]) -> None:
    """Write overrides into the document, as texts or as a mapping from dotted keys to values; of one key, the last
    counts.

    Whole sections go before what lies inside them, and a component's kind before its options, so that the order in
    which they are given never loses one.
    """
    if isinstance(overrides, Mapping):
        given = [Override(tuple(key.split(".")), value, f"override {key!r}") for key, value in overrides.items()]
    else:
        given = [parse(text) for text in overrides]
    for override in sorted(given, key=lambda o: (len(o.path), o.path[-1] != "kind")):
        document.set(override.path, override.value, override.place)


def nested(overrides: Iterable[str]) -> dict[str, object]:
    """The same as a tree of its own: ["body.sizes=[32]"] to {"body": {"sizes": [32]}}. Raises RecipeError."""
    found: dict[str, object] = {}
    for text in overrides:
        override, place = parse(text), found
        *above, last = map(str, override.path)
        for key in above:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise RecipeError(_("{key!r} is a value already").format(key=key), where=override.place)
            place = inner
        place[last] = override.value
    return found
