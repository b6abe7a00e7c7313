"""Families of public decoders: what a config.json of transformers says as options of ours, and their names of weights.

Free of transformers: only its file format is read and written. A config that says what this decoder can't do is refused
by the key's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.models.decoder_options import DecoderOptions, RotaryOptions

Config = Mapping[str, Any]

# What a family's config leaves out where it says nothing (transformers' own defaults).
_SHARED: Mapping[str, Any] = {
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "rope_theta": 10_000.0, "max_position_embeddings": 2048, "sliding_window": None,
    "use_sliding_window": False, "num_key_value_heads": None, "head_dim": None,
}  # fmt: skip
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {
        "max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096,
    },
    "smollm3": {
        "max_position_embeddings": 32768, "num_key_value_heads": 4, "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True, "no_rope_layer_interval": 4,
    },
    "gemma3_text": {
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131072, "rope_theta": 1_000_000.0, "sliding_window": 4096,
        "rope_local_base_freq": 10_000.0, "query_pre_attn_scalar": 256, "sliding_window_pattern": 6,
    },
}  # fmt: skip
FAMILIES = tuple(_DEFAULTS)
# Keys that change what is computed, and the one value of each that is known here.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "attn_logit_softcapping": (None,), "final_logit_softcapping": (None,), "use_bidirectional_attention": (None, False),
    "pretraining_tp": (None, 1), "partial_rotary_factor": (None, 1.0), "quantization_config": (None,),
    "logit_scale": (None, 1.0), "num_local_experts": (None,), "num_experts": (None,),
}  # fmt: skip


def options_of(config: Config, where: str) -> DecoderOptions:
    """The decoder's options that a config.json describes. Raises ComponentError that names the key which can't be."""
    family = str(config.get("model_type"))
    if family not in _DEFAULTS:
        inside = config.get("text_config")
        remedy = _("Known: {names}.").format(names=", ".join(FAMILIES))
        if isinstance(inside, Mapping) and inside.get("model_type") in _DEFAULTS:
            remedy = _("It sees images too; give a folder of its text part alone ({family}).").format(
                family=inside["model_type"]
            )
        raise _refusal(where, "model_type", family, remedy)
    said = {key: value for key, value in config.items() if value is not None or key in ("sliding_window",)}
    whole: dict[str, Any] = {**_SHARED, **_DEFAULTS[family], **said}
    for key, allowed in _ONLY.items():
        if whole.get(key) not in allowed:
            raise _refusal(where, key, whole[key])
    options = _common(whole, family, where)
    layers: int = options["layers"]
    if family == "gemma3_text":
        options |= _gemma(whole, layers, where)
    else:
        options |= _kinds(whole, family, layers, where)
        options["rotary"] = _rotary(whole.get("rope_parameters"), whole, where)
    try:
        return DecoderOptions.model_validate(options)
    except ValueError as error:
        raise ComponentError(
            _("its config describes no decoder: {reason}").format(reason=str(error).splitlines()[-2].strip()),
            where=f"{where}, config.json",
        ) from None


def _common(whole: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    activation = whole["hidden_activation"] if family == "gemma3_text" else whole["hidden_act"]
    known = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}
    if activation not in known:
        raise _refusal(where, "hidden_act", activation)
    attention, mlp = bool(whole["attention_bias"]), bool(whole["mlp_bias"])
    if mlp and not attention:
        raise _refusal(where, "mlp_bias", mlp)
    bias = "all" if mlp else "attention" if attention else "qkv" if family == "qwen2" else "none"
    try:
        sizes = {
            "layers": int(whole["num_hidden_layers"]), "width": int(whole["hidden_size"]),
            "heads": int(whole["num_attention_heads"]), "hidden": int(whole["intermediate_size"]),
        }  # fmt: skip
    except KeyError as error:
        raise ComponentError(
            _("its config has no {key}").format(key=error.args[0]), where=f"{where}, config.json"
        ) from None
    kv_heads = whole["num_key_value_heads"] or sizes["heads"]
    return {
        **sizes, "kv_heads": min(int(kv_heads), sizes["heads"]) if "num_key_value_heads" in whole else None,
        "head_width": whole["head_dim"], "context": whole["max_position_embeddings"],
        "tied": bool(whole["tie_word_embeddings"]), "activation": known[activation], "bias": bias,
        "qk_norm": family in ("qwen3", "gemma3_text"), "norm_epsilon": whole["rms_norm_eps"],
    }  # fmt: skip


def _kinds(whole: Mapping[str, Any], family: str, layers: int, where: str) -> dict[str, Any]:
    """Which layers see a window, and which are not turned."""
    window = whole["sliding_window"]
    if family == "mistral":
        return {"window": window, "pattern": ("local",)} if window else {}
    given = whole.get("layer_types")
    local = [False] * layers
    if whole["use_sliding_window"] and window:
        if given is not None:
            local = [kind == "sliding_attention" for kind in given]
        else:
            local = [layer >= int(whole.get("max_window_layers", 28)) for layer in range(layers)]
    unrotated = [False] * layers
    if family == "smollm3":
        every = int(whole["no_rope_layer_interval"])
        turned = whole.get("no_rope_layers") or [int((layer + 1) % every != 0) for layer in range(layers)]
        unrotated = [not turn for turn in turned]
    if any(a and b for a, b in zip(local, unrotated)):
        raise _refusal(where, "layer_types", given, _("Layers without positions see everything here."))
    kinds = ["local" if a else "unrotated" if b else "global" for a, b in zip(local, unrotated)]
    return {"pattern": _shortest(kinds), **({"window": window} if any(local) else {})}


def _gemma(whole: Mapping[str, Any], layers: int, where: str) -> dict[str, Any]:
    kinds = whole.get("layer_types")
    if kinds is None:
        every = int(whole["sliding_window_pattern"])
        kinds = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]
    both = whole.get("rope_parameters") or {}
    nested = isinstance(both.get("full_attention"), Mapping)
    local = {**whole, "rope_theta": whole["rope_local_base_freq"], "rope_scaling": None}
    return {
        "post_norm": True, "norm_offset": True, "embedding_scale": math.sqrt(whole["hidden_size"]),
        "attention_scale": whole["query_pre_attn_scalar"] ** -0.5, "window": whole["sliding_window"],
        "pattern": _shortest(["local" if kind == "sliding_attention" else "global" for kind in kinds]),
        "rotary": _rotary(both["full_attention"] if nested else both or None, whole, where),
        "local_rotary": _rotary(both.get("sliding_attention") if nested else None, local, where),
    }  # fmt: skip


def _shortest(kinds: list[str]) -> tuple[str, ...]:
    """The shortest pattern that, over and over, gives these."""
    for size in range(1, len(kinds) + 1):
        if all(kind == kinds[place % size] for place, kind in enumerate(kinds)):
            return tuple(kinds[:size])
    return ("global",)


def _rotary(given: Mapping[str, Any] | None, whole: Mapping[str, Any], where: str) -> RotaryOptions:
    """From `rope_parameters`, or from the older rope_theta and rope_scaling."""
    said = dict(given if given is not None else whole.get("rope_scaling") or {})
    base = float(said.get("rope_theta", whole["rope_theta"]))
    kind = said.get("rope_type", said.get("type", "default"))
    if said.get("partial_rotary_factor") not in (None, 1.0):
        raise _refusal(where, "partial_rotary_factor", said["partial_rotary_factor"])
    if kind == "default":
        return RotaryOptions(base=base)
    context = said.get("original_max_position_embeddings") or whole["max_position_embeddings"]
    if kind == "linear":
        return RotaryOptions(base=base, scaling="linear", factor=said["factor"])
    if kind == "llama3":
        return RotaryOptions(
            base=base, scaling="llama3", factor=said["factor"], original_context=context,
            low=said["low_freq_factor"], high=said["high_freq_factor"],
        )  # fmt: skip
    if kind == "yarn" and not (said.get("mscale") or said.get("mscale_all_dim")):
        return RotaryOptions(
            base=base, scaling="yarn", factor=said["factor"], original_context=context,
            low=said.get("beta_slow") or 1.0, high=said.get("beta_fast") or 32.0,
            attention=said.get("attention_factor"), whole=said.get("truncate", True),
        )  # fmt: skip
    raise _refusal(where, "rope_scaling.rope_type", kind, _("Known: {names}.").format(names="linear, llama3, yarn"))


def _refusal(where: str, key: str, value: object, remedy: str | None = None) -> ComponentError:
    return ComponentError(
        _("the decoder has no {key} of {value}").format(key=key, value=repr(value)[:80]), where=f"{where}, config.json",
        remedy=remedy or _("Its networks differ from those known here: {names}.").format(names=", ".join(FAMILIES)),
    )  # fmt: skip


# And back.


def config_of(options: DecoderOptions, vocabulary: int, dtype: str, where: str) -> dict[str, Any]:
    """A config.json that says the same: of the first family whose network computes the same.

    Raises ComponentError where there is none.
    """
    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": options.width, "intermediate_size": options.hidden_width,
        "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads or options.heads, "head_dim": options.each_head,
        "max_position_embeddings": options.context, "rms_norm_eps": options.norm_epsilon,
        "tie_word_embeddings": options.tied, "hidden_act": "silu", "attention_bias": False,
        "rope_theta": options.rotary.base, "rope_scaling": _scaling(options.rotary), "dtype": dtype,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    for build in (_as_llama, _as_mistral, _as_qwen2, _as_qwen3, _as_smollm3, _as_gemma3):
        config = {**common, **build(options)}
        # What is told back the same computes the same.
        if _same(options_of(config, where), options):
            return config
    raise ComponentError(
        _("no family of transformers computes what this decoder does"), where=where,
        remedy=_("Export it otherwise, or train one of the shapes {names}.").format(names=", ".join(FAMILIES)),
    )  # fmt: skip


def _same(one: DecoderOptions, other: DecoderOptions) -> bool:
    def plain(options: DecoderOptions) -> dict[str, Any]:
        used = {options.layer_kind(layer) for layer in range(options.layers)}
        return {
            **options.model_dump(), "depth": None, "dropout": 0.0, "kv_heads": options.kv_heads or options.heads,
            "hidden": options.hidden_width, "head_width": options.each_head, "pattern": None,
            "kinds": [options.layer_kind(layer) for layer in range(options.layers)],
            "window": options.window if "local" in used else None,
            "attention_scale": options.attention_scale or options.each_head**-0.5,
            "local_rotary": (options.local_rotary or options.rotary).model_dump() if "local" in used else None,
        }  # fmt: skip

    return plain(one) == plain(other)


def _scaling(rotary: RotaryOptions) -> dict[str, Any] | None:
    match rotary.scaling:
        case "none":
            return None
        case "linear":
            return {"rope_type": "linear", "factor": rotary.factor}
        case "llama3":
            return {
                "rope_type": "llama3", "factor": rotary.factor, "low_freq_factor": rotary.low,
                "high_freq_factor": rotary.high or 4.0, "original_max_position_embeddings": rotary.original_context,
            }  # fmt: skip
        case "yarn":
            factor = {} if rotary.attention is None else {"attention_factor": rotary.attention}
            return {
                "rope_type": "yarn", "factor": rotary.factor, "beta_slow": rotary.low,
                "beta_fast": rotary.high or 32.0, "truncate": rotary.whole, **factor,
                "original_max_position_embeddings": rotary.original_context,
            }  # fmt: skip


def _as_llama(o: DecoderOptions) -> dict[str, Any]:
    bias = {"attention_bias": o.bias in ("attention", "all"), "mlp_bias": o.bias == "all"}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **bias}


def _as_mistral(o: DecoderOptions) -> dict[str, Any]:
    return {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": o.window}


def _layers(o: DecoderOptions) -> dict[str, Any]:
    kinds = [o.layer_kind(layer) for layer in range(o.layers)]
    types = ["sliding_attention" if kind == "local" else "full_attention" for kind in kinds]
    return {"use_sliding_window": "local" in kinds, "sliding_window": o.window, "layer_types": types}


def _as_qwen2(o: DecoderOptions) -> dict[str, Any]:
    # Its heads have no width of their own, and its attention_bias is not asked.
    return {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], **_layers(o)}


def _as_qwen3(o: DecoderOptions) -> dict[str, Any]:
    bias = {"attention_bias": o.bias == "attention"}
    return {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **_layers(o), **bias}


def _as_smollm3(o: DecoderOptions) -> dict[str, Any]:
    turned = [int(o.layer_kind(layer) != "unrotated") for layer in range(o.layers)]
    bias = {"attention_bias": o.bias in ("attention", "all"), "mlp_bias": o.bias == "all"}
    named = {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], **_layers(o), **bias}
    return {**named, "no_rope_layers": turned, "no_rope_layer_interval": o.layers + 1}


def _as_gemma3(o: DecoderOptions) -> dict[str, Any]:
    local = o.local_rotary or o.rotary
    scale = o.attention_scale or o.each_head**-0.5
    scalar = scale**-2
    return {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-9 * scalar else scalar,
        "rope_local_base_freq": local.base, **_layers(o), "sliding_window": o.window or o.context,
        "attention_bias": o.bias == "attention", "hidden_act": None,
    }  # fmt: skip


# Names of weights: ours, and theirs, joined in this order along the first dimension.


def weight_names(options: DecoderOptions) -> dict[str, tuple[str, ...]]:
    """By each of our weights, those of transformers' that are it."""
    found: dict[str, tuple[str, ...]] = {"embedding.weight": ("model.embed_tokens.weight",)}
    with_bias = {
        "attention.qkv": options.bias != "none", "attention.out": options.bias in ("attention", "all"),
        "feed_forward.gate_up": options.bias == "all", "feed_forward.down": options.bias == "all",
    }  # fmt: skip
    parts: dict[str, Callable[[str], tuple[str, ...]]] = {
        "attention.qkv": lambda at: tuple(f"{at}self_attn.{part}_proj" for part in "qkv"),
        "attention.out": lambda at: (f"{at}self_attn.o_proj",),
        "feed_forward.gate_up": lambda at: (f"{at}mlp.gate_proj", f"{at}mlp.up_proj"),
        "feed_forward.down": lambda at: (f"{at}mlp.down_proj",),
    }
    norms = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
    if options.post_norm:
        norms |= {
            "attention_post_norm": "post_attention_layernorm", "feed_forward_norm": "pre_feedforward_layernorm",
            "feed_forward_post_norm": "post_feedforward_layernorm",
        }  # fmt: skip
    if options.qk_norm:
        norms |= {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
    for layer in range(options.layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        for name, of in parts.items():
            for leaf in ("weight", "bias") if with_bias[name] else ("weight",):
                found[f"{ours}{name}.{leaf}"] = tuple(f"{part}.{leaf}" for part in of(theirs))
        for name, other in norms.items():
            found[f"{ours}{name}.weight"] = (f"{theirs}{other}.weight",)
    found["norm.weight"] = ("model.norm.weight",)
    if not options.tied:
        found["head.weight"] = ("lm_head.weight",)
    return found
