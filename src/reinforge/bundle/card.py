"""card.md: what a bundle is, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reinforge.schema.fields import Field

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle


def card(bundle: Bundle, numbers: int) -> str:
    """The model card in Markdown. `numbers`: how many weights there are."""
    stated = bundle.provenance if isinstance(bundle.provenance, dict) else {}
    kind = getattr(bundle.blueprint.options, "kind", bundle.blueprint.module)
    lines = [f"# {_escape(str(stated.get('name', 'A Reinforge bundle')))}", ""]
    lines += [f"A model of kind `{kind}` with {numbers:,} weights.", ""]
    lines += ["## Inputs", "", *(_field(field) for field in bundle.schema.inputs), ""]
    lines += ["## Outputs", "", *(_field(field) for field in bundle.schema.targets), ""]
    metrics = stated.get("metrics")
    if isinstance(metrics, dict) and metrics:
        lines += ["## Measured", "", "| metric | value |", "| --- | --- |"]
        lines += [f"| {_escape(str(name))} | {_shown(value)} |" for name, value in metrics.items()] + [""]
    if bundle.parents:
        lines += ["## Tuned from", "", *(f"- `{parent}`" for parent in bundle.parents), ""]
    lines += ["## Use", "", "    reinforge predict BUNDLE --data FILE", "    reinforge serve BUNDLE", ""]
    return "\n".join(lines)


def _field(field: Field) -> str:
    details = []
    labels = getattr(field, "labels", ())
    if labels:
        details.append(", ".join(_escape(label) for label in labels[:20]) + (", ..." if len(labels) > 20 else ""))
    if getattr(field, "shape", ()):
        details.append(f"shape {field.shape}")  # type: ignore[union-attr]
    if field.kind == "discrete":
        details.append(f"{field.n} actions")
    missing = getattr(field, "missing", None)
    if missing is not None and field.role == "input":
        details.append(f"missing: {missing}")
    return f"- `{_escape(field.name)}`: {field.kind}" + (f" ({'; '.join(details)})" if details else "")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _escape(str(value))


def _escape(text: str) -> str:
    """Names come from data: they must not become Markdown or HTML."""
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;"), ("\n", " ")):
        text = text.replace(mark, safe)
    return text
