"""One file per verb, thin."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    That is 0, 2 for a user's mistake, 1 for a fault of ours, 130 when interrupted.
    """
    try:
        from reinforge.cli.application import run

        status = run(arguments)
    except KeyboardInterrupt:
        # While the modules were still loading.
        from reinforge.messages import _

        print(_("Interrupted."), file=sys.stderr)
        status = 130
    if arguments is None and status == 130:
        # One Ctrl-C more would only disturb the interpreter's own end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status
