"""English and Chinese from one gettext catalogue.

The language is `REINFORGE_LANG` where it is set, else the locale's. English is the text in the source itself; Chinese
is `zh_CN/LC_MESSAGES/reinforge.po`, compiled by `make messages`.
"""

from __future__ import annotations

import gettext as _gettext
import locale
import os
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent
DOMAIN = "reinforge"
# In gettext's own order, after ours.
_VARIABLES = ("REINFORGE_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


def language() -> str:
    """The language to speak now: "zh_CN" or "en". What is neither falls back to English."""
    for variable in _VARIABLES:
        if value := os.environ.get(variable):
            return _nearest(value)
    return _nearest(locale.getlocale()[0] or "")


def _(text: str) -> str:
    """`text` in the language to speak now."""
    return _translations(language()).gettext(text)


def ngettext(one: str, many: str, number: int) -> str:
    """`one` or `many`, as `number` asks for, in the language to speak now."""
    return _translations(language()).ngettext(one, many, number)


def mark(text: str) -> str:
    """`text` as it is: marks what is translated later, when it is shown."""
    return text


def _nearest(value: str) -> str:
    # Chinese goes by many names: zh, zh_CN.UTF-8, zh-Hans, and Windows' "Chinese (Simplified)_China".
    return "zh_CN" if value.lower().startswith(("zh", "chinese")) else "en"


@lru_cache(maxsize=2)
def _translations(code: str) -> _gettext.NullTranslations:
    return _gettext.translation(DOMAIN, FOLDER, languages=[code], fallback=True)
