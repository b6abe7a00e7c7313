"""One file per verb, thin."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for a user's mistake, 1 for our fault, 130 when
    interrupted.""" from reinforge.cli.application import run

    return run(arguments)
