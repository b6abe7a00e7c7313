"""The title's road, from an empty folder to a streamed answer, by the commands a user would type: `make zero-to-chat`.

A tokenizer and pre-training, imitation, rewards; evaluation; 8 bits; GGUF, read by other programs; a server on a free
port, and one question over HTTP, whose answer comes in pieces. Then a table of what was done, how long it took and what
came out. Ends with status 1 as soon as a command fails, or where the answer is wrong; never runs for long.

    python scripts/zero_to_chat.py [FOLDER [KEY=VALUE ...]]

KEY=VALUE change the recipe, as they do for `reinforge train`: of a shortened road no right answer is expected.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from walking import Walk, serving

RECIPE, HELD = "zero-to-chat", "made:talk-held"
# All of it, on two cores; several times what it takes, for machines that are in use.
SECONDS = 2400.0
# Numbers that no stage has learned, with a carry.
QUESTION, RIGHT = "What is 47+68?", "47+68=115"
STAGES = {"read": "tokenizer and pre-training", "imitate": "imitation (SFT)", "rewards": "rewards (GRPO)"}


def train(walk: Walk, changes: Sequence[str]) -> Path:
    """The recipe's stages, each a line of its own; gives the last one's bundle."""
    run = walk.folder / "run"
    with walk.stage(RECIPE, "train") as result:
        walk.command("train", RECIPE, "-o", run, *changes)
        folders = sorted((run / "stages").iterdir())
        result.append(f"{len(folders)} stages")
    for folder in folders:
        told = json.loads((folder / "run.json").read_text("utf-8"))
        clock = told["clock"]
        with walk.stage(RECIPE, f"  {STAGES[folder.name.split('-')[-1]]}", seconds=clock["seconds"]) as result:
            result.append(f"{clock['updates']:,} updates, {clock['tokens']:,} tokens")
    return folders[-1]


def evaluate(walk: Walk, name: str, bundle: Path) -> None:
    """The share of held-out sums that it answers right."""
    with walk.stage(RECIPE, f"evaluate, {name}") as result:
        asking = ("--data", HELD, "--tokens", "16", "--reward", "exact")
        found = walk.command("evaluate", bundle, *asking)
        low, high = found["intervals"]["accuracy"]
        result.append(f"{found['accuracy']:.3f} of held-out sums right ({low:.3f} to {high:.3f})")


def compress(walk: Walk, run: Path) -> Path:
    """In 8 bits; refused where that costs more than two points."""
    small = walk.folder / "int8"
    with walk.stage(RECIPE, "compress --method int8") as result:
        asked = ("--method", "int8", "--goal", "size", "--tolerance", "0.02", "-o", small)
        found = walk.command("compress", run, *asked)
        before, after = found["before"], found["after"]
        result.append(f"{before['weights']:,} to {after['weights']:,} bytes, {found['smaller']:.1f}x smaller")
        result.append(f"accuracy {before['quality']:.3f} to {after['quality']:.3f}")
    return small


def export(walk: Walk, run: Path) -> None:
    """To GGUF, which is then read by the package `gguf`, and asked through transformers."""
    folder = walk.folder / "gguf"
    with walk.stage(RECIPE, "export --to gguf") as result:
        walk.command("export", run, "--to", "gguf", "-o", folder)
        result.append(f"{(folder / 'model.gguf').stat().st_size:,} bytes")
    with walk.stage(RECIPE, "read by others") as result:
        gguf: Any = importlib.import_module("gguf")
        reader = gguf.GGUFReader(folder / "model.gguf")
        result.append(f"gguf: {len(reader.tensors)} tensors")
        transformers: Any = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()
        given = {"gguf_file": "model.gguf"}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **given)
        asked = [{"role": "user", "content": QUESTION}]
        text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        written = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=end, pad_token_id=end)
        said = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
        result.append(f"transformers: {_one_line(said)}")
        print(f"\ntransformers, from model.gguf: {QUESTION} {said}", flush=True)


def chat(walk: Walk, bundle: Path) -> str:
    """One streamed answer by the interface that OpenAI's clients speak."""
    with serving(walk, bundle) as (address, _path), walk.stage(RECIPE, "serve, one streamed answer") as result:
        with urllib.request.urlopen(f"{address}/v1/models", timeout=10) as answer:
            name = json.load(answer)["data"][0]["id"]
        body = {
            "model": name, "stream": True, "temperature": 0, "max_tokens": 16,
            "messages": [{"role": "user", "content": QUESTION}],
        }  # fmt: skip
        print(f"$ curl -N {address}/v1/chat/completions -d '{json.dumps(body)}'\n{QUESTION} ", end="", flush=True)
        asked = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        began, pieces = time.perf_counter(), list[str]()
        with urllib.request.urlopen(asked, timeout=30) as answer:
            for line in answer:
                event = line.decode().strip().removeprefix("data: ")
                if not event or event == "[DONE]":
                    continue
                piece = json.loads(event)["choices"][0]["delta"].get("content") or ""
                pieces += [piece] if piece else []
                print(piece, end="", flush=True)
        took, said = time.perf_counter() - began, "".join(pieces)
        print(f"\n{'right' if said == RIGHT else f'wrong: it is {RIGHT}'}", flush=True)
        result.append(f"{QUESTION} {_one_line(said)}, {'right' if said == RIGHT else 'wrong'}")
        result.append(f"{len(pieces)} pieces in {took * 1000:.0f} ms")
    return said


def _one_line(text: str) -> str:
    """For the table."""
    return " ".join(text.split())


def main(arguments: Sequence[str]) -> int:
    """Walk the road; everything stays in `runs/zero-to-chat-TIME`, or in the folder given."""
    folder = Path(arguments[0]) if arguments else Path("runs") / time.strftime("zero-to-chat-%Y%m%d-%H%M%S")
    changes = arguments[1:]
    folder.mkdir(parents=True)
    walk = Walk(folder, SECONDS)
    run = train(walk, changes)
    for stage in sorted((folder / "run" / "stages").iterdir())[1:]:
        evaluate(walk, STAGES[stage.name.split("-")[-1]], stage)
    small = compress(walk, run)
    evaluate(walk, "int8", small)
    export(walk, run)
    said = chat(walk, small)
    print(f"\n{walk.table()}\n\nThe run, its report.html and all that was made of it: {folder}")
    return 0 if said == RIGHT or changes else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
