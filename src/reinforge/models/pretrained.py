"""Networks of transformers as encoders of texts and images: from their files with weights, or from a config alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Leaf
from reinforge.errors import ComponentError, MissingExtra
from reinforge.models.options import PretrainedOptions
from reinforge.models.tokens import Padded, TokenEncoder, padded, pooled
from reinforge.schema.signature import Input
from reinforge.storage.model_folder import CONFIG, PREPROCESSOR, WEIGHTS, model_folder, read_json

# What a config may say that is about files, code, other heads or numerics, and not about the network.
_ASIDE = frozenset(
    {
        "model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path", "auto_map", "dtype",
        "torch_dtype", "id2label", "label2id", "problem_type", "output_hidden_states", "output_attentions",
        "return_dict", "attn_implementation", "experts_implementation", "quantization_config", "use_cache",
    }
)  # fmt: skip
# Networks inside networks, which a config could name by files or packages of their own.
_BACKBONES = ("backbone", "backbone_config", "timm_model_name")
# A tokenizer's ids may be a few fewer than a network's, which are rounded up, and no more.
_OWN_VOCABULARY = 0.9


def pretrained(options: PretrainedOptions, block: Input) -> nn.Module:
    """A network of transformers for tokens or images. It keeps, as `described`, options that build it without files.

    Raises ComponentError where it can't be had or does not fit the block, MissingExtra without transformers.
    """
    if block.form not in ("tokens", "image"):
        raise ComponentError(
            f"it takes tokens or images, not {block.form}", where="encoder 'pretrained'", remedy="Name another encoder."
        )
    folder: Path | None = None
    if options.config is None:
        folder = model_folder(options.source, (CONFIG, PREPROCESSOR, *(WEIGHTS if options.weights else ())))
        options = _described(options, folder, images=block.form == "image")
    network = _network(options, folder)
    kind = PretrainedImages if block.form == "image" else PretrainedText
    wanted = "pixel_values" if block.form == "image" else "input_ids"
    if getattr(network, "main_input_name", None) != wanted or getattr(network.config, "is_encoder_decoder", False):
        raise ComponentError(
            f"{type(network).__name__} is no encoder of {'images' if block.form == 'image' else 'texts'}",
            where=options.source,
        )
    return kind(options.model_copy(update={"weights": False}), block, network)


class PretrainedText(TokenEncoder):
    """A text encoder of transformers; its tokenizer must be the one it was trained with."""

    def __init__(self, options: PretrainedOptions, block: Input, network: nn.Module) -> None:
        super().__init__("pretrained", block)
        config: Any = network.config
        if not _OWN_VOCABULARY * config.vocab_size <= self.vocabulary <= config.vocab_size:
            raise ComponentError(
                f"it knows {config.vocab_size:,} tokens of its own, and the text is made of {self.vocabulary:,} others",
                where=options.source,
                remedy=f"Give the field its tokenizer: tokenizer: {{kind: pretrained, source: {options.source}}}",
            )
        self.context = _context(network)
        if block.shape and self.context is not None and block.shape[0] > self.context:
            raise ComponentError(
                f"it reads {self.context} tokens, and the texts have up to {block.shape[0]}", where=options.source,
                remedy=f"Set the field's length to {self.context} or fewer.",
            )  # fmt: skip
        self.network, self.described = network, options
        self.padding = config.pad_token_id or 0
        self.how, self.dropout = options.pool, options.dropout
        self.features = self.token_features = int(config.hidden_size)

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, features): the last layer."""
        tokens = padded(block)
        ids, mask = tokens.ids.long(), tokens.mask
        if self.context is not None and ids.shape[1] > self.context:
            raise ComponentError(
                f"{ids.shape[1]} tokens do not fit the {self.context} that it reads", where=self.described.source,
                remedy="Shorten the texts.",
            )  # fmt: skip
        if not ids.shape[0]:
            weight = next(self.network.parameters())
            return weight.new_zeros(*ids.shape, self.features), mask
        if tokens.full:
            return self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state, mask
        # A row without a token looks at its first place, so that nothing is divided by 0; it is struck out after.
        seen = mask.clone()
        seen[:, 0] = True
        ids = ids.masked_fill(~mask, self.padding)
        found = self.network(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        return found.masked_fill(~mask.unsqueeze(-1), 0), mask

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, features): the mean over tokens, or the first."""
        features = pooled(sequence, mask, "first" if self.how == "cls" else "mean")
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


class PretrainedImages(nn.Module):
    """An image encoder of transformers: bytes, or float32 from 0 to 1, normalised as it was trained.

    A grey image is shown to a network of colours three times. Vision Transformers interpolate their positions for
    images of another size.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, options: PretrainedOptions, block: Input, network: nn.Module) -> None:
        super().__init__()
        config: Any = network.config
        channels = int(getattr(config, "num_channels", 3))
        if len(block.shape) != 3 or block.shape[0] not in (1, channels):
            raise ComponentError(
                f"it takes images of {channels} channels, not of shape {block.shape}", where=options.source,
                remedy=f"Set the field's channels to {channels}.",
            )  # fmt: skip
        self.network, self.described, self.channels = network, options, channels
        for name, given in (("mean", options.mean), ("deviation", options.deviation)):
            values = torch.tensor(given if given is not None else (0.5,) * channels)
            if len(values) != channels or (name == "deviation" and not bool((values > 0).all())):
                raise ComponentError(f"`{name}` must be {channels} numbers, one a channel", where=options.source)
            self.register_buffer(name, values.view(1, channels, 1, 1), persistent=False)
        self.how, self.dropout = options.pool, options.dropout
        sides, own = tuple(block.shape[1:]), getattr(config, "image_size", None)
        other = own is not None and sides != (tuple(own) if isinstance(own, list | tuple) else (own, own))
        takes = inspect.signature(network.forward).parameters
        self.more = {"interpolate_pos_encoding": True} if other and "interpolate_pos_encoding" in takes else {}
        shape = self._try(block)
        self.convolutional = len(shape) == 4
        if self.convolutional and self.how == "cls":
            raise ComponentError(
                "a convolutional network has no token of the whole image",
                where=options.source,
                remedy="Use pool: mean.",
            )
        self.features = self.token_features = shape[1] if self.convolutional else shape[-1]

    def forward(self, block: Tensor) -> Tensor:
        """(rows, features)."""
        return self.pool(*self.sequence(block))

    def sequence(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, places, features) and (rows, places) of True: the last layer, line by line, special tokens first."""
        found = self._last(block)
        if self.convolutional:
            found = found.flatten(2).transpose(1, 2)
        return found, torch.ones(found.shape[:2], dtype=torch.bool, device=found.device)

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, features): the mean over places, through the last norm that a convolutional network has; or the first
        token."""
        features = sequence[:, 0] if self.how == "cls" else sequence.mean(1)
        norm = getattr(self.network, "layernorm", None) if self.convolutional else None
        if norm is not None:
            features = norm(features)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features

    def _last(self, block: Tensor) -> Tensor:
        pixels = block.float() / 255 if block.dtype == torch.uint8 else block.float()
        pixels = (pixels - self.mean) / self.deviation
        weight = next(self.network.parameters())
        found: Tensor = self.network(pixel_values=pixels.to(weight.dtype), **self.more).last_hidden_state
        return found

    def _try(self, block: Input) -> torch.Size:
        """The shape of its last layer for one image. Raises ComponentError where it refuses that size."""
        self.network.eval()
        try:
            with torch.no_grad():
                return self._last(torch.zeros(1, *block.shape)).shape
        except (RuntimeError, ValueError) as error:
            raise ComponentError(
                f"it does not take images of shape {block.shape}: {str(error)[:200]}", where=self.described.source,
                remedy="Set the field's size to what it was trained with.",
            ) from error  # fmt: skip
        finally:
            self.network.train()


