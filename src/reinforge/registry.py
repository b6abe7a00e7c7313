"""Names for components. Each declares its options, free of torch, and is imported only when built."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from reinforge.errors import ComponentError
from reinforge.messages import _


class Options(BaseModel):
    """Base of every set of options. A component's own options add `kind: Literal["its-name"] = "its-name"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def default_kinds(cls, value: object) -> object:
        """Options of a component without its kind are those of the component that stands there by default."""
        if not isinstance(value, Mapping):
            return value
        missing = {key: options for key, part in value.items() if (options := cls.by_default(key, part)) is not None}
        kinds = {key: options.model_fields["kind"].default for key, options in missing.items()}
        return {**value, **{key: {"kind": kind, **value[key]} for key, kind in kinds.items()}} if kinds else value

    @classmethod
    def by_default(cls, key: str, part: object) -> type[Options] | None:
        """The options that `part`, the section of a field, is of by default: None unless it leaves its kind out."""
        field = cls.model_fields.get(key)
        default = field.default if field is not None else None
        if not isinstance(part, Mapping) or "kind" in part or not isinstance(default, Options):
            return None
        return type(default) if "kind" in type(default).model_fields else None


Declared = TypeVar("Declared", bound=Options)

# The rooms that declare components. Each module is free of torch. Named as text, because the registry stands
# on the ground floor and may not import upwards.
BUILTIN = (
    "reinforge.data.options",
    "reinforge.data.language_options",
    "reinforge.data.augmentation.options",
    "reinforge.models.options",
    "reinforge.models.decoder_options",
    "reinforge.models.policy_options",
    "reinforge.models.scorer_options",
    "reinforge.models.classic.options",
    "reinforge.environments.options",
    "reinforge.sources.options",
    "reinforge.data.reward_options",
    "reinforge.data.interaction_options",
    "reinforge.objectives.options",
    "reinforge.objectives.reward_options",
    "reinforge.engine.options",
    "reinforge.evaluation.options",
)
ENTRY_POINTS = "reinforge.components"


@dataclass(frozen=True)
class Component:
    """One registered component. `target` is "module:attribute", or the callable itself."""

    kind: str
    name: str
    options: type[Options]
    target: str | Callable[..., Any]

    def load(self) -> Callable[..., Any]:
        """Import and return what builds the component. Raises ComponentError where the target is wrong."""
        if callable(self.target):
            return self.target
        module, _colon, attribute = self.target.partition(":")
        try:
            loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except AttributeError as error:
            raise ComponentError(f"{self.target!r} does not exist", where=f"{self.kind} {self.name!r}") from error
        return loaded


@dataclass
class Registry:
    """Components by kind and name, loaded on first use from this package and from installed entry points."""

    _components: dict[tuple[str, str], Component] = field(default_factory=dict)
    _loaded: bool = False
    version: int = 0

    def register(self, kind: str, target: str | Callable[..., Any]) -> Callable[[type[Declared]], type[Declared]]:
        """Class decorator on a set of options: `@register("objective", "package.module:Class")`."""

        def add(options: type[Declared]) -> type[Declared]:
            name = options.model_fields["kind"].default if "kind" in options.model_fields else None
            if not isinstance(name, str):
                raise ComponentError(
                    "its options need a field `kind` with its name as default",
                    where=f"{kind} {options.__name__}",
                    remedy='Add: kind: Literal["my-name"] = "my-name"',
                )
            standing = self._components.get((kind, name))
            if standing is not None and standing.options.__qualname__ != options.__qualname__:
                raise ComponentError(f"{kind} {name!r} is registered already", remedy="Choose another name.")
            self._components[kind, name] = Component(kind, name, options, target)
            self.version += 1
            return options

        return add

    def find(self, kind: str, name: str) -> Component:
        """The component of that kind and name. Raises ComponentError with the nearest names."""
        self._load()
        try:
            return self._components[kind, name]
        except KeyError:
            names = [component.name for component in self.all(kind)]
            near = difflib.get_close_matches(name, names, 1)
            known = _("Known: {names}.").format(names=", ".join(names) or _("none"))
            hint = _("Did you mean {name!r}?").format(name=near[0]) if near else known
            raise ComponentError(
                _("there is no {kind} called {name!r}").format(kind=kind, name=name), remedy=hint
            ) from None

    def all(self, kind: str) -> list[Component]:
        """Every component of a kind, by name."""
        self._load()
        return sorted((c for c in self._components.values() if c.kind == kind), key=lambda c: c.name)

    def kinds(self) -> Iterator[str]:
        """The kinds that have components."""
        self._load()
        yield from sorted({component.kind for component in self._components.values()})

    def build(self, kind: str, options: Options, *arguments: Any, **keywords: Any) -> Any:
        """Build a component: its target is called with its options first."""
        return self.find(kind, getattr(options, "kind", "")).load()(options, *arguments, **keywords)

    def _load(self) -> None:
        if self._loaded:
            return
        for module in BUILTIN:
            importlib.import_module(module)
        for entry in entry_points(group=ENTRY_POINTS):
            entry.load()
        self._loaded = True


REGISTRY = Registry()
register = REGISTRY.register
