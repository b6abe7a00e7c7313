"""A folder of transformers becomes a bundle: config, sharded safetensors, tokenizer, special tokens, chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.core.seeds import undisturbed
from reinforge.data.template_import import JINJA, TOKENIZER_CONFIG, pipeline_of
from reinforge.data.text import TextPipeline
from reinforge.errors import ComponentError, IntegrityError
from reinforge.messages import _
from reinforge.models.decoder import Decoder, Joined
from reinforge.models.families import options_of, weight_names
from reinforge.storage.model_folder import CONFIG, TOKENIZER, WEIGHTS, model_folder, read_json

# Golden rows of an imported model: what it says of them is what it must go on saying.
EXAMPLES = ("The quick brown fox jumps over the lazy dog.", "1 + 1 = 2", "敏捷的棕色狐狸跳过了懒狗。")
INDEX = "model.safetensors.index.json"


def is_model_folder(path: str | Path) -> bool:
    """Whether it is a folder of transformers rather than a bundle."""
    folder = Path(path)
    return (folder / CONFIG).is_file() and not (folder / "manifest.json").exists()


def import_model(source: str | Path, path: Path | str) -> Bundle:
    """Write a new bundle of the causal language model in a folder of transformers (or package:NAME/PATH, or a hub id).

    Weights keep their type and are read one at a time. Raises ComponentError that names what of the config, the weights
    or the tokenizer can't be.
    """
    model, pipeline = read_model(source)
    return write_bundle(
        path, model=model, options=model.options, signature=pipeline.signature, form=TextForm(pipeline),
        examples=_examples(pipeline, model.options.context),
        provenance={"name": Path(str(source)).name, "imported": str(source)},
    )  # fmt: skip


def read_model(source: str | Path) -> tuple[Decoder, TextPipeline]:
    """The decoder in evaluation mode, and the pipeline of its tokenizer. Raises as `import_model`."""
    where = str(source)
    folder = model_folder(where, (CONFIG, TOKENIZER, TOKENIZER_CONFIG, JINJA, *WEIGHTS))
    config = read_json(folder, CONFIG, where)
    if not isinstance(config, Mapping):
        raise IntegrityError("it is no object", where=f"{where}, {CONFIG}")
    options, size = options_of(config, where), config.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ComponentError(_("its config has no {key}").format(key="vocab_size"), where=f"{where}, {CONFIG}")
    pipeline = pipeline_of(where, size=size)
    with undisturbed():
        model = Decoder(options, pipeline.signature)
    kind = _dtype(config, where)
    # Not the tables of angles, which must stay exact.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(kind)
    _fill(model, folder, where)
    return model.eval(), pipeline


def _examples(pipeline: TextPipeline, context: int) -> list[dict[str, str]]:
    """Golden rows that the context has room for."""
    rows = []
    for text in EXAMPLES:
        while len(pipeline.opened(text)) > context:
            text = text[: len(text) // 2]
        if len(text) > 1 and len(pipeline.opened(text)) > 1:
            rows.append({pipeline.FIELD: text})
    return rows


def _dtype(config: Mapping[str, Any], where: str) -> torch.dtype:
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ComponentError(
            _("the decoder has no {key} of {value}").format(key="dtype", value=name), where=f"{where}, {CONFIG}",
            remedy=_("Known: {names}.").format(names=", ".join(known)),
        )  # fmt: skip
    return known[name]


def _fill(model: Decoder, folder: Path, where: str) -> None:
    """Copy every weight to its place. Raises ComponentError that lists what is missing or of another shape."""
    places: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    widths = {id(module): module.parts for module in model.modules() if isinstance(module, Joined)}
    for ours, theirs in weight_names(model.options).items():
        parameter = parameters[ours].detach()
        owner = model.get_submodule(ours.rpartition(".")[0])
        sizes = list(widths[id(owner)].values()) if len(theirs) > 1 else [len(parameter)]
        places.update(zip(theirs, torch.split(parameter, sizes)))
    missing, wrong = set(places), []
    for name, tensor in _tensors(folder, where, set(places)):
        if name in missing:
            missing.discard(name)
            if tensor.shape != places[name].shape:
                wrong.append(f"{name}: {tuple(tensor.shape)}, {tuple(places[name].shape)} by its config")
            else:
                places[name].copy_(tensor)
    if missing or wrong:
        listing = [*wrong, *(f"{name}: missing" for name in sorted(missing))]
        raise ComponentError(
            _("its weights are not those of its config ({listing})").format(
                listing="; ".join([*listing[:5], *(["..."] if len(listing) > 5 else [])])
            ),
            where=where,
            remedy=_("Check that all its files are there, and that it is a whole model rather than an adapter."),
        )


def _tensors(folder: Path, where: str, wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    """The wanted tensors of all the folder's safetensors files, one in memory at a time."""
    if (folder / INDEX).is_file():
        index = read_json(folder, INDEX, where)
        mapping = index.get("weight_map") if isinstance(index, Mapping) else None
        if not isinstance(mapping, Mapping) or not all(isinstance(name, str) for name in mapping.values()):
            raise IntegrityError("its weight_map is malformed", where=f"{where}, {INDEX}")
        names = sorted({str(name) for name in mapping.values()})
    else:
        names = [WEIGHTS[0]]
    for name in names:
        path = folder / Path(name).name
        if not path.is_file():
            raise ComponentError(
                _("it has no {file}").format(file=Path(name).name), where=where,
                remedy=_("It must be a model in the form of transformers: {file}, safetensors.").format(file=CONFIG),
            )  # fmt: skip
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    if key in wanted:
                        yield key, file.get_tensor(key)
        except SafetensorError as error:
            raise IntegrityError(f"it is damaged: {str(error)[:200]}", where=str(path)) from None
