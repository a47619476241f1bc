"""The word-level tokenizer that the built-in models share."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icl_bench.reference.words import BOS, EOS, PAD, UNK, WORDS


def build_tokenizer(context: int = 256) -> PreTrainedTokenizerFast:
    """Return the tokenizer: split at spaces and punctuation, one token per word, `<bos>` first.

    Args:
        context: longest sequence of the model that it is for, in tokens.
    """
    ids = {word: index for index, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    # Words joined by spaces, none before punctuation; the prefix marks no token of ours.
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        unk_token=UNK,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