def _network(options: PretrainedOptions, folder: Path | None) -> nn.Module:
    """Of the config in the options; with the folder's weights if they are wanted."""
    assert options.config is not None
    config, kind = _config(options.config, options.source)
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    # A pooler that nobody reads would have weights that nothing moves.
    bare = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}
    with _quiet():
        if folder is None or not options.weights:
            made: nn.Module = kind._from_config(config, attn_implementation=attention, dtype=torch.float32, **bare)
            return made.train()
        if not any(path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern)):
            raise ComponentError(
                "it has no model.safetensors", where=options.source,
                remedy="Weights are read from safetensors alone: convert them, or choose another model.",
            )  # fmt: skip
        try:
            made, report = kind.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, attn_implementation=attention, dtype=torch.float32, **bare,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            raise ComponentError(f"its weights can't be read: {str(error)[:300]}", where=options.source) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ComponentError(
            f"its files lack weights: {', '.join(missing[:3])} ({len(missing)} in all)", where=options.source
        )
    return made.train()


def _config(settings: Mapping[str, Any], source: str) -> tuple[Any, Any]:
    """transformers' config and model class. Settings outside the config's own are refused: a bundle may be a
    stranger's."""
    CONFIG_MAPPING, MODEL_MAPPING = _mappings()
    name = settings.get("model_type")
    if not isinstance(name, str) or name not in CONFIG_MAPPING or "timm" in name:
        raise ComponentError(f"transformers has no network of the type {str(name)[:60]!r}", where=source)
    kind = CONFIG_MAPPING[name]
    unknown = sorted(settings.keys() - _settings(kind) - {"model_type"})
    if unknown:
        raise ComponentError(f"the config of {name!r} has no {unknown[0][:60]!r}", where=source)
    if kind not in MODEL_MAPPING:
        raise ComponentError(f"transformers has no encoder of the type {name!r}", where=source)
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = kind(**{key: value for key, value in settings.items() if key != "model_type"})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ComponentError(f"its config is wrong: {str(error)[:300]}", where=source) from error
    network = MODEL_MAPPING[kind]
    return config, network[0] if isinstance(network, tuple) else network


