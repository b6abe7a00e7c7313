"""YAML as recipes use it: plain values only, no key twice, the line of every value kept.

The scalars are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), so that `on` and `no`
stay text and `3e-4` is a number, with underscores allowed inside whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.recipe.document import Document, Path, dotted

# A recipe is written by hand; what is larger or deeper than this is no recipe.
MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 64

_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)


_Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


class _Loader(yaml.SafeLoader):
    """Composes nodes with this module's scalars, and refuses aliases: a few of them can stand for gigabytes."""

    yaml_implicit_resolvers: _Resolvers = {}  # noqa: RUF012 - as in its base

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _("aliases are not allowed"), mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Leaves a string bare only where both this YAML and YAML 1.1 read it as a string."""

    yaml_implicit_resolvers: _Resolvers = {  # noqa: RUF012 - as in its base
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: object) -> bool:
        return True


def _list(dumper: _Dumper, items: list[object]) -> Node:
    """A list of scalars goes in one line."""
    flow = all(not isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


def _text(dumper: _Dumper, text: str) -> Node:
    """Unicode's other line breaks are folded away unless they are escaped, which only double quotes do."""
    breaks = any(character in text for character in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)

for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        # The empty scalar is null too; it goes by the empty first character.
        _characters = [*_first, ""] if _tag == "null" else list(_first)
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _characters)


def read(text: str, name: str) -> Document:
    """Parse a recipe's text; `name` is its file, for errors.

    Raises RecipeError, with file and line, for broken YAML, a key that stands twice, a tag, an alias, or a top level
    that is no section.
    """
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(_("it is too long for a recipe"), where=name)
    with _yaml_errors(name):
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    if node is None:
        raise RecipeError(_("it is empty"), where=name, remedy=_("A recipe needs at least data, model and objective."))
    if not isinstance(node, MappingNode):
        raise RecipeError(_("a recipe is made of sections: keys with values"), where=f"{name}:1")
    places: dict[Path, str] = {}
    data = _section(node, (), name, places)
    return Document(name, data, places)


def read_value(text: str, place: str) -> object:
    """Parse one value, as it stands after KEY= on a command line. Raises RecipeError naming `place`."""
    with _yaml_errors(place, lines=False):
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    return None if node is None else _value(node, (), place, {}, lines=False)


def write(data: object) -> str:
    """Plain data as YAML, in the order of its keys; `read` gives the same data back."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


@contextmanager
def _yaml_errors(name: str, *, lines: bool = True) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark is not None and lines else name
        raise RecipeError(_("this is no YAML: {problem}").format(problem=error.problem), where=where) from error
    except yaml.YAMLError as error:
        raise RecipeError(
            _("this is no YAML: {problem}").format(problem=str(error).splitlines()[0]), where=name
        ) from error
    except RecursionError as error:
        raise RecipeError(_("it is nested too deeply for a recipe"), where=name) from error


def _where(node: Node, name: str, path: Path, lines: bool) -> str:
    place = f"{name}:{node.start_mark.line + 1}" if lines else name
    return f"{place}: {dotted(path)}" if path else place


def _section(
    node: MappingNode, path: Path, name: str, places: dict[Path, str], *, lines: bool = True
) -> dict[str, object]:
    section: dict[str, object] = {}
    seen: dict[str, Node] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            raise RecipeError(_("a key must be text"), where=_where(key_node, name, path, lines))
        key = str(key_node.value)
        here = (*path, key)
        if key in seen:
            raise RecipeError(
                _("this key stands twice"),
                where=_where(key_node, name, here, lines),
                remedy=_("It stands in line {line} already.").format(line=seen[key].start_mark.line + 1)
                if lines
                else None,
            )
        seen[key] = key_node
        if lines:
            places[here] = f"{name}:{key_node.start_mark.line + 1}"
        section[key] = _value(value_node, here, name, places, lines=lines)
    return section


def _value(node: Node, path: Path, name: str, places: dict[Path, str], *, lines: bool = True) -> object:
    if len(path) > MAX_DEPTH:
        raise RecipeError(_("it is nested too deeply for a recipe"), where=_where(node, name, path[:3], lines))
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, MappingNode) and tag == "map":
        return _section(node, path, name, places, lines=lines)
    if isinstance(node, SequenceNode) and tag == "seq":
        items: list[object] = []
        for index, item in enumerate(node.value):
            if lines:
                places[*path, index] = f"{name}:{item.start_mark.line + 1}"
            items.append(_value(item, (*path, index), name, places, lines=lines))
        return items
    if isinstance(node, ScalarNode) and tag in ("null", "bool", "int", "float", "str"):
        try:
            return _scalar(tag, str(node.value))
        except ValueError as error:
            raise RecipeError(str(error), where=_where(node, name, path, lines)) from error
    raise RecipeError(
        _("tags such as {tag!r} are not allowed").format(tag=node.tag), where=_where(node, name, path, lines)
    )


def _scalar(tag: str, text: str) -> bool | int | float | str | None:
    match tag:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            digits = text.replace("_", "")
            return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)
        case "float":
            # Python spells infinity and nan without YAML's point.
            return float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1].isalpha() else float(text)
        case _:
            return text
