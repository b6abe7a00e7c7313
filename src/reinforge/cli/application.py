"""The command line as a whole: its verbs, and how each may end."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from reinforge import __version__
from reinforge.cli.chat import chat
from reinforge.cli.compress import compress
from reinforge.cli.doctor import doctor
from reinforge.cli.evaluate import evaluate
from reinforge.cli.export import export
from reinforge.cli.generate import generate
from reinforge.cli.help import Command, Group
from reinforge.cli.keys import keys
from reinforge.cli.output import Result, show, show_error, speaks
from reinforge.cli.play import play
from reinforge.cli.predict import predict
from reinforge.cli.prepare import prepare
from reinforge.cli.recipes import recipes
from reinforge.cli.report import report
from reinforge.cli.serve import serve
from reinforge.cli.sign import sign
from reinforge.cli.token import token
from reinforge.cli.train import train
from reinforge.cli.verify import verify
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark

INTERRUPTED = 130
PURPOSE = mark("One road from raw data to a deployed model: labels, text and rewards on one engine.")
# In the order of a first walk along the road.
VERBS = (
    (prepare, mark("Read and check a recipe's data, and fit the pipeline to it.")),
    (train, mark("Train a recipe, and write a run with its bundle.")),
    (evaluate, mark("Measure a bundle on data or in its environment.")),
    (play, mark("Watch a policy play, or record it.")),
    (predict, mark("Predict every row of a file.")),
    (generate, mark("Let a language model go on from prompts.")),
    (chat, mark("Talk with a language model in the terminal.")),
    (serve, mark("Serve bundles over HTTP until interrupted.")),
    (token, mark("Make a token, without which a server answers nobody.")),
    (compress, mark("Make a smaller bundle of the same model, and measure both.")),
    (export, mark("Write a bundle in the form that another program reads.")),
    (report, mark("Write a run's report.html from its log.")),
    (recipes, mark("List the recipes that come with the package, or show one.")),
    (verify, mark("Check a bundle's files, and replay its golden examples.")),
    (keys, mark("Make a pair of keys: one to sign bundles with, one to check signatures.")),
    (sign, mark("Sign a bundle, so that others can tell that it is yours and unchanged.")),
    (doctor, mark("Look at this machine; for a recipe: parameters, memory, time, and whether it fits.")),
)
# Click's base of usage errors; typer exports only what derives from it.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def application() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(
        cls=Group, help=PURPOSE, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )

    @app.callback()
    def root(version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version)] = False) -> None:
        pass

    for verb, purpose in VERBS:
        app.command(verb.__name__, cls=Command, help=purpose)(verb)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own) and return its exit status.

    A mistake of the user's gives one message and 2; a fault of ours a message, the file with its traceback, and 1.
    """
    given, as_json = _without_json(sys.argv[1:] if arguments is None else arguments)
    try:
        result = get_command(application()).main(given or ["--help"], prog_name="reinforge", standalone_mode=False)
        if isinstance(result, Result):
            if not speaks():
                return 0
            show(result, as_json=as_json)
            resume = result.values.get("resume")
            if resume:
                print(_("Interrupted. Go on with: {command}").format(command=resume), file=sys.stderr)
                return INTERRUPTED
        # Typer turns Ctrl-C into this status, or into Abort, as its version goes.
        if result == INTERRUPTED:
            raise KeyboardInterrupt
        return 0
    except ReinforgeError as error:
        show_error(error, as_json=as_json, prefix=_("Error: "))
        return error.exit_status
    except _UsageError as error:
        show_error(_usage(error), as_json=as_json, prefix=_("Error: "))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        show_error(Interrupted(_("Interrupted.")), as_json=as_json, prefix="")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - whatever was not foreseen is a fault of ours, and told as such
        show_error(_fault(error), as_json=as_json, prefix=_("Error: "))
        return 1


def _version(wanted: bool) -> None:
    if wanted:
        print(f"reinforge {__version__}")
        raise typer.Exit


def _without_json(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments less --json, which every verb takes, and whether it was there."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--json"]
    return [*kept, *arguments[end:]], len(kept) < end


def _usage(error: Exception) -> ReinforgeError:
    """Typer's complaint about the arguments, in the user's language where it is a common one."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "reinforge"
    remedy = _("See: {command} --help").format(command=command)
    parameter = getattr(error, "param", None)
    name = (parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]) if parameter else ""
    text = str(getattr(error, "message", None) or error)
    match type(error).__name__:
        case "NoSuchOption":
            near = list(getattr(error, "possibilities", None) or ())
            problem = _("there is no option {name}").format(name=getattr(error, "option_name", ""))
            remedy = _("Did you mean {name!r}?").format(name=near[0]) if near else remedy
        case "MissingParameter" if name:
            problem = _("{name} is missing").format(name=name)
        case "BadParameter" if name and "valid integer" in text:
            problem = _("{name} must be a whole number").format(name=name)
        case "BadParameter" if name:
            problem = _("{name} can't be this: {reason}").format(name=name, reason=text)
        case "BadOptionUsage" if "requires" in text:
            problem = _("{name} needs a value").format(name=getattr(error, "option_name", ""))
        case "BadOptionUsage":
            problem = _("{name} takes no value").format(name=getattr(error, "option_name", ""))
        case "UsageError" if extra := re.search(r"unexpected extra argument\S* \((.*)\)", text):
            problem = _("this is one argument too many: {argument}").format(argument=extra[1].split()[0])
        case _:
            problem = text
    return ReinforgeError(problem, remedy=remedy)


class Interrupted(ReinforgeError):
    """Ctrl-C, where there is nothing to go on with."""

    exit_status = INTERRUPTED


class Fault(ReinforgeError):
    """Something that we did not foresee."""

    exit_status = 1


def _fault(error: Exception) -> ReinforgeError:
    """Tells of a fault of ours; its traceback is kept in a file for the report."""
    kept = ""
    with contextlib.suppress(OSError):
        descriptor, kept = tempfile.mkstemp(prefix="reinforge-error-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f"reinforge {__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n")
            file.writelines(traceback.format_exception(error))
    problem = _("this is a fault of Reinforge's own: {error}").format(error=f"{type(error).__name__}: {error}")
    remedy = _("Please report it with the traceback in {path}").format(path=kept) if kept else traceback.format_exc()
    return Fault(problem, remedy=remedy)
