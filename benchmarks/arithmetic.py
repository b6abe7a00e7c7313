"""The recipe arithmetic-grpo, measured: what rewards add to imitation, on numbers that no stage has seen.

    python -m benchmarks.arithmetic [--seeds N] [--first N] [--folder FOLDER]

For each seed: the recipe; then, from the bundle of its second stage, imitation for as long again as rewards took.
Greedy exact match on the 500 problems of made:sums-held, and seconds of the wall clock and the processor. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from reinforge.bundle import load
from reinforge.core.contracts import Clock
from reinforge.data.language_options import QuestionsOptions
from reinforge.data.made_sums import questions, tests
from reinforge.data.questions import QuestionTask, prepare_questions
from reinforge.evaluation.questions import QuestionEvaluator
from reinforge.objectives.language import LanguageLearner
from reinforge.recipe import load as load_recipe
from reinforge.workflow.generate import writer_of
from reinforge.workflow.train import train


def accuracy(path: Path) -> float:
    """On held-out numbers."""
    model, pipeline = writer_of(load(path, verify="digest"))
    data = prepare_questions(QuestionsOptions(validation=0.01), pipeline, data=[*tests(), questions()[0]])
    asked = [each for each in (*data.training, *data.validation) if each.text != questions()[0]["prompt"]]
    evaluator = QuestionEvaluator(asked, QuestionTask((), data.reward).reward, pipeline, tokens=8)
    return evaluator.evaluate(LanguageLearner(model), Clock())["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        began, processor_began = time.perf_counter(), time.process_time()
        recipe = load_recipe("arithmetic-grpo")
        stages = [stage.model_copy(update={"seed": seed}) for stage in recipe.stages]
        run = train(recipe.model_copy(update={"seed": seed, "stages": tuple(stages)}), output=folder / f"seed-{seed}")
        took, processor = time.perf_counter() - began, time.process_time() - processor_began
        _read, imitated, rewarded = run.stages
        seconds = float(rewarded.status["clock"]["seconds"])
        longer = stages[1].model_copy(update={"name": "longer"})
        stop = longer.learn.stop.model_copy(update={"updates": None, "seconds": seconds})
        learn = longer.learn.model_copy(update={"stop": stop, "schedule": None})
        again = train(
            longer.model_copy(update={"learn": learn}), start=imitated.bundle_path, output=folder / f"longer-{seed}"
        )
        found = {
            "seed": seed, "imitated": accuracy(imitated.bundle_path), "rewarded": accuracy(rewarded.bundle_path),
            "longer": accuracy(again.bundle_path), "seconds": round(took), "of rewards": round(seconds),
            "processor": round(processor),
        }  # fmt: skip
        print("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                        for name, value in found.items()), flush=True)  # fmt: skip
        rows.append({
            "name": f"arithmetic, seed {seed}", "ratio": round(found["rewarded"] / max(found["longer"], 1e-9), 2),
            "ours": found["rewarded"], "peer": found["longer"], "unit": "exact match",
        })  # fmt: skip
    print("python -m benchmarks.arithmetic " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "arithmetic", "rows": rows}))


if __name__ == "__main__":
    main()
