"""One file per verb, thin."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    That is 0, 2 for a user's mistake, 1 for a fault of ours, 130 when interrupted.
    """
    from reinforge.cli.application import run

    return run(arguments)
