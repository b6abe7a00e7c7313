"""`reinforge verify`."""

from __future__ import annotations

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result


def verify(bundle: BundleFolder, use: Use = None) -> Result:
    """Check a bundle's files against its manifest, and replay its golden examples."""
    from reinforge.workflow.verify import verify as run

    return Result.of(run(bundle, use=use or ()))
