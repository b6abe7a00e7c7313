"""Exports of every recipe that ships: parity, and latency in torch, compiled, exported, and in 8 bits.

Recipes that train in seconds are trained whole; of others a few updates, since parity doesn't depend on what was
learned. Each bundle is exported to ONNX, torch.export and ExecuTorch, which all are refused where they disagree, and
compressed to 8 bits; language models go to transformers and GGUF as well, both read back by transformers. Milliseconds
are those of the network alone for one row, each the median of repetitions, one after the other in one process with one
thread; compiling is `torch.compile` with its defaults. What was trained and measured is kept under `--runs`, so that
the command goes on where it stopped, until the recipe or a version is another; recipes that are named are measured
anew. The tables go into docs/deploy/exports.md.

    python -m benchmarks.exports [--recipes NAME ...] [--runs FOLDER] [--no-compile] [--write]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

import reinforge
from benchmarks import rl_table
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.compress.shrinking import in_8_bits
from reinforge.data.values import Origin
from reinforge.edge.description import load as described
from reinforge.edge.reading import reader
from reinforge.errors import ReinforgeError
from reinforge.export.export import export
from reinforge.export.graph import Graph
from reinforge.export.replay import golden_rows, timed
from reinforge.models.decoder import Decoder
from reinforge.recipe.loading import SHIPPED
from reinforge.workflow.run import Run

# What trains in seconds; of the rest so many updates in each stage.
WHOLE = (
    "penguins", "wine", "breast-cancer", "diabetes", "linear-regression", "digits", "reviews", "frozenlake-q",
    "cartpole-ppo",
)  # fmt: skip
UPDATES = 20
# What begins with another's bundle.
START = dict.fromkeys(("chat-lora", "preferences-dpo", "reward-model", "own-chats"), "chat-sft")
# What needs data of one's own, given those of another recipe.
OTHER_DATA: Mapping[str, Mapping[str, Any]] = {
    "own-chats": {"data": {"kind": "chats", "path": "made:shouting"}, "source": {"kind": "tokens", "block": 160}},
}
LEFT_OUT = {"gpt2-124m": "it is trained on a GPU, from documents of one's own"}
GRAPHS, LANGUAGE = ("onnx", "torch-export", "executorch"), ("huggingface", "gguf", "peft")
TIMES = ("torch", "compiled", "onnxruntime", "torch-export", "executorch", "int8")
PACKAGES = ("torch", "onnxruntime", "executorch", "transformers")
PAGE = Path(__file__).parents[1] / "docs" / "deploy" / "exports.md"
BEGIN, END = "<!-- python -m benchmarks.exports --write -->", "<!-- end -->"
# A figure, or why there is none.
Figure = float | str


@dataclass(frozen=True)
class Row:
    """Of one recipe: how long it was trained, the largest difference by target, and milliseconds for one row; the
    digest of what was trained, and with which versions."""

    name: str
    trained: str
    parity: Mapping[str, Figure]
    milliseconds: Mapping[str, Figure]
    digest: str
    versions: Mapping[str, str]


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in PACKAGES if find_spec(name)}
    return {"reinforge": reinforge.__version__} | packages | {"Python": platform.python_version()}


def digest(name: str) -> str:
    """Of what a recipe learns here: what it says and what is changed of it, what it begins with, Reinforge's
    version."""
    base = digest(START[name]) if name in START else None
    changed = [OTHER_DATA.get(name), None if name in WHOLE else UPDATES]
    return rl_table.digest(rl_table.recipe_digest(name, rl_table.Preset()), changed, base, reinforge.__version__)


def recipes() -> list[str]:
    """Every recipe that ships, but those that are left out."""
    return [path.stem for path in sorted(SHIPPED.glob("*.yaml")) if path.stem not in LEFT_OUT]


def kept(runs: Path, name: str) -> Row | None:
    """What was measured before, of the recipe as it is now and with these versions."""
    file = runs / f"{name}.json"
    told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return Row(**told) if told.get("digest") == digest(name) and told["versions"] == versions() else None


def complete(row: Row, compiling: bool) -> bool:
    """Whether nothing is to be measured again."""
    return not (compiling and row.milliseconds and "compiled" not in row.milliseconds)


def shortened(told: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or a stage of one, that stops after a few updates and is hardly evaluated."""
    found = dict(told)
    found["learn"] = {**told.get("learn", {}), "stop": {"updates": UPDATES}, "compile": "off"}
    if told.get("source", {}).get("kind") == "replay":
        found["source"] = {**told["source"], "learning_starts": 512, "capacity": 4096}
    environment = told.get("data", {}).get("kind") == "environment"
    found["evaluate"] = {"episodes": 1, "final": 1} if environment else {"baselines": False, "replicates": 0}
    if "stages" in told:
        found["stages"] = [shortened(stage) for stage in told["stages"]]
    return found


