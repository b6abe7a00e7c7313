"""Folders of transformers, read and written: logits equal to transformers' own for every supported shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge.bundle.importing import import_model, read_model
from reinforge.bundle.loading import load
from reinforge.bundle.peft_format import read_adapter, write_adapter
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.compress.shrinking import of_low_rank
from reinforge.data.chats import Call, Chat, Message
from reinforge.data.options import BytePairOptions
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import TextPipeline
from reinforge.data.tokenizers import fit_byte_pairs
from reinforge.errors import ComponentError
from reinforge.export.hugging_face import to_hugging_face
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.families import config_of, options_of

transformers = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 12}),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e3, "factor": 2.0}, "num_key_value_heads": 4},
    ),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rope_parameters": YARN},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": {**YARN, "truncate": False, "attention_factor": 1.2}}),
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1], "attention_bias": True}),
    "gemma3": (
        "Gemma3", {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 20, "sliding_window_pattern": 2},
    ),
    "gemma3-scaled": (
        "Gemma3", {
            "head_dim": 16, "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}  # fmt: skip


def pipeline(template: str = "chatml", size: int = 300) -> TextPipeline:
    base = fit_byte_pairs(
        BytePairOptions(size=size), ["The quick brown fox jumps over the lazy dog. 敏捷 fox 1 + 1 = 2"] * 9
    )
    chosen = TEMPLATES[template]
    marks = Marks(*chosen.documents)
    specials = tuple(dict.fromkeys((*chosen.documents, *chosen.specials)))
    return TextPipeline(SpecialTokenizer(base, specials), marks, chosen)


def decoder(made: TextPipeline, **options: Any) -> Decoder:
    torch.manual_seed(0)
    chosen = DecoderOptions.model_validate({"layers": 2, "width": 32, "heads": 4, "context": 32, **options})
    model = Decoder(chosen, made.signature)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8) if p.ndim == 2 else p.add_(0.3 * torch.randn_like(p))
    return model.eval()


def bundle_of(model: Decoder, made: TextPipeline, path: Path) -> Any:
    rows = [{"text": "The quick fox"}]
    return write_bundle(
        path, model=model, options=model.options, signature=made.signature, form=TextForm(made), examples=rows
    )


def their_model(shape: str) -> Any:
    name, own = SHAPES[shape]
    # A vocabulary rounded up beyond the tokenizer's.
    settings = {**SIZES, "vocab_size": pipeline().tokenizer.size + 5, **own}
    kind = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, kind)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def tokens(size: int) -> Tensor:
    return torch.randint(size, (2, 29), generator=torch.Generator().manual_seed(1))


def folder_of(model: Any, made: TextPipeline, path: Path, **save: Any) -> Path:
    """As transformers saves it, with a tokenizer beside it."""
    exported = to_hugging_face(bundle_of(decoder(made), made, path / "b"), path / "tokenizer")
    model.save_pretrained(path / "model", **save)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (exported.folder / file).rename(path / "model" / file)
    return path / "model"


@pytest.mark.parametrize("shape", SHAPES)
def test_reads_what_transformers_saved(shape: str, tmp_path: Path) -> None:
    theirs = their_model(shape)
    folder = folder_of(theirs, pipeline(), tmp_path)
    model, made = read_model(folder)
    assert made.template is not None
    assert made.template.name == "chatml"
    ids = tokens(made.tokenizer.size)
    with torch.no_grad():
        ours, right = model({"tokens": ids})[0]["tokens"], theirs(ids).logits
    assert right.std() > 0.1
    torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-4)
    # And back: what is written says the same.
    assert options_of(config_of(model.options, 300, "float32", "here"), "here").model_dump(
        exclude={"pattern", "kv_heads", "head_width", "attention_scale", "window", "local_rotary"}
    ) == model.options.model_dump(
        exclude={"pattern", "kv_heads", "head_width", "attention_scale", "window", "local_rotary"}
    )


OURS: dict[str, dict[str, Any]] = {
    "plain": {"kv_heads": 2},
    "untied": {"tied": False, "bias": "all", "rotary": {"base": 5e5}},
    "qwen2": {"bias": "qkv"},
    "qwen3": {"qk_norm": True, "head_width": 16},
    "smollm3": {"pattern": ["global", "unrotated"]},
    "gemma": {
        "qk_norm": True, "post_norm": True, "norm_offset": True, "embedding_scale": 32**0.5, "activation": "gelu",
        "window": 7, "pattern": ["local", "global"], "local_rotary": {"base": 1e3}, "attention_scale": 0.2,
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", OURS)
def test_transformers_loads_what_is_written(shape: str, tmp_path: Path) -> None:
    made = pipeline()
    bundle = bundle_of(decoder(made, **OURS[shape]), made, tmp_path / "bundle")
    written = to_hugging_face(bundle, tmp_path / "out", shard=40_000 if shape == "untied" else 1 << 30)
    assert (len(list(written.folder.glob("model-*.safetensors"))) > 2) == (shape == "untied")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(written.folder).eval()
    ids = tokens(made.tokenizer.size)
    with torch.no_grad():
        ours, right = bundle.model({"tokens": ids})[0]["tokens"], theirs(ids).logits
    torch.testing.assert_close(right, ours, atol=1e-4, rtol=1e-4)
    imported = import_model(written.folder, tmp_path / "again")
    with torch.no_grad():
        torch.testing.assert_close(imported.model({"tokens": ids})[0]["tokens"], ours, atol=1e-6, rtol=1e-6)
    assert load(tmp_path / "again").digest == imported.digest


ADD = {
    "type": "function", "function": {
        "name": "add", "description": "Adds <two> numbers & tells.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}  # fmt: skip
ASKED = Message("user", "The fox?")
CHATS = [
    Chat((ASKED,)),
    Chat((ASKED, Message("assistant", "jumps 1 + 1"), Message("user", "敏捷"))),
    Chat((Message("system", "Be brief."), ASKED, Message("assistant", "jumps"), Message("user", "over?"))),
    Chat((Message("system", "Calculate."), Message("user", "1 + 2")), (ADD,)),
    Chat((
        Message("user", "1 + 2"),
        Message("assistant", "Wait.", (Call("add", {"a": 1, "b": 2}), Call("add", {"a": "é", "b": None}))),
        Message("tool", "3"), Message("tool", "?"),
    ), (ADD,)),
    Chat((ASKED, Message("assistant", "", (Call("add", {}),), "one\ntwo"), Message("tool", "0"))),
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_tokenizer_and_template_travel(template: str, tmp_path: Path) -> None:
    """The ids of transformers' apply_chat_template in the folder are ours, tools and thoughts included."""
    made = pipeline(template)
    written = to_hugging_face(bundle_of(decoder(made), made, tmp_path / "bundle"), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(written.folder)
    for text in ("The quick fox, 敏捷!", " 1 + 1", "jumps\nover"):
        assert theirs(text)["input_ids"] == made.opened(text).tolist()
    again = import_model(written.folder, tmp_path / "again")
    assert isinstance(again.form, TextForm)
    assert again.form.pipeline.template == made.template
    assert again.form.pipeline.marks == made.marks
    compared = 0
    for chat in CHATS:
        if not template.startswith("qwen") and (chat.tools or any(m.calls for m in chat.messages)):
            continue
        rows = []
        for m in chat.messages:
            row: dict[str, Any] = {"role": m.role, "content": m.content}
            if m.calls:
                called = [{"name": call.name, "arguments": dict(call.arguments)} for call in m.calls]
                row["tool_calls"] = [{"type": "function", "function": call} for call in called]
            rows.append(row | ({"reasoning_content": m.thought} if m.thought else {}))
        found = theirs.apply_chat_template(
            rows, tools=[*chat.tools] or None, add_generation_prompt=True, return_dict=False
        )
        assert found == made.chat(chat, answer=True)[0].tolist()
        assert again.form.pipeline.chat(chat, answer=True)[0].tolist() == found
        compared += 1
    assert compared == (6 if template.startswith("qwen") else 3)


def test_sharded_in_half_precision(tmp_path: Path) -> None:
    theirs = their_model("qwen3").bfloat16()
    folder = folder_of(theirs, pipeline(), tmp_path, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    model, made = read_model(folder)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    ids = tokens(made.tokenizer.size)
    with torch.no_grad():
        right = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits
        torch.testing.assert_close(model.float()({"tokens": ids})[0]["tokens"], right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type of 'longrope'"),
        ({"hidden_act": "relu"}, "hidden_act of 'relu'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"num_hidden_layers": 4}, "model.layers.3.*missing"),
        ({"intermediate_size": 40}, r"mlp.gate_proj.weight: \(48, 32\)"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"vocab_size": 20}, "tokens, and the model 20"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = folder_of(their_model("llama"), pipeline(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises((ComponentError, Exception), match=named):
        read_model(folder)


def test_what_no_family_computes_is_refused(tmp_path: Path) -> None:
    made = pipeline()
    bundle = bundle_of(decoder(made, activation="gelu"), made, tmp_path / "bundle")
    with pytest.raises(ComponentError, match="no family"):
        to_hugging_face(bundle, tmp_path / "out")


PEFT = pytest.importorskip("peft")


def _their_adapter(theirs: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    config = PEFT.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **options)
    model = PEFT.get_peft_model(theirs, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "magnitude" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"target_modules": ["k_proj", "gate_proj", "up_proj", "o_proj"], "use_rslora": True},
        {"target_modules": ["q_proj", "o_proj", "up_proj"], "use_dora": True},
    ],
)
def test_adapters_to_and_from_peft(options: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(their_model("qwen3"), pipeline(), tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = _their_adapter(base, **options)
    theirs.save_pretrained(tmp_path / "adapter")
    model, made = read_model(folder)
    read_adapter(model, tmp_path / "adapter")
    ids = tokens(made.tokenizer.size)
    with torch.no_grad():
        right, ours = theirs(ids).logits, model({"tokens": ids})[0]["tokens"]
    torch.testing.assert_close(ours, right, atol=2e-4, rtol=1e-4)
    write_adapter(model, tmp_path / "again")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        back = PEFT.PeftModel.from_pretrained(base, tmp_path / "again").eval()(ids).logits
    torch.testing.assert_close(back, right, atol=2e-4, rtol=1e-4)


def test_adapters_that_can_not_be_are_named(tmp_path: Path) -> None:
    folder = folder_of(their_model("qwen3"), pipeline(), tmp_path)
    theirs = _their_adapter(transformers.AutoModelForCausalLM.from_pretrained(folder), target_modules=["q_proj"])
    theirs.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bias": "all"}))
    with pytest.raises(ComponentError, match="bias 'all'"):
        read_adapter(read_model(folder)[0], tmp_path / "adapter")


def test_layers_of_low_rank_are_written_whole(tmp_path: Path) -> None:
    base = pipeline()
    options = DecoderOptions(layers=1, width=32, heads=4, kv_heads=2, context=24)
    torch.manual_seed(0)
    changed, change = of_low_rank(Decoder(options, base.signature), 0.5)
    assert set(change.low_rank) == {
        f"blocks.0.{part}" for part in ("attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down")
    }
    bundle = write_bundle(
        tmp_path / "bundle", model=changed, options=options, signature=base.signature, form=TextForm(base),
        examples=[{"text": "The quick"}], compressed=change,
    )  # fmt: skip
    to_hugging_face(bundle, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(base.tokenizer.size, (2, 20), generator=torch.Generator().manual_seed(0))
    ours = load(tmp_path / "bundle").model({base.BLOCK: tokens})
    with torch.no_grad():
        torch.testing.assert_close(next(iter(ours[0].values())), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