def _mappings() -> tuple[Any, Any]:
    try:
        from transformers import CONFIG_MAPPING, MODEL_MAPPING
    except ImportError:
        raise MissingExtra("transformers", "pretrained") from None
    return CONFIG_MAPPING, MODEL_MAPPING


def _settings(kind: Any) -> set[str]:
    """The settings of a config that shape its network."""
    return set(kind().to_dict()) - _ASIDE - set(_BACKBONES)


def _described(options: PretrainedOptions, folder: Path, *, images: bool) -> PretrainedOptions:
    """The options with what the folder says of the network and of the images it takes."""
    given = read_json(folder, CONFIG, options.source)
    configs, _models = _mappings()
    name = given.get("model_type") if isinstance(given, dict) else None
    if name not in configs or any(given.get(key) for key in _BACKBONES):
        raise ComponentError(
            f"transformers has no network of the type {str(name)[:60]!r} that is one by itself", where=options.source,
            remedy="Only networks that transformers itself defines are read, never code from a model's folder.",
        )  # fmt: skip
    kept = {key: value for key, value in given.items() if key in _settings(configs[name])}
    update: dict[str, object] = {"config": {"model_type": name, **kept}}
    if images and (folder / PREPROCESSOR).is_file():
        found = read_json(folder, PREPROCESSOR, options.source)
        if found.get("do_normalize", True) and found.get("image_mean") is not None:
            mean, deviation = found["image_mean"], found["image_std"]
        else:
            mean, deviation = [0.0] * given.get("num_channels", 3), [1.0] * given.get("num_channels", 3)
        update |= {"mean": options.mean or tuple(mean), "deviation": options.deviation or tuple(deviation)}
    return options.model_copy(update=update)


def _context(network: nn.Module) -> int | None:
    """The most tokens that its positions are for; None where it has no such limit."""
    limit = getattr(network.config, "max_position_embeddings", None)
    table = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding) and table.padding_idx is not None:
        # RoBERTa and its kin count positions from behind the padding's.
        return int(table.num_embeddings) - table.padding_idx - 1
    return int(limit) if limit is not None and limit > 0 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars, and without notes on heads that the files have and an encoder does not need."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
