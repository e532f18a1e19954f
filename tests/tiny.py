"""A model of under 10,000 parameters and a domain of 60 passages, for tests that run the real thing offline."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from bgetune.layout import EncoderSpec, write_layout

TOPICS = ["heart", "lung", "bone", "skin", "brain", "liver", "kidney", "blood", "nerve", "muscle"]
WORDS = ["pain", "drug", "cause", "cure", "test", "risk", "sign", "care", "what", "does", "help", "the", "for", "and"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def model(folder: Path, seed: int = 0) -> Path:
    """Write a one-layer BERT with random weights and a word-level tokenizer."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *TOPICS, *WORDS, *map(str, range(10))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(seed)
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.3,
        ),
        add_pooling_layer=False,
    )
    assert sum(p.numel() for p in bert.parameters()) < 10_000
    bert.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def m3(folder: Path, seed: int = 0, dropout: float = 0.0, vocabulary_size: int | None = None) -> Path:
    """Write a two-layer XLM-RoBERTa with sparse and multi-vector heads, in exactly the files of BAAI/bge-m3."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *TOPICS, *WORDS, *map(str, range(10)), "<mask>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=8192,
    )
    torch.manual_seed(seed)
    width = 16
    roberta = XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=vocabulary_size or len(vocabulary),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=8194,
            type_vocab_size=1,
            initializer_range=0.3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ),
        add_pooling_layer=False,
    )
    roberta.save_pretrained(folder)
    fast.save_pretrained(folder)
    for name, rows in (("sparse_linear", 1), ("colbert_linear", width)):
        linear = torch.nn.Linear(width, rows)
        torch.nn.init.normal_(linear.weight, std=0.3)
        torch.save(linear.state_dict(), folder / f"{name}.pt")
    write_layout(folder, EncoderSpec("cls", True, "cosine", "", "", 8192, 8192), width)
    return folder


def domain(folder: Path, seed: int = 0) -> Path:
    """Write a BEIR folder: 60 passages, 60 queries, a third for each split."""
    draw = random.Random(seed)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus, queries = [], []
    for i in range(60):
        topic, number = TOPICS[i % 10], str(i // 10)
        filler = " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 20)))
        corpus.append({"_id": f"d{i}", "title": topic, "text": f"{number} {filler} {topic}"})
        queries.append({"_id": f"q{i}", "text": f"{draw.choice(WORDS)} {topic} {number}"})
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, rows in (("train", range(0, 40)), ("dev", range(40, 50)), ("test", range(50, 60))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in rows)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def config(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    """A whole job on the tiny model and domain, as a dict; `sections` are merged over it one level deep."""
    job: dict[str, Any] = {
        "output": str(tmp_path / "run"),
        "model": {
            "name_or_path": str(model(tmp_path / "model")),
            "query_max_length": 16,
            "passage_max_length": 32,
        },
        "data": {"name": "clinic", "domain": {"kind": "beir", "path": str(domain(tmp_path / "domain"))}},
        "mine": {"rank_last": 30, "negatives_per_query": 4},
        "train": {
            "batch_size": 8,
            "negatives_per_query": 2,
            "max_steps": 6,
            "epochs": 2,
            "learning_rate": 1e-3,
            "eval_every": 3,
            "save_every": 2,
            "precision": "fp32",
        },
        "eval": {"bootstrap_samples": 200, "permutations": 200},
        "export": {"verify_texts": 24},
    }
    for key, value in sections.items():
        job[key] = {**job.get(key, {}), **value} if isinstance(value, dict) else value
    return job


def write_config(path: Path, job: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(job))
    return path


def shards_in(cache: Path) -> list[Path]:
    """The folders of encoded texts in a cache."""
    return sorted(path for path in cache.iterdir() if path.is_dir())
