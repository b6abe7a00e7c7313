"""The message catalogue: what the source says, the Chinese beside it, compiled. `make messages` runs this.

Extracts every text in `_()`, `mark()` and `ngettext()` into the .po file, keeping what is translated; then compiles it.
Ends with status 1 where a text lacks its translation.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "reinforge"
PO = SOURCE / "messages" / "zh_CN" / "LC_MESSAGES" / "reinforge.po"
MO = PO.with_suffix(".mo")
KEYWORDS = {"_": None, "mark": None, "ngettext": (1, 2)}


def extracted() -> Catalog:
    """Every text of the source that is to be translated."""
    catalog = Catalog()
    for _file, _line, text, _comments, _context in extract_from_dir(SOURCE, keywords=KEYWORDS):
        catalog.add(text)
    return catalog


def translated() -> Catalog:
    """The catalogue as it stands in the .po file."""
    with PO.open("rb") as file:
        return read_po(file, locale="zh_CN", domain="reinforge")


def compiled(catalog: Catalog) -> bytes:
    """The catalogue as gettext reads it."""
    buffer = io.BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def missing(catalog: Catalog) -> Iterator[Message]:
    """The texts without a translation."""
    for message in catalog:
        strings = message.string if isinstance(message.string, (list, tuple)) else [message.string]
        if message.id and (message.fuzzy or not all(strings)):
            yield message


def main() -> int:
    """Bring the .po and .mo files up to date."""
    template, catalog = extracted(), translated()
    # The files change only with their texts, not with the day.
    template.creation_date = catalog.creation_date
    catalog.update(template, no_fuzzy_matching=True)
    catalog.project, catalog.version, catalog.msgid_bugs_address = "reinforge", "1", "the project's issues"
    catalog.last_translator, catalog.language_team = "Reinforge", "zh_CN"
    catalog.obsolete.clear()
    with PO.open("wb") as file:
        write_po(file, catalog, sort_output=True, width=110)
    MO.write_bytes(compiled(catalog))
    untranslated = [message.id for message in missing(catalog)]
    for text in untranslated:
        print(f"not translated: {text}", file=sys.stderr)
    return 1 if untranslated else 0


if __name__ == "__main__":
    sys.exit(main())
