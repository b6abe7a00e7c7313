"""`reinforge serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinforge.cli.arguments import Use
from reinforge.cli.output import Result
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark

if TYPE_CHECKING:
    from reinforge.serving.trials import Trial

_BUNDLES = mark(
    "Bundles' folders, or those of their runs; NAME=FOLDER names one, NAME@10%=FOLDER gives it a part of the requests, "
    "NAME@shadow=FOLDER compares its answers."
)
_SIGNED = mark("Public key that must have signed every bundle; or one of several.")
_WATCH = mark("Let the page show policies at work in their environments.")
_BIND = mark("Address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for the network.")


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE", help=_BUNDLES),
    ],
    host: Annotated[str, typer.Option("--host", metavar="H", help=_BIND)] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="P", help=mark("Its port; 0 takes a free one."))] = 8000,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help=mark("How many processes answer."))] = 1,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help=mark("Threads of each computation."))] = 1,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="FILE", help=mark("Who may ask: a file that `token` made."))
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help=mark("Another name it goes by; * for any.")),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help=mark("Certificate, for HTTPS."))
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help=mark("Its private key."))] = None,
    access_log: Annotated[
        str | None, typer.Option("--access-log", metavar="FILE", help=mark("A line of JSON per request; - prints it."))
    ] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="URL", help=mark("Take requests from this broker's queue as well."))
    ] = None,
    queue_name: Annotated[
        str, typer.Option("--queue-name", metavar="NAME", help=mark("What the queue is called there."))
    ] = "reinforge",
    require_signature: Annotated[
        list[Path] | None, typer.Option("--require-signature", metavar="FILE", help=_SIGNED)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help=_WATCH)] = False,
    use: Use = None,
) -> Result:
    """Serve bundles over HTTP until interrupted."""
    if not 0 <= port <= 65535:
        raise ReinforgeError(_("--port must lie between 0 and 65535, not {port}").format(port=port))
    for name, value in (("--workers", workers), ("--threads", threads)):
        if value < 1:
            raise ReinforgeError(_("{name} must be at least 1, not {value}").format(name=name, value=value))
    if (tls_cert is None) != (tls_key is None):
        raise ReinforgeError(_("--tls-cert and --tls-key go together"))
    from reinforge.bundle.folders import bundle_folder, stated_name
    from reinforge.serving.serve import serve as run
    from reinforge.serving.task import Access
    from reinforge.serving.tokens import read_tokens

    access = Access(
        host, tuple(allow_host or ()), tuple(read_tokens(tokens)) if tokens else None,
        str(tls_cert) if tls_cert else None, str(tls_key) if tls_key else None, access_log, watch,
    )  # fmt: skip
    taken = None
    if queue is not None:
        from reinforge.serving.queues.address import Address

        taken = Address(queue, queue_name)
    given = [_named(text) for text in bundles]
    trials, given = _trials(given)
    wanted: list[str] | dict[str, str] = [folder for _name, folder in given]
    if trials or any(name for name, _folder in given):
        wanted = {name or stated_name(bundle_folder(folder)): folder for name, folder in given}
        if len(wanted) < len(given):
            raise ReinforgeError(
                _("two bundles have one name"), where=", ".join(bundles), remedy=_("Name them apart: NAME=FOLDER.")
            )
    for name in trials:
        if not isinstance(wanted, dict) or name not in wanted:
            raise ReinforgeError(
                _("{name!r} is on trial beside a bundle that is not served").format(name=name),
                remedy=_("Name the bundle that it is to take the place of as well: {name}=FOLDER.").format(name=name),
            )
    served = run(
        wanted, port=port, access=access, queue=taken, replicas=workers, threads=threads, use=use or (),
        signed_by=require_signature or (), trials=trials,
    )  # fmt: skip
    return Result.of(served)


def _trials(
    given: list[tuple[str | None, str]],
) -> tuple[dict[str, tuple[str, Trial]], list[tuple[str | None, str]]]:
    """What is on trial, with its folder, by the name beside which it is; and the rest."""
    from reinforge.serving.trials import parsed

    trials: dict[str, tuple[str, Trial]] = {}
    rest = []
    for name, folder in given:
        beside, at, how = (name or "").rpartition("@")
        if not at:
            rest.append((name, folder))
            continue
        trial = parsed(how)
        if trial is None or not beside or beside in trials:
            raise ReinforgeError(
                _("{name!r} is no trial").format(name=name),
                remedy=_("Write NAME@10%=FOLDER or NAME@shadow=FOLDER, once for a name."),
            )
        trials[beside] = (folder, trial)
    return trials, rest


def _named(text: str) -> tuple[str | None, str]:
    name, equals, folder = text.partition("=")
    return (name, folder) if equals and name and "/" not in name and not Path(text).exists() else (None, text)
