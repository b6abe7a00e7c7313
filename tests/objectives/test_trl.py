"""Losses and gradients beside TRL's own trainers, on the same weights and tensors: their batches go through their loss,
and the same rows through ours."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Experience, Objective
from reinforge.core.ragged import Ragged
from reinforge.export.hugging_face import named_weights
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.families import config_of, weight_names
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
reason = "TRL is not installed: make test-all, or pip install 'reinforge[bench]'"
trl = pytest.importorskip("trl", reason=reason)
datasets = pytest.importorskip("datasets", reason=reason)
transformers = pytest.importorskip("transformers", reason=reason)

WORDS, PAD, END, ROWS = 23, 0, 1, 6
SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(WORDS,))}, outputs={"tokens": Output(form="tokens", size=WORDS)}
)


def decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(DecoderOptions(layers=2, width=16, heads=2, context=48), SIGNATURE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return model


def peer(model: Decoder) -> Any:
    """transformers' model of the same weights."""
    config = transformers.AutoConfig.for_model(**config_of(model.options, WORDS, "float32", "here"))
    made = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    missing = made.load_state_dict(dict(named_weights(model)), strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"]), missing
    made.config.pad_token_id, made.config.eos_token_id = PAD, END
    return made


def moved(model: nn.Module, amount: float = 0.1) -> nn.Module:
    """As after some updates."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


def tokenizer() -> Any:
    """Numbers with spaces between them, one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": PAD, "<end>": END, **{str(number): number for number in range(2, WORDS)}}
    library = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def numbers(draw: random.Random, least: int, most: int) -> str:
    return " ".join(str(draw.randrange(2, WORDS)) for _ in range(draw.randint(least, most)))


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "per_device_train_batch_size": ROWS, "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip


def rows(tensor: Tensor, real: Tensor) -> Ragged:
    """Without what rows were filled up with."""
    return Ragged.from_rows([row[keep.bool()] for row, keep in zip(tensor, real)])


def check(objective: Objective, learner: nn.Module, batch: Batch, theirs: Any, loss: Tensor) -> None:
    """Our loss is theirs, whole and split, and so are the gradients of every weight."""
    loss.backward()
    assert abs(float(loss.detach())) > 1e-4
    right = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    counts = objective.counts(batch)
    for size in (ROWS * 4, 2):
        learner.zero_grad()
        total = torch.zeros(())
        for part in batches.split(batch, size):
            for name, term in objective.loss(learner, part, counts).terms.items():
                if term.weight:
                    total = total + term.weight * term.sum / counts[name]
        torch.testing.assert_close(total, loss.detach(), atol=1e-5, rtol=1e-4)
        total.backward()
        model = learner.model
        assert isinstance(model, Decoder)
        for ours, names in weight_names(model.options).items():
            own, other = model.get_parameter(ours).grad, torch.cat([right[name] for name in names])
            assert own is not None
            assert other.norm() > 0, ours
            assert (own - other).norm() <= 1e-3 * other.norm() + 1e-6, ours


# ---------------------------------------------------------------- preferences


def pairs(fixed: bool = False) -> Any:
    draw = random.Random(1)
    return datasets.Dataset.from_list(
        [
            {
                "prompt": numbers(draw, 1, 1 if fixed else 5), "chosen": " " + numbers(draw, 1, 6),
                "rejected": " " + numbers(draw, 1, 6),
            }
            for _ in range(ROWS)
        ]
    )  # fmt: skip


def as_pairs(batch: dict[str, Tensor]) -> Batch:
    """Of what DPO's trainer takes: chosen above rejected."""
    found = {}
    for name, half in (("chosen", 0), ("rejected", 1)):
        ids, real, learned = (batch[key].chunk(2)[half] for key in ("input_ids", "attention_mask", "completion_mask"))
        found[name] = {"tokens": rows(ids, real), "learned": rows(learned.bool(), real)}
    return found


def as_labelled(batch: dict[str, Tensor]) -> Batch:
    """Of what CPO's and ORPO's take: labels of -100 where nothing is learned."""
    found = {}
    for name in ("chosen", "rejected"):
        ids, real, labels = (batch[f"{name}_{key}"] for key in ("input_ids", "attention_mask", "labels"))
        found[name] = {"tokens": rows(ids, real), "learned": rows(labels != -100, real)}
    return found


def prepared(kind: str, batch: Batch, amount: float = 0.1, **options: object) -> tuple[Objective, nn.Module, Batch]:
    """Ours, whose policy has moved away from its reference."""
    objective: Objective = REGISTRY.build("objective", REGISTRY.find("objective", kind).options(**options), SIGNATURE)
    learner = objective.build(decoder())
    moved(learner.get_submodule("model"), amount)
    with torch.no_grad():
        return objective, learner, objective.prepare(learner, Experience(batch)).batch


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_dpo_and_ipo(kind: str, tmp_path: Path) -> None:
    policy = moved(decoder())
    assert isinstance(policy, Decoder)
    theirs = peer(policy)
    trainer = trl.DPOTrainer(
        theirs, ref_model=peer(decoder()), processing_class=tokenizer(), train_dataset=pairs(),
        args=trl.DPOConfig(**settings(tmp_path), loss_type="sigmoid" if kind == "dpo" else "ipo", beta=0.3),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["input_ids"]) == 2 * ROWS
    objective, learner, own = prepared(kind, as_pairs(batch), beta=0.3)
    check(objective, learner, own, theirs, trainer.compute_loss(theirs, batch))


@pytest.mark.parametrize("amount", [0.1, -0.1])
def test_kto(amount: float, tmp_path: Path) -> None:
    """With a baseline that counts, and one below 0, which doesn't."""
    draw = random.Random(2)
    data = datasets.Dataset.from_list(
        [
            {"prompt": numbers(draw, 1, 5), "completion": " " + numbers(draw, 1, 6), "label": i % 3 == 0}
            for i in range(ROWS)
        ]
    )
    policy = moved(decoder(), amount)
    assert isinstance(policy, Decoder)
    theirs = peer(policy)
    trainer = trl.KTOTrainer(
        theirs, ref_model=peer(decoder()), processing_class=tokenizer(), train_dataset=data,
        args=trl.KTOConfig(**settings(tmp_path), beta=0.3, desirable_weight=1.2, undesirable_weight=0.7),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    ids, real, learned = (batch[key] for key in ("input_ids", "attention_mask", "completion_mask"))
    answer = {"tokens": rows(ids, real), "learned": rows(learned.bool(), real)}
    own = {"answer": answer, "wanted": batch["label"].bool()}
    objective, learner, own = prepared("kto", own, amount, beta=0.3, wanted=1.2, unwanted=0.7)
    assert bool((own["baseline"] > 0).all()) == (amount < 0)  # type: ignore[union-attr, operator]
    check(objective, learner, own, theirs, trainer.compute_loss(theirs, batch))


def test_simpo(tmp_path: Path) -> None:
    cpo = pytest.importorskip("trl.experimental.cpo")
    policy = moved(decoder())
    assert isinstance(policy, Decoder)
    theirs = peer(policy)
    trainer = cpo.CPOTrainer(
        theirs, processing_class=tokenizer(), train_dataset=pairs(),
        args=cpo.CPOConfig(
            **settings(tmp_path), loss_type="simpo", beta=1.5, simpo_gamma=0.8, cpo_alpha=0.0, max_length=32
        ),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    objective, learner, own = prepared("simpo", as_labelled(batch), beta=1.5, gamma=0.8)
    check(objective, learner, own, theirs, trainer.compute_loss(theirs, batch))


def test_orpo(tmp_path: Path) -> None:
    """Theirs learns the prompt as well: prompts of one token, which nothing predicts, teach the same."""
    orpo = pytest.importorskip("trl.experimental.orpo")
    policy = moved(decoder())
    assert isinstance(policy, Decoder)
    theirs = peer(policy)
    trainer = orpo.ORPOTrainer(
        theirs, processing_class=tokenizer(), train_dataset=pairs(fixed=True),
        args=orpo.ORPOConfig(**settings(tmp_path), beta=0.4, max_length=32),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    objective, learner, own = prepared("orpo", as_labelled(batch), weight=0.4)
    check(objective, learner, own, theirs, trainer.compute_loss(theirs, batch))


# ---------------------------------------------------------------- rewards

PROMPTS, GROUP, LONGEST = 3, 4, 8
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Ours, and theirs.
    "grpo": (
        {"preset": "grpo", "beta": 0.2, "mask_truncated": False, "ratio": {"low": 0.05, "high": 0.05}},
        {"loss_type": "grpo", "scale_rewards": "group", "epsilon": 0.05},
    ),
    "dr-grpo": (
        {
            "preset": "dr-grpo", "aggregation": {"kind": "constant", "divisor": LONGEST}, "mask_truncated": False,
            "ratio": {"low": 0.05, "high": 0.05},
        },
        {"loss_type": "dr_grpo", "scale_rewards": "none", "epsilon": 0.05},
    ),
    "dapo": (
        {"preset": "dapo", "ratio": {"low": 0.04, "high": 0.07}},
        {
            "loss_type": "dapo", "scale_rewards": "group", "epsilon": 0.04, "epsilon_high": 0.07,
            "mask_truncated_completions": True,
        },
    ),
    "gspo": (
        {"preset": "gspo", "ratio": {"kind": "sequence", "low": 0.01, "high": 0.02}, "mask_truncated": False},
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence", "scale_rewards": "group",
            "epsilon": 0.01, "epsilon_high": 0.02,
        },
    ),
}  # fmt: skip


@pytest.fixture
def written() -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Prompts, completions (two of which never end) and rewards."""
    draw = random.Random(5)
    prompts = [[draw.randrange(2, WORDS) for _ in range(draw.randint(1, 5))] for _ in range(PROMPTS)]
    completions = []
    for place in range(PROMPTS * GROUP):
        length = LONGEST if place in (2, 7) else draw.randint(1, LONGEST - 1)
        ids = [draw.randrange(2, WORDS) for _ in range(length)]
        completions.append(ids if place in (2, 7) else [*ids, END])
    return prompts, completions, [draw.random() for _ in completions]


@pytest.mark.parametrize("kind", KINDS)
def test_grpo_and_its_sisters(
    kind: str, written: tuple[list[list[int]], list[list[int]], list[float]], tmp_path: Path
) -> None:
    """Their scoring (advantages, masks, old and reference log-probabilities) and loss, after the weights moved."""
    prompts, completions, rewards = written
    own_options, their_options = KINDS[kind]
    theirs = peer(decoder())
    # They load the reference by its name.
    theirs.save_pretrained(tmp_path / "reference")
    theirs.config._name_or_path = str(tmp_path / "reference")
    texts = [{"prompt": " ".join(map(str, prompt))} for prompt in prompts]
    config = trl.GRPOConfig(
        **{**settings(tmp_path), "per_device_train_batch_size": PROMPTS * GROUP}, num_generations=GROUP,
        max_completion_length=LONGEST, num_iterations=2, beta=own_options.get("beta", 0.0),
        **their_options,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        theirs, args=config, processing_class=tokenizer(), train_dataset=datasets.Dataset.from_list(texts),
        reward_funcs=lambda completions, **_: rewards,
    )  # fmt: skip
    each = [prompt for prompt in prompts for _ in range(GROUP)]
    trainer._generate = lambda _prompts: (each, completions, None, ["" for _ in each], None, {}, None, [])
    trainer.current_gradient_accumulation_steps = 1
    theirs.train()
    batch = trainer._generate_and_score_completions([text for text in texts for _ in range(GROUP)])
    moved(theirs)
    loss = trainer._compute_loss(theirs, batch)

    objective: Any = REGISTRY.build(
        "objective", REGISTRY.find("objective", "grpo").options(epochs=2, **own_options), SIGNATURE
    )
    learner = objective.build(decoder())
    tokens = Ragged.from_rows([torch.tensor(prompt + ids) for prompt, ids in zip(each, completions)])
    own: Batch = {
        "tokens": tokens, "prompt": torch.tensor([len(prompt) for prompt in each]),
        "group": torch.arange(PROMPTS).repeat_interleave(GROUP), "reward": torch.tensor(rewards),
        "truncated": torch.tensor([ids[-1] != END for ids in completions]),
        "sampled_log_probs": Ragged.from_rows([torch.zeros(len(ids)) for ids in completions]),
    }  # fmt: skip
    own = objective.prepare(learner, Experience(own)).batch
    torch.testing.assert_close(own["advantage"], batch["advantages"], atol=1e-4, rtol=1e-3)
    moved_to(learner.model, theirs)
    found = objective.loss(learner, own, objective.counts(own)).terms
    assert float(found["clipped"].sum) > 0, "some ratios must be clipped"
    check(objective, learner, own, theirs, loss)


def moved_to(model: Decoder, theirs: Any) -> None:
    """Their weights."""
    state = theirs.state_dict()
    with torch.no_grad():
        for ours, names in weight_names(model.options).items():
            model.get_parameter(ours).copy_(torch.cat([state[name] for name in names]))
