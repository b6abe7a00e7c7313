"""Help in the language of the user, on a page without colours: it must come at once."""

from __future__ import annotations

import re
import shutil
from typing import Any

from typer.core import TyperCommand, TyperGroup

from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark
from reinforge.messages.width import width

COLUMN = 24
_EVERYWHERE = (
    ("--json", mark("End the output with one JSON line.")),
    ("--help", mark("Show this and end.")),
)


class Command(TyperCommand):
    """A verb whose help is written from its parameters."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, purpose, arguments and options."""
        parameters: list[Any] = [p for p in self.params if "--help" not in p.opts]
        arguments = [p for p in parameters if p.param_type_name == "argument"]
        options = [p for p in parameters if p.param_type_name == "option"]
        usage = " ".join([ctx.command_path, *map(_argument, arguments), *map(_option, options), "[--json]"])
        rows = [(str(p.metavar), _said(p.help)) for p in arguments]
        told = [(", ".join(p.opts) + ("" if p.is_flag else f" {p.metavar}"), _described(p)) for p in options]
        told += [(name, _(text)) for name, text in _EVERYWHERE]
        parts = [_("Usage: {usage}").format(usage=usage), "", *_wrapped(_said(self.help), 0)]
        if rows:
            parts += ["", _("Arguments:"), *_listed(rows)]
        formatter.write("\n".join([*parts, "", _("Options:"), *_listed(told), ""]))


class Group(TyperGroup):
    """The command itself: lists its verbs, and knows what a mistyped one might have meant."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, purpose, verbs and options."""
        commands = [(name, _said(self.commands[name].help)) for name in self.commands]
        options = [("--version", _("Show the version and end.")), *((name, _(text)) for name, text in _EVERYWHERE)]
        more = _("{command} VERB --help tells more about a verb.").format(command=ctx.command_path)
        usage = _("Usage: {usage}").format(usage=f"{ctx.command_path} VERB ...")
        parts = [usage, "", *_wrapped(_said(self.help), 0), "", _("Verbs:"), *_listed(commands), "", _("Options:")]
        formatter.write("\n".join([*parts, *_listed(options), "", more, ""]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name. Raises ReinforgeError with the nearest where there is none."""
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(cmd_name, self.commands, 1)
            known = _("Known: {names}.").format(names=", ".join(self.commands))
            remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else known
            raise ReinforgeError(_("there is no verb {name!r}").format(name=cmd_name), remedy=remedy)
        return command


def _said(text: str | None) -> str:
    # To gettext the empty text means the catalogue's own header.
    return _(text) if text else ""


def _argument(parameter: Any) -> str:
    name = f"{parameter.metavar} ..." if parameter.nargs == -1 else str(parameter.metavar)
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    text = parameter.opts[0] if parameter.is_flag else f"{parameter.opts[0]} {parameter.metavar}"
    return text if parameter.required else f"[{text}]"


def _described(parameter: Any) -> str:
    text = _said(parameter.help)
    if parameter.default is None or parameter.is_flag:
        return text
    return _("{text} Default: {default}.").format(text=text, default=parameter.default)


def _listed(rows: list[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for name, text in rows:
        first, *rest = _wrapped(text, COLUMN) or [""]
        head = f"  {name}"
        if width(head) > COLUMN - 2:
            lines += [head, " " * COLUMN + first]
        else:
            lines.append(head + " " * (COLUMN - width(head)) + first)
        lines += [" " * COLUMN + line for line in rest]
    return lines


def _wrapped(text: str, indent: int) -> list[str]:
    """Lines that fit the terminal: broken at spaces, and between Chinese characters."""
    room = max(40, min(shutil.get_terminal_size().columns, 110) - indent)
    lines = [""]
    for piece in re.findall(r"[\u2e80-\uffef]|[^\s\u2e80-\uffef]+\s*|\s+", text):
        # A full stop never begins a line.
        if width(lines[-1]) + width(piece.rstrip()) > room and piece not in ",。;:、)":
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines if line.strip()]
