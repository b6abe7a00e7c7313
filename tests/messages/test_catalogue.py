"""The catalogue is complete and current, and its texts keep their placeholders."""

from __future__ import annotations

import ast
import gettext
import io
import string

import pytest
from tools import messages as catalogue

from reinforge.messages import _, language, mark, ngettext


def fields(text: str) -> list[str]:
    return sorted(name for _text, name, _form, _conversion in string.Formatter().parse(text) if name is not None)


def test_every_text_of_the_source_is_translated() -> None:
    wanted = {message.id for message in catalogue.extracted() if message.id}
    there = catalogue.translated()
    assert wanted
    assert sorted(map(str, wanted)) == sorted(str(message.id) for message in there if message.id), "run: make messages"
    assert [message.id for message in catalogue.missing(there)] == []


def test_no_text_is_hidden_from_the_catalogue() -> None:
    # Extraction reads tokens, and before Python 3.12 the parts of an f-string are none.
    wanted = [message.id for message in catalogue.extracted() if message.id]
    found = {text for text in wanted for text in ([text] if isinstance(text, str) else text)}
    hidden = [
        f"{path.relative_to(catalogue.SOURCE)}: {call.args[0].value!r}"
        for path in catalogue.SOURCE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in catalogue.KEYWORDS
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value not in found
    ]
    assert hidden == []


def test_translations_keep_their_placeholders() -> None:
    for message in catalogue.translated():
        if message.id:
            source = message.id[-1] if isinstance(message.id, tuple) else message.id
            strings = message.string if isinstance(message.string, tuple) else (message.string,)
            for translation in strings:
                assert fields(str(translation)) == fields(source), source


def test_the_compiled_catalogue_is_current() -> None:
    fresh = gettext.GNUTranslations(io.BytesIO(catalogue.compiled(catalogue.translated())))
    with catalogue.MO.open("rb") as file:
        committed = gettext.GNUTranslations(file)
    assert committed._catalog == fresh._catalog, "run: make messages"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("variables", "spoken"),
    [
        ({"REINFORGE_LANG": "zh"}, "zh_CN"),
        ({"REINFORGE_LANG": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh_CN"),
        ({"REINFORGE_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_MESSAGES": "zh_TW", "LANG": "en_US"}, "zh_CN"),
        ({"LANGUAGE": "zh:en", "LANG": "en_US"}, "zh_CN"),
        ({"REINFORGE_LANG": "fr"}, "en"),
    ],
)
def test_the_language_follows_the_environment(
    variables: dict[str, str], spoken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REINFORGE_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == spoken


def test_texts_are_spoken_in_the_language_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORGE_LANG", "en")
    assert _("Options:") == mark("Options:")
    assert ngettext("{n} row", "{n} rows", 1) == "{n} row"
    assert ngettext("{n} row", "{n} rows", 2) == "{n} rows"
    monkeypatch.setenv("REINFORGE_LANG", "zh_CN")
    assert _("Options:") == "选项："
    assert ngettext("{n} row", "{n} rows", 2) == "{n} 行"