def trained(name: str, runs: Path) -> Path:
    """The folder of a recipe's run, or of its last stage's, trained unless it is there."""
    folder = runs / f"{name}-{digest(name)}"
    run = Run(folder)
    if not run.finished:
        recipe: Any = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text("utf-8")) | OTHER_DATA.get(name, {})
        start = trained(START[name], runs) if name in START else None
        run = reinforge.train(recipe if name in WHOLE else shortened(recipe), start=start, output=folder)
    return run.stages[-1].folder if run.stages else folder


def measure(name: str, folder: Path, base: Path | None, compiling: bool) -> Row:
    """One recipe's row, from its run's folder and that of the run which it began with."""
    bundle = load(folder)
    parity: dict[str, Figure] = {}
    times: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for target, engine in zip(GRAPHS, ("onnxruntime", "torch-export", "executorch")):
            try:
                found = export(folder, target, Path(scratch) / target).measured
            except ReinforgeError as error:
                parity[target] = told(error)
            else:
                parity[target], times[engine] = found["parity"], found["milliseconds"]
        written = next((Path(scratch) / target for target in GRAPHS if (Path(scratch) / target).is_dir()), None)
        if written is not None:
            times |= _in_torch(bundle, written, compiling)
        if isinstance(bundle.model, Decoder) and bundle.form.kind == "text":
            for target, logits in _READERS.items():
                if target == "peft" and base is None:
                    continue
                try:
                    export(folder, target, Path(scratch) / target)
                    if target == "peft":
                        assert base is not None
                        export(base, "huggingface", Path(scratch) / "base")
                    parity[target] = _apart(bundle, logits(Path(scratch)))
                except ReinforgeError as error:
                    parity[target] = told(error)
    return Row(name, "whole" if name in WHOLE else f"{UPDATES} updates", parity, times, digest(name), versions())


def _in_torch(bundle: Bundle, written: Path, compiling: bool) -> dict[str, Figure]:
    """Milliseconds of the network itself for one row, compiled, and in 8 bits."""
    graph = Graph(bundle).eval()
    row: Any = golden_rows(bundle)[0]["row"]
    inputs, _beside = reader(described(written))([row], Origin())
    given = tuple(torch.from_numpy(inputs[port.name]) for port in graph.ports)
    small, _change = in_8_bits(bundle.model, computing=True)
    found: dict[str, Figure] = {
        "torch": _timed(graph, given),
        "int8": _timed(Graph(replace(bundle, model=small.eval())).eval(), given),
    }
    if compiling:
        try:
            found["compiled"] = _timed(torch.compile(graph), given)
        except RuntimeError as error:
            found["compiled"] = str(error).strip().splitlines()[0][:200]
        torch.compiler.reset()
    return found


def _timed(network: Any, given: tuple[torch.Tensor, ...]) -> float:
    with torch.inference_mode():
        return timed(lambda: network(*given))


def _by_transformers(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _of_gguf(scratch: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        scratch / "gguf", gguf_file="model.gguf", dtype=torch.float32
    )


def _of_adapter(scratch: Path) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(_by_transformers(scratch / "base"), str(scratch / "peft"))


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "huggingface": lambda scratch: _by_transformers(scratch / "huggingface"), "gguf": _of_gguf, "peft": _of_adapter,
}  # fmt: skip


