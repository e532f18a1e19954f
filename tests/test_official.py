"""Loss and gradients of a three-head step equal those of FlagEmbedding's own training code."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bgetune.config import ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from tests import tiny
from train.dataset import Batch
from train.objective import Temperatures
from train.step import Learner, loss_and_gradients

QUERIES, GROUP, TEMPERATURE = 4, 3, 0.02
CONFIG = TrainConfig(temperature=TEMPERATURE, self_distillation=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


def texts(count: int, least: int, most: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = [*tiny.TOPICS, *tiny.WORDS, "unknown-word"]
    # words repeat within a text, so that the largest of several weights is taken
    return [" ".join(draw.choice(words) for _ in range(draw.randint(least, most))) for _ in range(count)]


def step_batch(teacher: bool) -> Batch:
    draw = random.Random(7)
    owner = [i for i in range(QUERIES) for _ in range(GROUP)]
    scores = [draw.uniform(-2, 2) for _ in owner] if teacher else None
    passages = texts(QUERIES * GROUP, 5, 25, seed=1)
    return Batch(texts(QUERIES, 1, 8, seed=0), passages, [i * GROUP for i in range(QUERIES)], owner, [], scores)


def ours(folder: Path, batch: Batch, config: TrainConfig, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    encoder = Encoder.load(ModelConfig(name_or_path=str(folder), query_max_length=32, passage_max_length=32)).to(dtype)
    assert encoder.heads == ("dense", "sparse", "multi_vector")
    encoder.train()
    temperatures = Temperatures(encoder.heads, config).to(dtype)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.0)
    learner = Learner(encoder, encoder.heads, temperatures, optimizer, contextlib.nullcontext, 10**6)
    figures, _, _ = loss_and_gradients(learner, batch, config, step=0, seed=0)
    gradients = {name: p.grad for name, p in encoder.backbone.named_parameters() if p.grad is not None}
    gradients |= {name: p.grad for name, p in encoder.layers.named_parameters() if p.grad is not None}
    return figures["loss"].item(), gradients


def official(
    folder: Path, batch: Batch, config: TrainConfig, dtype: torch.dtype
) -> tuple[float, dict[str, torch.Tensor]]:
    from FlagEmbedding.finetune.embedder.encoder_only.m3 import EncoderOnlyEmbedderM3Runner
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = EncoderOnlyEmbedderM3Runner.get_model(str(folder))
    model = EncoderOnlyEmbedderM3Model(
        parts,
        tokenizer=tokenizer,
        temperature=config.temperature,
        kd_loss_type=config.teacher if config.teacher != "none" else "m3_kd_loss",
        sentence_pooling_method="cls",
        normalize_embeddings=True,
        unified_finetuning=True,
        use_self_distill=config.self_distillation,
        self_distill_start_step=-1,
    ).to(dtype)
    model.train()
    seen: list[torch.Tensor] = []
    original = model.compute_colbert_score

    def watched(q_reps: torch.Tensor, p_reps: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen.append(torch.einsum("qin,pjn->qipj", q_reps, p_reps).amax(-1)[kwargs["q_mask"][:, 1:].bool()])
        return original(q_reps, p_reps, **kwargs)

    model.compute_colbert_score = watched

    def features(batch_texts: list[str]) -> Any:
        return tokenizer(batch_texts, padding=True, truncation=True, max_length=32, return_tensors="pt",
                         return_token_type_ids=False)  # fmt: skip

    output = model(features(batch.queries), features(batch.passages), batch.teacher, not config.in_batch_negatives)
    # it lets padding win a MaxSim with score 0; the comparison is about steps in which it never does
    assert all((best > 0).all() for best in seen)
    output.loss.backward()
    named = {name.removeprefix("model."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return output.loss.item(), named


@pytest.mark.parametrize("teacher", ["none", "kl_div", "m3_kd_loss"])
@pytest.mark.parametrize("self_distillation", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_loss_and_every_gradient(folder: Path, teacher: Any, self_distillation: bool, dtype: torch.dtype) -> None:
    config = replace(CONFIG, teacher=teacher, self_distillation=self_distillation)
    batch = step_batch(teacher != "none")
    loss, gradients = ours(folder, batch, config, dtype)
    expected, theirs = official(folder, batch, config, dtype)
    # it keeps a teacher's softmax in float32 whatever the model is in
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6 if teacher != "none" else 1e-9
    assert loss == pytest.approx(expected, rel=tolerance)
    theirs = {name: gradient for name, gradient in theirs.items() if not name.startswith("pooler")}
    assert set(gradients) == set(theirs)
    # a key's bias has no effect on a softmax: its gradient is rounding alone, on either side
    rounding = 100 * torch.finfo(dtype).eps * max(gradient.norm() for gradient in theirs.values())
    for name, gradient in theirs.items():
        floor = rounding if name.endswith("key.bias") else 0.0
        assert (gradients[name] - gradient).norm() <= tolerance * gradient.norm() + floor, name
