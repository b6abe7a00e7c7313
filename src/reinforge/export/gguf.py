"""A bundle's language model as one GGUF file, as llama.cpp and what is built on it read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.folders import name_of
from reinforge.bundle.network import dtype_name
from reinforge.bundle.text_form import TextForm
from reinforge.data.jinja_templates import JINJA_TEMPLATES
from reinforge.data.special_tokens import SpecialTokenizer
from reinforge.data.text import TextPipeline
from reinforge.data.tokenizers import BytePairTokenizer
from reinforge.errors import ComponentError, IntegrityError, MissingExtra, RecipeError
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.export.hugging_face import named_weights, tokenizer_json
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.families import config_of
from reinforge.storage.files import require_space

# Families of transformers, and what llama.cpp calls their architecture.
_ARCHITECTURES = {"llama": "llama"}
_FILE = "model.gguf"
# gguf.TokenType.
_NORMAL, _CONTROL = 1, 3


def to_gguf(bundle: Bundle, folder: Path) -> Exported:
    """Write model.gguf, weights in their own type, to a new folder, and read it back.

    Raises RecipeError for a bundle without a language model, ComponentError for a shape or tokenizer that it can't say,
    IntegrityError where what is read back differs, MissingExtra, PathError.
    """
    model, form = bundle.model, bundle.form
    if not isinstance(model, Decoder) or not isinstance(form, TextForm):
        raise RecipeError(
            _("only language models have a form of llama.cpp"), where=str(bundle.path),
            remedy=_("Give the bundle of a decoder, or export another with --to onnx."),
        )  # fmt: skip
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:
        raise MissingExtra("gguf", "export") from None
    where, pipeline = str(bundle.path), form.pipeline
    config = config_of(model.options, pipeline.tokenizer.size, dtype_name(model), where)
    family, scaling = str(config["model_type"]), model.options.rotary.scaling
    if family not in _ARCHITECTURES or scaling not in ("none", "linear") or model.options.window is not None:
        told = _("{family} is not written yet: {known} are").format(
            family=family if family not in _ARCHITECTURES else f"rotary scaling {scaling}",
            known=", ".join(_ARCHITECTURES),
        )
        raise ComponentError(
            told, where=where, remedy=_("llama.cpp knows its shapes no other way: take --to huggingface.")
        )
    base = pipeline.tokenizer.base if isinstance(pipeline.tokenizer, SpecialTokenizer) else pipeline.tokenizer
    if not isinstance(base, BytePairTokenizer) or base.alphabet != "bytes":
        raise ComponentError(
            _("a tokenizer of this kind has no form in GGUF"), where=where,
            remedy=_("Train with data.tokenizer=byte-pair."),
        )  # fmt: skip
    written = weights(gguf, model, _ARCHITECTURES[family])
    require_space(folder.parent, sum(array.nbytes for array, _kind in written.values()) + (1 << 20))
    with new_folder(folder) as staging:
        writer = gguf.GGUFWriter(staging / _FILE, _ARCHITECTURES[family])
        _settings(gguf, writer, model, name_of(bundle.path, bundle.provenance))
        _tokens(writer, pipeline, base, where)
        for name, (array, kind) in written.items():
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _verify(gguf, staging / _FILE, written, pipeline)
    return exported(folder, f"gguf {_ARCHITECTURES[family]}")


def weights(gguf: Any, model: Decoder, architecture: str) -> dict[str, tuple[np.ndarray[Any, Any], Any]]:
    """Each tensor's array and type by llama.cpp's name. bfloat16 goes as the bytes that it is."""
    options = model.options
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, options.layers)
    heads = {"q_proj": options.heads, "k_proj": options.kv_heads or options.heads}
    types = gguf.GGMLQuantizationType
    found: dict[str, tuple[np.ndarray[Any, Any], Any]] = {}
    for name, tensor in named_weights(model):
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise ComponentError(
                _("llama.cpp has no place for the weight {name!r}").format(name=name), where="--to gguf"
            )
        for part, count in heads.items():
            if f".{part}." in name:
                tensor = interleaved(tensor, count)
        if tensor.ndim == 1:
            # As llama.cpp wants them.
            tensor = tensor.float()
        tensor = tensor.contiguous()
        if tensor.dtype == torch.bfloat16:
            found[mapped] = (tensor.view(torch.uint8).numpy(), types.BF16)
        else:
            found[mapped] = (tensor.numpy(), types.F16 if tensor.dtype == torch.float16 else types.F32)
    return found


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys (heads * width, ...) in llama.cpp's order for Llama: it turns neighbours, (0, 1), (2, 3),
    where transformers and we turn the halves, (0, width / 2), (1, width / 2 + 1)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _settings(gguf: Any, writer: Any, model: Decoder, name: str) -> None:
    options = model.options
    writer.add_name(name)
    writer.add_context_length(options.context)
    writer.add_embedding_length(options.width)
    writer.add_block_count(options.layers)
    writer.add_feed_forward_length(options.hidden_width)
    writer.add_head_count(options.heads)
    writer.add_head_count_kv(options.kv_heads or options.heads)
    writer.add_key_length(options.each_head)
    writer.add_value_length(options.each_head)
    writer.add_rope_dimension_count(options.each_head)
    writer.add_rope_freq_base(options.rotary.base)
    if options.rotary.scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(options.rotary.factor)
    writer.add_layer_norm_rms_eps(options.norm_epsilon)
    writer.add_vocab_size(len(model.embedding.weight))
    types = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[types[model.embedding.weight.dtype]])


def _tokens(writer: Any, pipeline: TextPipeline, base: BytePairTokenizer, where: str) -> None:
    """The vocabulary in the form of GPT-2's: pieces of bytes, merges, special tokens."""
    told = tokenizer_json(pipeline, where)
    pieces, kinds = vocabulary(told)
    writer.add_tokenizer_model("gpt2")
    # StarCoder cuts texts as GPT-2 does, but around single digits.
    writer.add_tokenizer_pre("starcoder" if base.digits == "single" else "gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]])
    places = {piece: place for place, piece in enumerate(pieces)}
    marks, template = pipeline.marks, pipeline.template
    stop = next((text for text in (template.stop if template else ()) if text != "eos"), marks.eos)
    for text, add in (
        (marks.bos, writer.add_bos_token_id), (marks.eos or stop, writer.add_eos_token_id),
        (marks.pad, writer.add_pad_token_id), (stop, writer.add_eot_token_id),
    ):  # fmt: skip
        if text is not None and text in places:
            add(places[text])
    writer.add_add_bos_token(marks.bos is not None)
    if template is not None and template.name in JINJA_TEMPLATES:
        writer.add_chat_template(JINJA_TEMPLATES[template.name])


def vocabulary(told: Any) -> tuple[list[str], list[int]]:
    """Pieces in the order of their ids, and of what type each is. The first stands for no text."""
    added = {token["id"]: token["content"] for token in told["added_tokens"]}
    known = {place: piece for piece, place in told["model"]["vocab"].items()} | added
    pieces = [known[place] for place in range(len(known))]
    return pieces, [_CONTROL if place in added or place == 0 else _NORMAL for place in range(len(pieces))]


def _verify(
    gguf: Any, path: Path, written: dict[str, tuple[np.ndarray[Any, Any], Any]], pipeline: TextPipeline
) -> None:
    """Raise IntegrityError unless the file's own reader finds what was written."""
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, (array, kind) in written.items():
        tensor = found.get(name)
        if tensor is None or tensor.tensor_type != kind or tensor.data.tobytes() != array.tobytes():
            raise IntegrityError(_("what was read back differs: {name!r}").format(name=name), where=str(path))
    tokens = reader.get_field("tokenizer.ggml.tokens")
    if tokens is None or len(tokens.data) != pipeline.tokenizer.size or len(found) != len(written):
        raise IntegrityError(_("what was read back differs: {name!r}").format(name="tokens"), where=str(path))
