"""A bundle's language model as a folder that transformers, vLLM, llama.cpp and others load."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.network import dtype_name
from reinforge.bundle.text_form import TextForm
from reinforge.core.tensor_files import chunks
from reinforge.data.jinja_templates import JINJA_TEMPLATES
from reinforge.data.special_tokens import LanguageTokenizer, SpecialTokenizer
from reinforge.data.text import TextPipeline
from reinforge.data.tokenizers import BytePairTokenizer
from reinforge.errors import ComponentError, RecipeError
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.messages import _
from reinforge.models.compressed import whole
from reinforge.models.decoder import Decoder
from reinforge.models.families import config_of, weight_names
from reinforge.storage.files import require_space

SHARD_BYTES = 4 << 30


def to_hugging_face(bundle: Bundle, folder: Path, *, shard: int = SHARD_BYTES) -> Exported:
    """Write config, sharded safetensors, tokenizer, special tokens and chat template to a new folder.

    Weights keep their type; each file has at most `shard` bytes. Raises RecipeError for a bundle without a language
    model, ComponentError for one that no family of transformers computes, PathError where the folder is not empty.
    """
    model, form = bundle.model, bundle.form
    if not isinstance(model, Decoder) or not isinstance(form, TextForm):
        raise RecipeError(
            _("only language models have a form of transformers"), where=str(bundle.path),
            remedy=_("Give the bundle of a decoder, or export another with --to onnx."),
        )  # fmt: skip
    where, pipeline = str(bundle.path), form.pipeline
    config = config_of(model.options, pipeline.tokenizer.size, dtype_name(model), where)
    description = tokenizer_json(pipeline, where)
    settings = tokenizer_config(pipeline)
    eos = list(pipeline.stops)
    special = {name: _id(pipeline, getattr(pipeline.marks, name)) for name in ("bos", "pad")}
    config |= {"bos_token_id": special["bos"], "pad_token_id": special["pad"], "eos_token_id": eos or None}
    generation = {"bos_token_id": special["bos"], "pad_token_id": special["pad"], "eos_token_id": eos or None}
    weights = dict(named_weights(model))
    size = sum(tensor.nbytes for tensor in weights.values())
    require_space(folder.parent, size + (1 << 20))
    with new_folder(folder) as staging:
        _write_weights(staging, weights, shard)
        for name, value in (
            ("config.json", config), ("generation_config.json", generation), ("tokenizer.json", description),
            ("tokenizer_config.json", settings),
        ):  # fmt: skip
            text = json.dumps(value, ensure_ascii=False, indent=2)
            (staging / name).write_text(text + "\n", encoding="utf-8")
    return exported(folder, str(config["model_type"]))


def named_weights(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Every weight under transformers' name, as views; layers of low rank, which others don't have, whole."""
    for ours, theirs in weight_names(model.options).items():
        parameter = whole(model, ours)
        if len(theirs) == 1:
            yield theirs[0], parameter
            continue
        owner: Any = model.get_submodule(ours.rpartition(".")[0])
        yield from zip(theirs, torch.split(parameter, list(owner.parts.values())))


def _write_weights(folder: Path, weights: Mapping[str, Tensor], shard: int) -> None:
    """One file, or several of at most `shard` bytes with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        if shards[-1] and filled + tensor.nbytes > shard:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{place:05d}-of-{len(shards):05d}.safetensors" for place in range(1, len(shards) + 1)]
        mapping = {key: name for name, part in zip(names, shards) for key in part}
        total = sum(tensor.nbytes for tensor in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": mapping}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, part in zip(names, shards):
        with (folder / name).open("xb") as file:
            for piece in chunks(part):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def tokenizer_json(pipeline: TextPipeline, where: str) -> Any:
    """tokenizer.json of the pipeline's tokenizer. Raises ComponentError for one of characters or words."""
    tokenizer = pipeline.tokenizer
    if isinstance(tokenizer, LanguageTokenizer):
        return tokenizer.to_json()["tokenizer"]
    base = tokenizer.base if isinstance(tokenizer, SpecialTokenizer) else tokenizer
    if not isinstance(base, BytePairTokenizer):
        raise ComponentError(
            _("a tokenizer.json can't say its tokenizer, {kind}").format(kind=type(base).__name__), where=where,
            remedy=_("Train with data.tokenizer=byte-pair."),
        )  # fmt: skip
    from tokenizers import AddedToken, Tokenizer, processors

    library = Tokenizer.from_str(base.to_tokenizer_json())
    if isinstance(tokenizer, SpecialTokenizer):
        library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in tokenizer.specials])
    bos = pipeline.marks.bos
    if bos is not None:
        # Texts begin as they do here.
        first = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, _id(pipeline, bos))])
        own = [library.post_processor] if library.post_processor is not None else []
        library.post_processor = processors.Sequence([*own, first])
    return json.loads(library.to_str())


def tokenizer_config(pipeline: TextPipeline) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template in Jinja."""
    marks, template = pipeline.marks, pipeline.template
    # What ends an answer is what others' tools stop at.
    stop = next((text for text in (template.stop if template else ()) if text != "eos"), marks.eos)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": marks.bos, "eos_token": marks.eos or stop,
        "pad_token": marks.pad, "clean_up_tokenization_spaces": False, "add_bos_token": marks.bos is not None,
    }  # fmt: skip
    return config | ({} if template is None else {"chat_template": JINJA_TEMPLATES[template.name]})


def _id(pipeline: TextPipeline, text: str | None) -> int | None:
    tokenizer: Any = pipeline.tokenizer
    return None if text is None else int(tokenizer.special(text))
