"""A report's parts on a policy: warnings of its training, and the clip of it at work."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image

from reinforge.evaluation.diagnosis import Row, told
from reinforge.evaluation.report_html import figures, section
from reinforge.messages import _


def warnings(rows: Iterable[Row]) -> str:
    """What went wrong while training, with what to do; nothing where nothing did."""
    shown = []
    for finding in told(rows):
        symptom, remedy = finding.parts()
        shown.append(f"<li><strong>{escape(symptom)}</strong> {escape(remedy)}</li>")
    return section(_("Warnings"), f'<ul class="warnings">{"".join(shown)}</ul>') if shown else ""


def at_work(clip: bytes) -> str:
    """The clip (an animated WebP) inside the page; its first frame alone on paper, and for whoever wants no motion."""
    told = escape(_("The final policy plays."))
    still, width, height = _still(clip)
    picture = (
        f'<picture><source media="print, (prefers-reduced-motion: reduce)" srcset="{_embedded(still, "png")}">'
        f'<img class="clip" src="{_embedded(clip, "webp")}" alt="{told}" width="{width}" height="{height}"></picture>'
    )
    drawn = f'<figure class="clip"><figcaption><h4>{told}</h4></figcaption>\n{picture}</figure>'
    return section(_("The policy at work"), figures([drawn]))


def _still(clip: bytes) -> tuple[bytes, int, int]:
    """The first frame as PNG, and its size."""
    with Image.open(io.BytesIO(clip)) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), picture.width, picture.height


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
