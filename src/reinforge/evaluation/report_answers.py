"""A report's part on what a language model wrote, decoded, with its rewards where it is paid."""

from __future__ import annotations

from collections import Counter
from html import escape

from reinforge.evaluation.answers import Answers, Group
from reinforge.evaluation.report_html import measured, paragraph, section, table
from reinforge.messages import _

_SHORT = 240
# Different completions of one card.
_MOST = 8


def written(found: Answers) -> str:
    """Held-out questions in a table, the last experience as a card for each group."""
    parts = []
    if found.held:
        told = _("Held-out questions, each answered with the likeliest completion.")
        header = [_("question"), _("right answer"), _("written"), _("reward")]
        body = [[_cut(e.prompt), _cut(e.answer), _cut(e.written), measured(e.reward)] for e in found.held]
        parts.append(paragraph(told, "note") + table(header, body, left=(0, 1, 2)))
    if found.groups:
        told = _("Groups of the last experience, drawn at random; equal completions together, the best rewarded first.")
        parts.append(paragraph(told, "note") + f'<div class="examples">{"".join(map(_card, found.groups))}</div>')
    if found.continued:
        told = _("Held-out beginnings, and how the model goes on: drawn, not the likeliest.")
        body = [[_cut(e.prompt), _cut(e.written)] for e in found.continued]
        parts.append(paragraph(told, "note") + table([_("beginning"), _("written")], body, left=(0, 1)))
    return section(_("What it writes"), "\n".join(parts)) if parts else ""


def _card(group: Group) -> str:
    counted = Counter(group.completions)
    order = sorted(counted, key=lambda each: (-each[1], -counted[each], each[0]))
    lines = "".join(
        f"<div><dt>{counted[text, reward]} × <code>{escape(_cut(text))}</code></dt>"
        f"<dd>{escape(measured(reward))}</dd></div>"
        for text, reward in order[:_MOST]
    )
    more = sum(counted[each] for each in order[_MOST:])
    rest = paragraph(_("and {n} more completions").format(n=more), "note") if more else ""
    mean = sum(reward for _text, reward in group.completions) / max(len(group.completions), 1)
    answer = f'<p class="truth">{escape(_("right answer"))}: <b>{escape(_cut(group.answer))}</b></p>'
    average = _("mean reward {value} of {n}").format(value=measured(mean), n=len(group.completions))
    return (
        f'<article class="example"><p class="asked"><b>{escape(_cut(group.prompt))}</b></p>'
        f'{answer}<dl class="completions">{lines}</dl>{rest}'
        f'<p class="place">{escape(average)}</p></article>'
    )


def _cut(text: str, most: int = _SHORT) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
