"""golden.jsonl: raw rows with the tensors' digests and the outputs that a bundle must reproduce."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from reinforge.bundle.network import dtype_name
from reinforge.bundle.task import TOLERANCE, Tolerance
from reinforge.core.batch import Batch, Leaf, leaves, rows, select
from reinforge.core.ragged import Ragged
from reinforge.core.tensor_files import digest
from reinforge.errors import BundleError, DataError
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle

NAME = "golden.jsonl"
MAX_BYTES, MAX_LINES = 32 << 20, 10_000
Record = dict[str, Json]


def record(bundle: Bundle, given: Sequence[Mapping[str, object]]) -> list[Record]:
    """One record per raw row, each computed alone: {"row", "inputs": digests, "outputs": numbers}."""
    records = []
    for row in given:
        plain = {key: _plain(value) for key, value in row.items()}
        inputs = bundle.form.inputs([plain])
        outputs = scores(bundle, inputs, bundle.forward(inputs))
        stated = {name: tensor[0].double().tolist() for name, tensor in outputs.items()}
        records.append({"row": plain, "inputs": _digests(inputs, 0), "outputs": stated})
    return records


def write(records: Sequence[Record]) -> bytes:
    """The content of golden.jsonl."""
    return b"".join(strict_json.compact(record) + b"\n" for record in records)


def read(content: bytes) -> list[Record]:
    """The records. Raises IntegrityError."""
    lines = content.split(b"\n")
    if lines.pop() != b"" or len(lines) > MAX_LINES:
        raise BundleError("it is cut off, or has too many lines", where=NAME)
    records = [strict_json.parse(line, f"{NAME}:{number}") for number, line in enumerate(lines, 1)]
    for number, value in enumerate(records, 1):
        parts = [value.get(key) for key in ("row", "inputs", "outputs")] if isinstance(value, dict) else []
        if len(parts) != 3 or len(value) != 3 or not all(isinstance(part, dict) for part in parts):
            raise BundleError("the line is malformed", where=f"{NAME}:{number}")
    return records


def replay(bundle: Bundle, records: Sequence[Record]) -> None:
    """Compute every record again, all rows in one batch where their inputs allow it.

    Pipeline tensors must be bit-equal, outputs within the tolerance that task.json states for the weights' dtype.
    Raises BundleError that says what differs.
    """
    tolerance = bundle.task.tolerance.get(dtype_name(bundle.model), TOLERANCE["float32"])
    for first, group in _groups(bundle, records):
        try:
            inputs = bundle.form.inputs([line["row"] for line in group])
        except DataError as error:
            where = f"{NAME}, rows from line {first + 1}"
            raise BundleError(f"a golden row is refused: {error.problem} ({error.where})", where=where) from None
        found = scores(bundle, inputs, bundle.forward(inputs))
        for index, line in enumerate(group):
            where = f"{NAME}:{first + index + 1}"
            digests = _digests(inputs, index)
            if digests != line["inputs"]:
                changed = sorted(n for n in {*digests, *line["inputs"]} if digests.get(n) != line["inputs"].get(n))
                raise BundleError(
                    f"the pipeline gives other tensors than stated: {', '.join(map(repr, changed))}"[:400],
                    where=where,
                    remedy="This release prepares data differently from the one that wrote the bundle. Train again, or "
                    "load it with the release named in provenance.json.",
                )
            if found.keys() != line["outputs"].keys():
                raise BundleError(f"the model gives other outputs: {', '.join(sorted(found))}"[:400], where=where)
            for name, tensor in found.items():
                _compare(name, tensor[index], line["outputs"][name], tolerance, where)


def scores(bundle: Bundle, inputs: Batch, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What golden outputs state, by the signature's outputs: (rows, ...); for tokens, the log-probability of each token
    after the first, given those before it (rows, time - 1)."""
    found = {}
    for name, output in bundle.signature.outputs.items():
        if name not in outputs:
            raise BundleError(f"the model gives no output {name!r}", where="model.json")
        tensor = outputs[name]
        if output.form == "tokens":
            (block,) = (n for n, i in bundle.signature.inputs.items() if i.form == "tokens")
            given = inputs[block]
            tokens = given.pad().long() if isinstance(given, Ragged) else cast(Tensor, given)
            logs = tensor[:, :-1].float().log_softmax(-1)
            tensor = logs.gather(-1, tokens[:, 1:, None].to(logs.device)).squeeze(-1)
        found[name] = tensor.cpu()
    return found


def _groups(bundle: Bundle, records: Sequence[Record]) -> list[tuple[int, Sequence[Record]]]:
    if any(block.form == "tokens" for block in bundle.signature.inputs.values()):
        return [(index, [line]) for index, line in enumerate(records)]
    return [(start, records[start : start + 256]) for start in range(0, len(records), 256)]


def _digests(inputs: Batch, index: int) -> dict[str, str]:
    one = select(inputs, torch.tensor([index])) if rows(inputs) > 1 else inputs
    return {name: _digest(leaf) for name, leaf in zip(one, leaves(one))}


def _digest(leaf: Leaf) -> str:
    return digest(leaf.values) if isinstance(leaf, Ragged) else digest(leaf)


def _compare(name: str, found: Tensor, stated: Json, tolerance: Tolerance, where: str) -> None:
    try:
        expected = torch.tensor(stated, dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise BundleError(f"the stated output {name!r} is no array of numbers", where=where) from None
    if expected.shape != found.shape:
        raise BundleError(
            f"the output {name!r} has shape {tuple(found.shape)}, stated is {tuple(expected.shape)}", where=where
        )
    difference = (found.double() - expected).abs()
    allowed = tolerance.absolute + tolerance.relative * expected.abs()
    # Written so that NaN counts as a difference.
    wrong = ~(difference <= allowed)
    if bool(wrong.any()):
        worst = int((difference / allowed).nan_to_num(math.inf).argmax())
        raise BundleError(
            f"the output {name!r} is {found.flatten()[worst]:.7g}, stated is {expected.flatten()[worst]:.7g} "
            f"({int(wrong.sum())} of {found.numel()} numbers differ by more than the tolerance)",
            where=where,
            remedy="The bundle does not reproduce what it promises here. load(path, verify='digest') skips this check.",
        )


def _plain(value: object) -> Json:
    """As JSON can say it: a NaN is a missing value, as everywhere in the pipeline."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return str(value)
