"""`reinforge-edge`, or `python -m reinforge.edge`: rows in, predictions out, from an ONNX export."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from reinforge.edge.description import GOLDEN
from reinforge.edge.rows import MAX_BYTES, rows_of
from reinforge.edge.runner import Runner
from reinforge.errors import DataError, ReinforgeError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.files import read_limited, storage_errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a mistake of the user's gives one message and 2."""
    parser = argparse.ArgumentParser(
        prog="reinforge-edge", description=_("Predict from an ONNX export, with numpy and onnxruntime alone.")
    )
    parser.add_argument("folder", metavar="EXPORT", help=_("The folder that `reinforge export --to onnx` wrote."))
    rows_help = _("Rows: .csv, .tsv, .json (a list) or JSON lines; - is standard input.")
    parser.add_argument("--data", metavar="FILE", default="-", help=rows_help)
    parser.add_argument("--check", action="store_true", help=_("Replay the golden rows instead, and compare."))
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=_("Threads of onnxruntime."))
    given = parser.parse_args(arguments)
    try:
        runner = Runner(given.folder, max(1, given.threads))
        if given.check:
            count = check(runner)
            print(_("{n} golden rows give what they must").format(n=count))
            return 0
        read = rows_of(given.data)
        for prediction in runner.predict(read.rows, read.origin):
            print(json.dumps(prediction, ensure_ascii=False, allow_nan=False))
        return 0
    except ReinforgeError as error:
        print(_("Error: ") + str(error), file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return 0


def check(runner: Runner) -> int:
    """How many golden rows were predicted as the bundle predicted them. Raises DataError for the first that was not."""
    path = runner.description.folder / GOLDEN
    with storage_errors(path):
        lines = read_limited(path, MAX_BYTES).splitlines()
    records: list[Any] = [strict_json.parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    found = runner.predict([record["row"] for record in records])
    tolerance = runner.description.values["parity"]["tolerance"]
    for number, (record, prediction) in enumerate(zip(records, found), 1):
        if not alike(prediction, record["prediction"], tolerance["relative"], tolerance["absolute"]):
            raise DataError(_("the golden row gives something else here"), where=f"{path}:{number}")
    return len(records)


def alike(found: Any, stated: Any, relative: float, absolute: float) -> bool:
    """Whether two predictions are the same, numbers within the tolerance."""
    if isinstance(stated, dict):
        return isinstance(found, dict) and found.keys() == stated.keys() and all(
            alike(found[key], value, relative, absolute) for key, value in stated.items()
        )  # fmt: skip
    if isinstance(stated, list):
        return isinstance(found, list) and len(found) == len(stated) and all(
            alike(mine, theirs, relative, absolute) for mine, theirs in zip(found, stated)
        )  # fmt: skip
    if isinstance(stated, float) and isinstance(found, float | int):
        return abs(found - stated) <= absolute + relative * abs(stated)
    return bool(found == stated)


if __name__ == "__main__":
    sys.exit(main())
