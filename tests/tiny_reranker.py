"""A cross-encoder of one layer, written as a checkpoint of BERT's or XLM-RoBERTa's kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from tests import tiny

WORDS = [*tiny.TOPICS, *tiny.WORDS]


def write_reranker(folder: Path, kind: str, labels: int = 1) -> Path:
    """One layer of random weights, and a tokenizer of whole words that joins two texts as the model's kind does."""
    names = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "xlm-roberta": ["<pad>", "<unk>", "<s>", "</s>"]}[kind]
    pad, unknown, first, last = names
    vocabulary = {word: i for i, word in enumerate([*names, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = f"{first} $A {last} $B:1 {last}:1" if kind == "bert" else f"{first} $A {last} {last} $B {last}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=pair, special_tokens=[(name, vocabulary[name]) for name in (first, last)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, cls_token=first, sep_token=last,
        model_max_length=64,
    )  # fmt: skip
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "initializer_range": 0.5, "pad_token_id": 0, "num_labels": labels,
    }  # fmt: skip
    torch.manual_seed(0)
    # both take 64 tokens: positions of the XLM-RoBERTa start behind the padding id
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(max_position_embeddings=64, **shape))
    else:
        model = XLMRobertaForSequenceClassification(
            XLMRobertaConfig(max_position_embeddings=65, type_vocab_size=1, **shape)
        )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
