"""`prepare`: read and check a recipe's data, fit the pipeline, and tell what training would see."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.core.seeds import derive
from reinforge.data.options import TableOptions, TextOptions
from reinforge.data.prepared import Prepared, save
from reinforge.data.streaming import stream
from reinforge.data.text import TextData, prepare_text
from reinforge.environments.build import build, is_native
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import RecipeError
from reinforge.evaluation.data_card import render
from reinforge.messages import _, mark
from reinforge.recipe import Recipe, load
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Signature
from reinforge.storage import strict_json
from reinforge.storage.files import write_atomic
from reinforge.workflow.columns import aligned
from reinforge.workflow.described import card_of, classes_of, sides_of
from reinforge.workflow.progress import Progress, Silent

# How long a random policy may play, for what it gets by chance.
RANDOM_EPISODES, RANDOM_SECONDS = 20, 2.0

Facts = Mapping[str, Any]

# What facts are called, in words.
FACTS = {
    "from": mark("from"),
    "digest": mark("digest"),
    "vocabulary": mark("vocabulary"),
    "sample": mark("sample"),
    "environment": mark("environment"),
    "vectorised_itself": mark("vectorised itself"),
    "exact": mark("exact"),
    "steps_per_second": mark("steps per second"),
    "random_return": mark("random return"),
    "random_episodes": mark("random episodes"),
}
ROLES = {"input": mark("input"), "target": mark("target")}


@dataclass(frozen=True)
class Preparation:
    """What a recipe's data are, before any training.

    `sides`: rows (of a text, tokens) by split. `fields`: one mapping each, inputs first. `classes`: by target, label
    and side, how many rows. `facts`: what this kind of data tells besides. `prepared` is the data itself, ready for
    training; None for an environment. `output`: where all this was written, if it was.
    """

    name: str
    kind: str
    facts: Facts
    sides: Mapping[str, int]
    fields: tuple[Facts, ...]
    classes: Mapping[str, Mapping[str, Mapping[str, int]]]
    blocks: Facts
    notes: tuple[str, ...]
    prepared: object = field(repr=False, compare=False, default=None)
    output: Path | None = None

    def summary(self) -> dict[str, Any]:
        """All of it as JSON can say it."""
        return {
            "name": self.name,
            "kind": self.kind,
            **self.facts,
            "sides": dict(self.sides),
            "fields": [dict(f) for f in self.fields],
            "classes": {t: {label: dict(n) for label, n in by.items()} for t, by in self.classes.items()},
            "blocks": dict(self.blocks),
            "notes": list(self.notes),
            **({"output": str(self.output)} if self.output else {}),
        }

    def text(self) -> str:
        """The same for people, as Markdown."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from (f"# {self.name}", "")
        facts = [(_(FACTS[name]) if name in FACTS else name, _plain(value)) for name, value in self.facts.items()]
        yield from (f"- {name}: {value}" for name, value in [(_("kind"), self.kind), *facts])
        if self.sides:
            whole = max(sum(self.sides.values()), 1)
            yield from _heading(_("Split"))
            yield from aligned([(_(side), f"{n:,}", f"{n / whole:.1%}") for side, n in self.sides.items()])
        if self.fields:
            yield from _heading(_("Fields"))
            yield from aligned([_field_row(f) for f in self.fields])
        for target, labels in self.classes.items():
            sides = list(dict.fromkeys(side for counts in labels.values() for side in counts))
            yield from _heading(_("Classes of {target}").format(target=target))
            rows = [(label, *(f"{counts.get(side, 0):,}" for side in sides)) for label, counts in labels.items()]
            yield from aligned([("", *map(_, sides)), *rows])
        if self.notes:
            yield from (*_heading(_("Notes")), *(f"- {note}" for note in self.notes))


def prepare(
    recipe: str | Path | Mapping[str, object] | Recipe,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    data: object = None,
    output: str | Path | None = None,
    use: Iterable[str | Path] = (),
    progress: Progress | None = None,
) -> Preparation:
    """Read and check the data of a recipe and fit its pipeline to the training rows; nothing is trained.

    `data`, a table in memory, stands in for the recipe's own. `output`: a file for what was found, by its name's end
    JSON (.json), Markdown (.md) or, for a table, the data card (.html); else a new folder with card and prepared
    table, which `data.path` of a recipe takes. Raises RecipeError and DataError as training would.
    """
    shown = progress or Silent()
    whole = load(recipe, overrides, use=use)
    shown.update(0, 1, _("reading"))
    if data is None and isinstance(whole.data, TableOptions) and whole.data.stream and not whole.data.rows:
        return _streamed(whole, whole.data, output)
    found = _prepared(whole, data)
    shown.update(1, 1, _("read"))
    if output is None:
        return found
    target = Path(output)
    found = Preparation(**{**vars(found), "output": target})
    if target.suffix.lower() == ".json":
        write_atomic(target, strict_json.pretty(found.summary()))
    elif target.suffix.lower() == ".md":
        write_atomic(target, found.text())
    else:
        _write_table(found, whole, target)
    return found


