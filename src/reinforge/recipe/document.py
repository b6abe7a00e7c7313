"""A recipe as it was written: plain data, and where each value stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from reinforge.errors import RecipeError
from reinforge.messages import _

# Keys of sections and indices of lists, from the outside in.
Path = tuple[str | int, ...]


@dataclass
class Document:
    """Plain data with the place ("recipe.yaml:12", "override 'learn.lr=1'") where each value was written.

    `name` stands for the whole, where nothing nearer is known.
    """

    name: str
    data: dict[str, object]
    places: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """Where the value at `path` was written, or else the nearest section around it."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, self.name)

    def set(self, path: Path, value: object, place: str) -> None:
        """Write `value` at `path`, making sections on the way.

        In a list an item goes by its index or its `name`. Another `kind` of component drops the options of the one
        before. Raises RecipeError where a value on the way has no keys.
        """
        node: object = self.data
        resolved: Path = ()
        for key in path[:-1]:
            resolved = (*resolved, _key(node, key, resolved, place))
            child = _item(node, resolved[-1])
            if child is None or isinstance(child, str):
                # A component may be written as its name alone.
                child = {} if child is None else {"kind": child}
                _put(node, resolved[-1], child)
            node = child
        last = _key(node, path[-1], resolved, place)
        if last == "kind" and isinstance(node, dict) and node.get("kind", value) != value:
            node.clear()
        _put(node, last, value)
        path = (*resolved, last)
        self._forget(path)
        self.places[path] = place

    def merged(self, path: Path, *, without: Collection[str]) -> Document:
        """The part of this document at `path`, laid over the whole (less the keys `without`)."""
        part: object = self.data
        for key in path:
            part = part[key]  # type: ignore[index]
        base = {key: value for key, value in self.data.items() if key not in without}
        merged = Document(self.place(path), {}, {p: place for p, place in self.places.items() if p[:1] != path[:1]})
        merged.data = _lay_over(base, part if isinstance(part, dict) else {})
        for p, place in self.places.items():
            if p[: len(path)] == path and len(p) > len(path):
                merged.places[p[len(path) :]] = place
        return merged

    def _forget(self, path: Path) -> None:
        for known in [p for p in self.places if p[: len(path)] == path]:
            del self.places[known]


def copy(value: object) -> object:
    """Mappings and lists copied, everything else as it is."""
    if isinstance(value, Mapping):
        return {key: copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy(item) for item in value]
    return value


def dotted(path: Path) -> str:
    """The path as people write it: learn.optimizer.lr."""
    return ".".join(str(key) for key in path)


def _lay_over(base: object, part: dict[str, object]) -> dict[str, object]:
    """`part` over `base`, section by section; another kind of component replaces the one before."""
    if isinstance(base, str):
        base = {"kind": base}
    if not isinstance(base, Mapping) or base.get("kind", part.get("kind")) != part.get("kind", base.get("kind")):
        return {key: copy(value) for key, value in part.items()}
    merged = {key: copy(value) for key, value in base.items()}
    for key, value in part.items():
        merged[key] = _lay_over(merged.get(key), value) if isinstance(value, dict) else copy(value)
    return merged


def _key(node: object, key: str | int, path: Path, place: str) -> str | int:
    """The key as `node` knows it: of a list, an index. Raises RecipeError where there is no such item."""
    if isinstance(node, dict):
        return key
    if not isinstance(node, list):
        raise RecipeError(
            _("it is no section, so it has no key {key!r}").format(key=str(key)), where=f"{place}: {dotted(path)}"
        )
    names = [item.get("name") if isinstance(item, dict) else None for item in node]
    if key in names:
        return names.index(key)
    if str(key).isdecimal() and int(key) < len(node):
        return int(key)
    known = ", ".join(str(index if name is None else name) for index, name in enumerate(names))
    raise RecipeError(
        _("the list has no item {key!r}").format(key=str(key)),
        where=f"{place}: {dotted(path)}",
        remedy=_("Known: {names}.").format(names=known or _("none")),
    )


def _item(node: object, key: str | int) -> object:
    if isinstance(node, dict):
        return node.get(key)
    return node[key] if isinstance(node, list) and isinstance(key, int) else None


def _put(node: object, key: str | int, value: object) -> None:
    if isinstance(node, dict) or (isinstance(node, list) and isinstance(key, int)):
        node[key] = value  # type: ignore[index]
