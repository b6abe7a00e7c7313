"""Masked-language modelling against transformers: what is hidden, what both sides give, and the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reinforge.core.contracts import Clock, Experience
from reinforge.data.language_data import encoded_documents
from reinforge.data.special_tokens import Marks, SpecialTokenizer
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.errors import ComponentError, RecipeError
from reinforge.evaluation.masked import MaskedEvaluator, vocabulary_of
from reinforge.export.hugging_face import named_weights
from reinforge.inference.engine import GenerationEngine
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.families import config_of
from reinforge.objectives.language import Language
from reinforge.objectives.masked import Masked, Vocabulary, hide
from reinforge.objectives.options import LanguageOptions, MaskedOptions
from reinforge.schema.signature import Input, Output, Signature

SIZE, MASK = 40, 37
# Three tokens that no text has.
VOCABULARY = Vocabulary(MASK, torch.arange(SIZE) < 37)
SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(SIZE,))}, outputs={"tokens": Output(form="tokens", size=SIZE)}
)


def encoder(causal: bool = False, **options: object) -> Decoder:
    torch.manual_seed(0)
    settings = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "context": 24, "causal": causal, **options}
    model = Decoder(DecoderOptions.model_validate(settings), SIGNATURE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def batch(seed: int = 0) -> dict[str, Any]:
    """Three rows of documents, filled up."""
    tokens = torch.randint(0, 37, (3, 12), generator=torch.Generator().manual_seed(seed))
    documents = torch.tensor([[1] * 5 + [2] * 7, [1] * 3 + [2] * 4 + [3] * 2 + [0] * 3, [1] * 12])
    return {"inputs": {"tokens": tokens, "documents": documents}, "targets": {"tokens": tokens.roll(-1, 1)}}


def update(options: MaskedOptions, given: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    objective = Masked(options, SIGNATURE, VOCABULARY)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = next(objective.updates(Experience(given), generator, Clock()))  # type: ignore[assignment]
    return found


def shares(shown: Tensor, told: Tensor, tokens: Tensor, ordinary: int, mask: int) -> list[float]:
    """Of ordinary tokens those that are told; of these those that are hidden, and those that are others."""
    hidden, other = told & (shown == mask), told & (shown != mask) & (shown != tokens)
    return [int(told.sum()) / ordinary, int(hidden.sum()) / int(told.sum()), int(other.sum()) / int(told.sum())]


def test_rates_are_those_of_transformers() -> None:
    """On the same tokens, special ones among them, within four standard errors."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {f"t{n}": n for n in range(37)} | {"[MASK]": 37, "[PAD]": 38, "[CLS]": 39}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "t0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, mask_token="[MASK]", pad_token="[PAD]", cls_token="[CLS]"
    )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15, seed=0)
    tokens = torch.randint(0, 37, (400, 256), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 39
    peer = collator([{"input_ids": row} for row in tokens])
    told = peer["labels"] != -100
    ordinary = int((tokens < 37).sum())
    theirs = shares(peer["input_ids"], told, tokens, ordinary, 37)
    flat = tokens.flatten()
    shown, chosen = hide(
        flat, torch.ones_like(flat, dtype=torch.bool), torch.zeros_like(flat, dtype=torch.bool), MaskedOptions(),
        VOCABULARY, torch.Generator().manual_seed(1),
    )  # fmt: skip
    ours = shares(shown, chosen, flat, ordinary, MASK)
    # What becomes any token becomes itself once in a while: in ours one of 37, in theirs one of 40.
    for one, other, rate, count in zip(
        ours, theirs, (0.15, 0.8, 0.1), (ordinary, int(chosen.sum()), int(chosen.sum())), strict=True
    ):
        assert abs(one - other) < 4 * math.sqrt(2 * rate * (1 - rate) / count) + 0.004 * (rate == 0.1)
        assert abs(one - rate) < 4 * math.sqrt(rate * (1 - rate) / count) + 0.004 * (rate == 0.1)
    assert not chosen[flat == 39].any(), "special tokens are never told"
    assert torch.equal(shown[~chosen], flat[~chosen]), "what is not told stays"
    assert (shown[chosen & (shown != MASK)] < 37).all(), "and none becomes a special one"


def test_both_sides_are_seen_as_transformers_sees_them() -> None:
    """A Llama of the same weights under a mask that hides nothing; document by document where they are packed."""
    transformers = pytest.importorskip("transformers")
    model, twin = encoder(), encoder(causal=True)
    config = config_of(twin.options, SIZE, "float32", "here")
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    peer.load_state_dict(dict(named_weights(twin)), strict=False)
    peer.tie_weights()
    given = batch()
    tokens, documents = given["inputs"]["tokens"], given["inputs"]["documents"]
    with torch.no_grad():
        packed = model({"tokens": tokens, "documents": documents})[0]["tokens"]
        by_mask = model.logits(model._rows(tokens, documents))
        for row in range(3):
            for number in range(1, int(documents[row].max()) + 1):
                here = documents[row] == number
                alone = tokens[row][here][None]
                mask = torch.zeros(1, 1, alone.shape[1], alone.shape[1])
                oracle = peer(alone, attention_mask=mask).logits[0]
                for found in (packed, by_mask):
                    torch.testing.assert_close(found[row][here], oracle, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(model({"tokens": alone})[0]["tokens"][0], oracle, atol=1e-4, rtol=1e-4)
                first = twin({"tokens": alone})[0]["tokens"][0, 0]
                assert alone.shape[1] == 1 or not torch.allclose(first, oracle[0], atol=1e-2), "one side is not both"


def test_half_precision_and_its_gradients() -> None:
    """bf16 takes another road through attention where it is causal; here documents of uneven length see themselves."""
    model = encoder()
    tokens, lengths = torch.randint(0, 37, (21,), generator=torch.Generator().manual_seed(1)), (5, 9, 7)
    layout = Layout(lengths, None, torch.device("cpu"))
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        model.zero_grad()
        hidden = model.hidden_of(tokens, layout)
        hidden.float().square().sin().sum().backward()
        grads.append(model.blocks[0].attention.qkv.weight.grad.float().clone())  # type: ignore[union-attr]
    assert F.cosine_similarity(grads[0].flatten(), grads[1].flatten(), dim=0) > 0.98


def test_the_loss_is_the_cross_entropy_of_what_is_told() -> None:
    model, given = encoder(), batch()
    options = MaskedOptions(part=0.4)
    objective = Masked(options, SIGNATURE, VOCABULARY)
    learner = objective.build(model)
    changed = update(options, given)
    shown, told = changed["inputs"]["tokens"], changed["valid"]["tokens"]
    assert told.any()
    assert not told[given["inputs"]["documents"] == 0].any()
    loss = objective.loss(learner, changed, objective.counts(changed)).terms["tokens"]
    assert int(objective.counts(changed)["tokens"]) == int(told.sum())
    total = 0.0
    for row in range(3):
        for number in range(1, 4):
            here = given["inputs"]["documents"][row] == number
            if bool(told[row][here].any()):
                logits = model({"tokens": shown[row][here][None]})[0]["tokens"][0]
                right = given["inputs"]["tokens"][row][here]
                total += F.cross_entropy(logits[told[row][here]], right[told[row][here]], reduction="sum")
    torch.testing.assert_close(loss.sum, total, atol=1e-3, rtol=1e-4)


def test_what_is_hidden_is_drawn_anew_and_from_the_generator() -> None:
    one, same, other = (update(MaskedOptions(), batch(), seed) for seed in (0, 0, 1))
    assert torch.equal(one["inputs"]["tokens"], same["inputs"]["tokens"])
    assert not torch.equal(one["valid"]["tokens"], other["valid"]["tokens"])


def test_words_are_told_whole() -> None:
    """English by spaces, Chinese by characters, and none across documents."""
    tokenizer = CharacterTokenizer("".join(sorted("ab cd書本,")))
    vocabulary = Vocabulary.of(tokenizer, 0, {0}, words=True)
    text = "ab cd,ab書本ab"
    tokens = tokenizer.encode(text * 300).long()
    breaks = torch.arange(len(tokens)) % len(text) == 0
    numbers = vocabulary.words(tokens, breaks)[: len(text)].tolist()
    assert numbers == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 7, 7]
    _shown, told = hide(
        tokens, torch.ones_like(breaks), breaks, MaskedOptions(whole_words=True), vocabulary,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    rows = told.view(-1, len(text))
    assert torch.equal(rows[:, 0], rows[:, 1])
    assert not torch.equal(rows[:, 7], rows[:, 10]), "neighbours' words are their own"
    assert 0.12 < float(told.float().mean()) < 0.18


def test_what_sees_one_side_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(ComponentError, match="model sees but one") as raised:
        Masked(MaskedOptions(), SIGNATURE, VOCABULARY).build(encoder(causal=True))
    assert "model.causal=false" in str(raised.value)
    with pytest.raises(ComponentError, match="the model sees what follows"):
        Language(LanguageOptions(), SIGNATURE).build(encoder())
    with pytest.raises(ComponentError, match="no token to hide"):
        Masked(MaskedOptions(), SIGNATURE).build(encoder())
    with pytest.raises(ComponentError, match="writes none"):
        GenerationEngine(encoder())
    model = encoder()
    with pytest.raises(ComponentError, match="go on from a cache"):
        model({"tokens": torch.ones(1, 2, dtype=torch.int64)}, model.initial_state(1))
    with pytest.raises(ValueError, match="causal: true alone"):
        encoder(window=4, pattern=("local",))
    with pytest.raises(ValueError, match="together at most 1"):
        MaskedOptions(hidden=0.9, random=0.2)


def test_every_token_of_a_document_may_be_told() -> None:
    """To its last, where no mark ends it; and cut at the context alone."""
    letters = CharacterTokenizer("".join(map(chr, range(32, 127))))
    pipeline = TextPipeline(SpecialTokenizer(letters, ["<|pad|>"]), Marks(None, None, "<|pad|>"), None)
    documents = encoded_documents(["hello world", "ab", "c"], pipeline).tokens
    options = MaskedOptions()
    evaluator = MaskedEvaluator(documents, options, vocabulary_of(pipeline, options), context=8)
    ((numbers, _shown, told, _valid, layout),) = evaluator._parts(torch.device("cpu"))
    assert (numbers, layout.lengths) == ([0, 1, 2], (8, 2, 1))
    assert letters.decode(told) == "hello woabc"


def test_what_marks_documents_hides_nothing_and_is_never_told() -> None:
    letters = CharacterTokenizer("abc")
    for marks in (Marks(None, "<|end|>", "<|end|>"), Marks("<|end|>", None, "<|end|>")):
        pipeline = TextPipeline(SpecialTokenizer(letters, ["<|end|>"]), marks, None)
        with pytest.raises(RecipeError, match=r"(?s)<\|end\|>.*tokenizer of its own"):
            vocabulary_of(pipeline, MaskedOptions())
    named = ["<|pad|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    pipeline = TextPipeline(SpecialTokenizer(letters, named), Marks(None, "<|end|>", "<|pad|>"), TEMPLATES["chatml"])
    vocabulary = vocabulary_of(pipeline, MaskedOptions())
    assert vocabulary.ordinary_v.tolist() == [True] * letters.size + [False] * len(named)
