"""The reward model: its loss against TRL's and a closed form, its scores alone and together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.contracts import Experience
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.adapters import adapt
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions, LoRAOptions
from reinforge.models.scorer import Scorer
from reinforge.models.scorer_options import ScorerOptions
from reinforge.objectives.options import RewardModelOptions
from reinforge.objectives.reward_model import RewardModel
from reinforge.schema.signature import Input, Output, Signature
from tests.objectives.test_preferences import SIGNATURE as SPOKEN
from tests.objectives.test_preferences import answers

SIGNATURE = Signature(inputs=SPOKEN.inputs, outputs={"score": Output(form="number", size=1)})


def scorer(**options: object) -> Scorer:
    torch.manual_seed(0)
    settings = {"layers": 2, "width": 16, "heads": 2, "context": 24, **options}
    model = Scorer(ScorerOptions.model_validate(settings), SIGNATURE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return model


def by_row(model: Scorer, rows: Ragged) -> Tensor:
    """Each row alone, by hand: the decoder's stream at its last token, times the head."""
    found = []
    for index in range(len(rows)):
        hidden, _state = model.hidden({"tokens": rows.row(index)[None]})
        found.append((hidden[0, -1] * model.score.weight[0]).sum())
    return torch.stack(found)


def test_loss_and_gradient_are_trls() -> None:
    trl = pytest.importorskip("trl")
    objective, model = RewardModel(RewardModelOptions(centre=0.3), SIGNATURE), scorer()
    learner = objective.build(model)
    batch: dict[str, Any] = {"chosen": answers(1), "rejected": answers(2)}
    assert objective.prepare(learner, Experience(batch)).batch is batch
    scores = torch.cat([by_row(model, batch["chosen"]["tokens"]), by_row(model, batch["rejected"]["tokens"])])
    accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    told = ("num_tokens", "min_reward", "mean_reward", "max_reward", "accuracy", "margin")
    metrics: dict[str, dict[str, list[float]]] = {mode: {name: [] for name in told} for mode in ("train", "eval")}
    peer = SimpleNamespace(
        model=model, args=SimpleNamespace(center_rewards_coefficient=0.3), accelerator=accelerator, _metrics=metrics,
        _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    wanted = trl.RewardTrainer.compute_loss(
        peer, lambda **_inputs: SimpleNamespace(logits=scores[:, None]), {"attention_mask": torch.ones(10, 1)}
    )
    names = [parameter for parameter in model.parameters() if parameter.requires_grad]
    right = torch.autograd.grad(wanted, names)
    counts = objective.counts(batch)
    for size in (5, 2, 1):
        total = torch.zeros(())
        sums: dict[str, float] = {}
        for part in batches.split(batch, size):
            for name, term in objective.loss(learner, part, counts).terms.items():
                total = total + term.weight * term.sum / counts[name]
                sums[name] = sums.get(name, 0.0) + float(term.sum.detach()) / 5
        torch.testing.assert_close(total, wanted, atol=1e-5, rtol=1e-5)
        assert sums["accuracy"] == pytest.approx(metrics["train"]["accuracy"][0])
        assert sums["margin"] == pytest.approx(metrics["train"]["margin"][0], rel=1e-4, abs=1e-5)
        for one, other in zip(torch.autograd.grad(total, names), right):
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


def test_the_likelihood_is_bradley_and_terrys() -> None:
    """Odds of exp(difference): e^s1 / (e^s1 + e^s2)."""
    objective, model = RewardModel(RewardModelOptions(centre=0.0), SIGNATURE), scorer()
    batch: dict[str, Any] = {"chosen": answers(1), "rejected": answers(2)}
    better, worse = (by_row(model, batch[name]["tokens"]).double().exp() for name in ("chosen", "rejected"))
    found = objective.loss(objective.build(model), batch, objective.counts(batch)).terms["preference"].sum
    assert float(found.detach()) == pytest.approx(-float((better / (better + worse)).log().sum().detach()), rel=1e-4)


def test_scores_are_of_each_row_alone_and_long_rows_lose_their_beginning() -> None:
    model = scorer(context=8)
    rows = Ragged.from_rows([torch.arange(3), torch.arange(8), torch.arange(12), torch.tensor([5])])
    found = model.scores(rows)
    assert found.shape == (4, 1)
    kept = [torch.arange(3), torch.arange(8), torch.tensor([0, 5, 6, 7, 8, 9, 10, 11]), torch.tensor([5])]
    torch.testing.assert_close(found[:, 0], by_row(model, Ragged.from_rows(kept)), atol=1e-5, rtol=1e-5)
    each = model.values(Ragged.from_rows(kept))
    torch.testing.assert_close(each[Ragged.from_rows(kept).offsets[1:] - 1], found)
    with pytest.raises(ComponentError, match="empty row"):
        model.scores(Ragged.from_rows([torch.arange(0), torch.arange(2)]))


def test_models_that_give_no_scores_are_refused() -> None:
    objective = RewardModel(RewardModelOptions(), SIGNATURE)
    with pytest.raises(ComponentError, match="gives scores, not Decoder"):
        objective.build(Decoder(DecoderOptions(layers=1, width=16, heads=2, context=24), SPOKEN))
    with pytest.raises(ComponentError, match="one output of numbers"):
        Scorer(ScorerOptions(), SPOKEN)
    numbers = Signature(inputs={"x": Input(form="numbers", shape=(2,))}, outputs=SIGNATURE.outputs)
    with pytest.raises(ComponentError, match="one input of tokens"):
        Scorer(ScorerOptions(), numbers)


def test_adapters_change_its_scores_too() -> None:
    model = scorer()
    adapt(LoRAOptions(rank=2), model)
    rows = answers(1)["tokens"]
    before = model.scores(rows)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_b" in name:
                parameter.add_(0.5)
    assert not torch.allclose(before, model.scores(rows))
