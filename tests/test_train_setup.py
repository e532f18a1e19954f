"""What is settled before the first step: rates, parameter groups, dropout, and data that cannot be trained on."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bgetune.config import ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from tests import jobs, tiny
from train import schedule
from train.dataset import load_training_set
from train.model import parameter_groups, set_up
from train.objective import Temperatures
from train.schedule import learning_rate
from train.trainer import total_steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("model"))


def encoder_of(folder: Path) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), query_max_length=16, passage_max_length=32))


# -- rates and groups


def test_doctests():
    result = doctest.testmod(schedule)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_schedules_are_what_their_names_say():
    config = TrainConfig(learning_rate=2.0, warmup_share=0.2)
    linear = [learning_rate(step, 10, config) for step in range(10)]
    assert linear == pytest.approx([1.0, 2.0, *(2.0 * (8 - i) / 8 for i in range(8))])
    cosine = [learning_rate(step, 10, replace(config, schedule="cosine")) for step in range(10)]
    assert cosine == pytest.approx([1.0, 2.0, *(1 + math.cos(math.pi * i / 8) for i in range(8))])
    assert learning_rate(0, 5, replace(config, warmup_share=0.0)) == 2.0
    assert all(rate > 0 for rate in linear + cosine)  # no step is for nothing
    assert learning_rate(0, 1, config) == 2.0


def test_biases_and_norms_do_not_decay(folder):
    encoder = encoder_of(folder)
    name_of = {id(parameter): name for name, parameter in encoder.named_parameters()}
    decayed, kept = parameter_groups(encoder, Temperatures(("dense",), TrainConfig()), TrainConfig(weight_decay=0.01))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    names = {name_of[id(parameter)] for parameter in kept["params"]}
    assert names == {name for name in name_of.values() if name.endswith("bias") or "LayerNorm" in name}
    assert len(decayed["params"]) + len(names) == len(name_of)


def test_frozen_parameters_are_in_no_group(folder):
    encoder = encoder_of(folder)
    encoder.backbone.embeddings.requires_grad_(False)
    groups = parameter_groups(encoder, Temperatures(("dense",), TrainConfig()), TrainConfig())
    frozen = {id(parameter) for parameter in encoder.backbone.embeddings.parameters()}
    assert not frozen & {id(parameter) for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 2), ({"epochs": 2.5}, 5), ({"epochs": 0.01}, 1), ({"max_steps": 1}, 1), ({"epochs": 9, "max_steps": 4}, 4)],
)
def test_the_number_of_steps(options, steps):
    assert total_steps(21, replace(TrainConfig(batch_size=8), **options)) == steps


# -- dropout, whatever the architecture calls it


def other_model(name: str, folder: Path) -> Path:
    """A tiny model of another kind with the tiny tokenizer and heavy dropout everywhere."""
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
    rates = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    if name == "ModernBert":
        rates = {"attention_dropout": 0.5, "mlp_dropout": 0.5, "embedding_dropout": 0.5}
    if name == "DistilBert":
        sizes = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16,
                 "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
        rates = {"dropout": 0.5, "attention_dropout": 0.5}
    tiny.model(folder)
    config = getattr(transformers, f"{name}Config")(**sizes, **rates)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["Bert", "XLMRoberta", "DistilBert", "MPNet", "Electra", "ModernBert"])
def test_dropout_can_be_switched_off_and_set(tmp_path, name):
    encoder = encoder_of(other_model(name, tmp_path))
    token_ids, _ = encoder.tokenize(["heart pain and the lung"], "query")
    ids, mask = encoder.pad(token_ids)
    expected = encoder.eval()(ids, mask).dense
    torch.testing.assert_close(_drop(encoder, 0.0)(ids, mask).dense, expected)
    assert not torch.allclose(_drop(encoder, 0.3)(ids, mask).dense, expected)


def _drop(encoder: Encoder, rate: float) -> Encoder:
    set_up(encoder, TrainConfig(dropout=rate))
    return encoder.train()


# -- what cannot be trained on


def example_file(tmp_path: Path, negatives: list[int]) -> Path:
    rows = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": [f"n{i}"] * count} for i, count in enumerate(negatives)]
    return jobs.write_jsonl(tmp_path / "train.jsonl", rows)


def test_fewer_examples_than_a_batch_are_refused(tmp_path):
    path = example_file(tmp_path, [1, 1, 1])
    with pytest.raises(UserError, match=r"^train\.batch_size: 4 is more than the 3 examples of "):
        load_training_set(path, TrainConfig(batch_size=4))


def test_a_batch_of_one_needs_a_negative_in_every_line(tmp_path):
    path = example_file(tmp_path, [1, 0, 1])
    with pytest.raises(UserError, match=r"train\.jsonl:2: no negative, and train\.batch_size 1 has no in-batch ones"):
        load_training_set(path, TrainConfig(batch_size=1))
    assert len(load_training_set(example_file(tmp_path, [1, 2]), TrainConfig(batch_size=1)).examples) == 2
