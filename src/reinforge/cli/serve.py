"""`reinforge serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.errors import ReinforgeError
from reinforge.messages import _, mark


def serve(
    bundle: BundleFolder,
    host: Annotated[str, typer.Option("--host", metavar="H", help=mark("Address to listen on."))] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="P", help=mark("Its port; 0 takes a free one."))] = 8000,
    use: Use = None,
) -> Result:
    """Serve a bundle over HTTP until interrupted."""
    if not 0 <= port <= 65535:
        raise ReinforgeError(_("--port must lie between 0 and 65535, not {port}").format(port=port))
    from reinforge.serving.serve import serve as run

    return Result.of(run(bundle, host=host, port=port, use=use or ()))