def _streamed(recipe: Recipe, options: TableOptions, output: str | Path | None) -> Preparation:
    """A table in pieces, written to a new folder. Raises RecipeError where `output` is none."""
    if output is None or Path(output).suffix.lower() in (".json", ".md", ".html", ".htm"):
        raise RecipeError(
            _("a table in pieces is written to a folder"),
            where="data.stream",
            remedy=_("Name one: reinforge prepare RECIPE -o FOLDER."),
        )

    def page(prepared: Prepared) -> dict[str, str]:
        return {"data-card.html": render(card_of(recipe, prepared))}

    prepared = stream(options, Path(output), seed=recipe.seed, page=page)
    return Preparation(**{**vars(_table(recipe, prepared)), "output": Path(output)})


def _write_table(found: Preparation, recipe: Recipe, target: Path) -> None:
    """The data card alone, or in a folder with the prepared table. Raises RecipeError for what is no table."""
    if not isinstance(found.prepared, Prepared):
        raise RecipeError(
            _("only a table has a data card and is prepared as a folder"),
            where=str(target),
            remedy=_("Choose an output that ends in .json or .md."),
        )
    page = render(card_of(recipe, found.prepared))
    if target.suffix.lower() in (".html", ".htm"):
        write_atomic(target, page)
        return
    save(found.prepared, target, recipe.data, {"name": found.name}, {"data-card.html": page})


def _prepared(recipe: Recipe, data: object) -> Preparation:
    options = recipe.data
    if isinstance(options, EnvironmentOptions):
        return _environment(recipe, options)
    if isinstance(options, TextOptions):
        return _text(recipe, prepare_text(options))
    given = {} if data is None else {"data": data}
    return _table(recipe, REGISTRY.build("data", options, seed=recipe.seed, **given))


def _table(recipe: Recipe, prepared: Prepared) -> Preparation:
    # Where it stands matters more than how it is written: what is left at its default says nothing.
    fields = tuple(f.model_dump(mode="json", exclude_defaults=True) | {"kind": f.kind} for f in prepared.schema.fields)
    where = getattr(recipe.data, "path", None)
    facts = {"from": where or _("memory"), "digest": prepared.digest}
    return Preparation(
        recipe.name,
        str(getattr(recipe.data, "kind", "table")),
        facts,
        sides_of(prepared),
        tuple({"role": "input", **f} for f in fields),
        classes_of(prepared),
        _blocks(prepared.signature),
        prepared.notes,
        prepared,
    )


def _text(recipe: Recipe, data: TextData) -> Preparation:
    tokenizer = data.pipeline.tokenizer
    facts = {
        "from": data.origin,
        "digest": data.digest,
        "vocabulary": tokenizer.size,
        "sample": tokenizer.decode(data.training[:80]),
    }
    sides = {"train": len(data.training), "validation": len(data.validation)}
    blocks = _blocks(data.pipeline.signature)
    return Preparation(recipe.name, "text", facts, sides, (), {}, blocks, (), data)


def _environment(recipe: Recipe, options: EnvironmentOptions) -> Preparation:
    environments = build(options, seed=derive(recipe.seed, "prepare"))
    notes = [] if environments.exact else [_("its state can't be restored bit for bit, so resuming is not exact")]
    copies = environments.count
    returns: list[float] = []
    # Each copy plays as many, or short episodes would count for more.
    quota = np.full(copies, -(-RANDOM_EPISODES // copies))
    totals, steps, began = np.zeros(copies), 0, time.perf_counter()
    output = environments.signature.outputs["action"]
    generator = np.random.default_rng(derive(recipe.seed, "random"))
    try:
        environments.reset()
        while quota.any() and time.perf_counter() - began < RANDOM_SECONDS:
            if output.form == "discrete":
                step = environments.step(generator.integers(output.size, size=copies))
            else:
                action = generator.uniform(output.low, output.high, (copies, output.size))
                step = environments.step(action.astype(np.float32))
            steps += int(step.valid.sum())
            totals += np.where(step.valid, step.reward, 0)
            done = step.terminated | step.truncated
            returns += totals[done & (quota > 0)].tolist()
            quota -= done & (quota > 0)
            totals[done] = 0
    finally:
        environments.close()
    seconds = time.perf_counter() - began
    facts: dict[str, Any] = {
        "environment": options.id,
        "vectorised_itself": is_native(options),
        "exact": environments.exact,
        "steps_per_second": round(steps / seconds),
    }
    if returns:
        facts |= {"random_return": float(np.mean(returns)), "random_episodes": len(returns)}
    return Preparation(recipe.name, "environment", facts, {}, (), {}, _blocks(environments.signature), tuple(notes))


def _blocks(signature: Signature) -> dict[str, Any]:
    return signature.model_dump(mode="json", exclude_defaults=True)


def _heading(title: str) -> tuple[str, str, str]:
    return ("", f"## {title}", "")


def _field_row(facts: Facts) -> tuple[str, ...]:
    details = {key: value for key, value in facts.items() if key not in ("name", "kind", "role")}
    told = ", ".join(f"{key}: {_plain(value)}" for key, value in details.items())
    return (str(facts["name"]), _(ROLES[str(facts["role"])]), str(facts["kind"]), told)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value[:12])) + (", ..." if len(value) > 12 else "")
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else repr(value)[1:-1]