def _apart(bundle: Bundle, theirs: Any) -> float:
    """The largest difference of logits, of tokens drawn at random, in 32 bits."""
    model = bundle.model.float()
    assert isinstance(model, Decoder)
    (size,) = {output.size for output in bundle.signature.outputs.values()}
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(size, (2, min(48, model.options.context)), generator=draw)
    (name,) = bundle.signature.inputs
    (output,) = bundle.signature.outputs
    with torch.inference_mode():
        ours = model({name: tokens})[0][output]
        return float((ours - theirs.eval()(tokens).logits[..., :size]).abs().max())


def told(error: ReinforgeError) -> str:
    """What is wrong, without where: that is a folder."""
    return error.problem


def tables(rows: list[Row]) -> str:
    """In Markdown: graphs, language models, and why a figure is missing."""
    heads = ["recipe", "trained", *(f"{'parity: ' if i == 0 else ''}{t}" for i, t in enumerate(GRAPHS))]
    heads += [f"{'ms: ' if i == 0 else ''}{t}" for i, t in enumerate(TIMES)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _head in heads) + " |"]
    for row in rows:
        cells = [_cell(row.parity.get(target), "{:.1e}") for target in GRAPHS]
        cells += [_cell(row.milliseconds.get(engine), "{:.3f}") for engine in TIMES]
        lines.append(f"| {row.name} | {row.trained} | {' | '.join(cells)} |")
    lines += ["", f"| recipe | parity: {' | '.join(LANGUAGE)} |", "| --- | --- | --- | --- |"]
    for row in rows:
        if any(target in row.parity for target in LANGUAGE):
            lines.append(f"| {row.name} | {' | '.join(_cell(row.parity.get(t), '{:.1e}') for t in LANGUAGE)} |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for target, figure in (*row.parity.items(), *row.milliseconds.items()):
            if isinstance(figure, str):
                reasons.setdefault((target, figure), []).append(row.name)
    lines.append("")
    lines += [f"- {target} of {', '.join(names)}: {reason}." for (target, reason), names in reasons.items()]
    lines += [f"- {name} is left out: {reason}." for name, reason in LEFT_OUT.items()]
    if missing := [name for name in recipes() if name not in {row.name for row in rows}]:
        lines.append(f"- Not measured yet: {', '.join(missing)}.")
    return "\n".join(lines)


def _cell(figure: Figure | None, form: str) -> str:
    return "" if figure is None else "refused" if isinstance(figure, str) else form.format(figure)


def stated() -> str:
    """By what it was measured."""
    return ", ".join(f"{name} {number}" for name, number in versions().items()) + f", {platform.machine()}"


def write(runs: Path, page: Path = PAGE) -> None:
    """Put the tables of what was measured into the page."""
    text = tables([row for name in recipes() if (row := kept(runs, name)) is not None])
    before, _begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _old, _end, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{stated()}.\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Print the tables, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[], choices=recipes(), metavar="NAME",
                        help="measure these anew, and no others")  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs/exports"), metavar="FOLDER")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/deploy/exports.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for name in given.recipes or recipes():
        row = kept(given.runs, name)
        if not given.recipes and row is not None and complete(row, not given.no_compile):
            continue
        began = time.perf_counter()
        try:
            base = trained(START[name], given.runs) if name in START else None
            row = measure(name, trained(name, given.runs), base, not given.no_compile)
        except ReinforgeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        (given.runs / f"{name}.json").write_text(json.dumps(asdict(row), indent=1) + "\n", "utf-8")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if given.write:
            write(given.runs)
    found = [row for name in recipes() if (row := kept(given.runs, name)) is not None]
    if given.write:
        write(given.runs)
    print(f"\n{tables(found)}\n\n{stated()}: {' '.join(sys.argv)}")
    lines = []
    for row in found:
        ours, peer = row.milliseconds.get("onnxruntime"), row.milliseconds.get("torch")
        if isinstance(ours, float) and isinstance(peer, float):
            lines.append({"name": row.name, "ratio": peer / ours, "ours": ours, "peer": peer, "unit": "ms"})
    print(json.dumps({"name": "exports", "rows": lines}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
