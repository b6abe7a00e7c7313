"""A language model's bundle below another model: its decoder as an encoder of texts, its tokenizer as theirs."""

from __future__ import annotations

from collections.abc import Iterable

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.score_form import ScoreForm
from reinforge.bundle.text_form import TextForm
from reinforge.data.options import BundleTokenizerOptions
from reinforge.data.text import TextPipeline, Tokenizer
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_encoder import DecoderEncoder
from reinforge.models.scorer_options import DecoderEncoderOptions
from reinforge.schema.signature import Input, Output, Signature


def decoder_encoder(options: DecoderEncoderOptions, block: Input) -> DecoderEncoder:
    """With the weights of the bundle, or new ones where only its description is there. Raises ComponentError."""
    if options.config is not None:
        tokens = {"tokens": Output(form="tokens", size=block.sizes[0] if block.sizes else 0)}
        if block.form != "tokens":
            raise ComponentError(f"it takes tokens, not {block.form}", where="encoder 'decoder'")
        decoder = Decoder(options.config, Signature(inputs={"tokens": block}, outputs=tokens))
        return DecoderEncoder(options, block, decoder)
    model = _opened(options.source, "encoder 'decoder'").model
    assert isinstance(model, Decoder)
    return DecoderEncoder(options, block, model.requires_grad_(True))


def tokenizer_of(options: BundleTokenizerOptions, texts: Iterable[str]) -> Tokenizer:
    """The bundle's own, as it is. Raises ComponentError."""
    return pipeline_of(_opened(options.source, "tokenizer 'bundle'")).tokenizer


def pipeline_of(bundle: Bundle) -> TextPipeline:
    """A language bundle's road from text to tokens."""
    assert isinstance(bundle.form, TextForm | ScoreForm)
    return bundle.form.pipeline


def _opened(source: str, where: str) -> Bundle:
    if not source:
        raise ComponentError(_("it needs the bundle of a language model"), where=where, remedy=_("Name one: source."))
    bundle = load(source)
    if not isinstance(bundle.form, TextForm | ScoreForm) or not isinstance(bundle.model, Decoder):
        raise ComponentError(_("the bundle is no language model"), where=source)
    return bundle
