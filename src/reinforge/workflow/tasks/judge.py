"""What a trained model is worth, on rows it did not learn from: readings set on validation, findings on the test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from reinforge.bundle.task import Reading
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.prepared import Prepared
from reinforge.evaluation.examine import Asked, Held, examine
from reinforge.evaluation.explanation import explanation_of
from reinforge.evaluation.findings import Column, Findings, Side
from reinforge.evaluation.readings import fit_reading
from reinforge.evaluation.supervised import Judgement, SupervisedEvaluator
from reinforge.messages import _
from reinforge.models.classic.estimators import available
from reinforge.objectives.supervised import Supervised
from reinforge.recipe.recipe import Recipe
from reinforge.schema.fields import Field
from reinforge.workflow.tasks.task import Tested

# Of more training rows, so many tell how well it fits them.
_MOST_TRAINING_ROWS = 100_000
# Of what a report tells of the data.
_MOST_COLUMNS, _MOST_LABELS = 1000, 12


@dataclass(frozen=True)
class Judge:
    """Measures models on the sides of prepared data."""

    recipe: Recipe
    objective: Supervised
    prepared: Prepared

    def watch(self) -> SupervisedEvaluator | None:
        """What evaluates on validation rows during training; None where none are held back."""
        validation = self.prepared.validation
        return self._evaluator(validation) if validation is not None else None

    def test(self, learner: nn.Module) -> Tested:
        """Set readings on validation rows, then measure all sides as they are read; findings of the test, or where
        there is none of validation. Nothing is ever set by the test's rows."""
        judged = {side: (evaluator, evaluator.judge(learner)) for side, evaluator in self._sides()}
        readings = self._readings(judged["validation"][1]) if "validation" in judged else {}
        metrics: dict[str, float] = {}
        for side, (evaluator, judgement) in judged.items():
            measured = evaluator.measure(judgement, readings)
            metrics.update({f"{side}/{name}": value for name, value in measured.items()})
        held: Side = "test" if "test" in judged else "validation"
        findings = self._findings(held, *judged[held], readings) if held in judged else None
        notes = []
        if findings is not None and self.recipe.evaluate.baselines and not available():
            notes.append(_("no baselines: scikit-learn is missing (pip install 'reinforge[data]')"))
        evaluators = {side: evaluator for side, (evaluator, _judgement) in judged.items()}
        explanation = explanation_of(learner, self.prepared.pipeline, self.prepared.train, evaluators, self.recipe.seed)
        return Tested(metrics, readings, findings, notes, explanation)

    def _sides(self) -> Iterator[tuple[str, SupervisedEvaluator]]:
        train = batches.part(self.prepared.train, 0, _MOST_TRAINING_ROWS)
        for side, data in (("train", train), ("validation", self.prepared.validation), ("test", self.prepared.test)):
            if data is not None:
                yield side, self._evaluator(data)

    def _evaluator(self, data: Batch) -> SupervisedEvaluator:
        asked, pipeline = self.recipe.evaluate, self.prepared.pipeline
        goal = self.recipe.learn.stop.goal
        wanted = [name for name in (asked.monitor, goal.metric if goal else None) if name]
        return SupervisedEvaluator(
            self.objective, pipeline.signature, data, more=asked.metrics, wanted=wanted, units=pipeline.inverse
        )

    def _readings(self, judgement: Judgement) -> dict[str, Reading]:
        asked, found = self.recipe.evaluate, {}
        for name, judged in judgement.outputs.items():
            form = self.prepared.signature.outputs[name].form
            reading = fit_reading(judged, form, calibrate=asked.calibrate, criterion=asked.threshold)
            if reading != Reading():
                found[name] = reading
        return found

    def _findings(
        self, side: Side, evaluator: SupervisedEvaluator, judgement: Judgement, readings: dict[str, Reading]
    ) -> Findings | None:
        prepared, asked = self.prepared, self.recipe.evaluate
        if prepared.held is None:
            return None
        held = Held(
            evaluator.data, prepared.held, getattr(prepared.rows, side).tolist(), prepared.train, prepared.training
        )
        wanted = Asked(
            on=side, monitor=asked.monitor, replicates=asked.replicates, seed=self.recipe.seed,
            baselines=asked.baselines, readings=readings, criterion=asked.threshold,
            validation=batches.rows(prepared.validation) if prepared.validation is not None else 0,
        )  # fmt: skip
        found = examine(evaluator, judgement, prepared.schema, held, wanted)
        rows = {name: len(getattr(prepared.rows, name)) for name in ("train", "validation", "test")}
        sides = {name: count for name, count in rows.items() if count}
        columns = tuple(_column(each) for each in prepared.schema.fields[:_MOST_COLUMNS])
        return found.model_copy(update={"sides": sides, "columns": columns})


def _column(field: Field) -> Column:
    labels = getattr(field, "labels", ())
    about = ", ".join(labels[:_MOST_LABELS]) + (", …" if len(labels) > _MOST_LABELS else "")
    return Column(name=field.name, role=str(field.role), kind=field.kind, about=about)
