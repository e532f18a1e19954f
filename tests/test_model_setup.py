"""What trains and how fast: freezing, adapters, rates by layer; and a mistake in these options is one line."""

from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bgetune.config import HEADS, HeadConfig, JobConfig, LoraConfig, ModelConfig, TrainConfig
from bgetune.config_check import check
from bgetune.config_data import DataConfig, SourceConfig
from bgetune.config_io import parse_job
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from tests import tiny
from train import model
from train.encoding import tensors_of
from train.model import parameter_groups, set_up
from train.objective import Temperatures, trained_heads

TEXTS = ["heart pain", "what does the drug cure for lung and liver", "bone risk sign"]


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("bert"))


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), query_max_length=32, passage_max_length=32, **options))


def outputs(encoder: Encoder, heads: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    ids, mask = encoder.pad(encoder.tokenize(TEXTS, "passage")[0])
    return dict(tensors_of(encoder.eval()(ids, mask, heads)))


def train_once(encoder: Encoder, heads: Sequence[str] | None = None) -> set[str]:
    """One step of a loss on all outputs; the names of the parameters with a gradient."""
    encoder.zero_grad()
    torch.manual_seed(0)
    loss = sum((value * torch.randn(value.shape)).sum() for value in outputs(encoder, heads).values())
    loss.backward()
    return {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def names_that_train(encoder: Encoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


HEAD_NAMES = {f"layers.{name}_linear.{part}" for name in ("sparse", "colbert") for part in ("weight", "bias")}


def test_doctests() -> None:
    result = doctest.testmod(model)
    assert result.attempted > 0
    assert result.failed == 0


# -- what trains


def test_everything_trains_unless_told_otherwise(m3: Path) -> None:
    encoder = load(m3)
    set_up(encoder, TrainConfig())
    assert names_that_train(encoder) == {name for name, _ in encoder.named_parameters()}


def test_a_frozen_encoder_trains_its_heads_alone(m3: Path) -> None:
    encoder = load(m3)
    set_up(encoder, TrainConfig(freeze="encoder"))
    assert names_that_train(encoder) == HEAD_NAMES
    assert train_once(encoder) == HEAD_NAMES


def test_frozen_embeddings_are_the_input_embeddings_and_no_more(m3: Path) -> None:
    encoder = load(m3)
    set_up(encoder, TrainConfig(freeze="embeddings"))
    everything = {name for name, _ in encoder.named_parameters()}
    assert everything - names_that_train(encoder) == {"backbone.embeddings.word_embeddings.weight"}


@pytest.mark.parametrize(
    ("wanted", "left"), [(("dense",), set()), (("sparse",), {"sparse"}), (("dense", "multi_vector"), {"colbert"})]
)
def test_heads_that_do_not_train_stay_as_they_are(m3: Path, wanted: Any, left: set[str]) -> None:
    encoder = load(m3)
    set_up(encoder, TrainConfig(heads=wanted))
    assert {name.split(".")[1].partition("_")[0] for name in names_that_train(encoder) & HEAD_NAMES} == left
    assert trained_heads(encoder, TrainConfig(heads=wanted[::-1])) == wanted


def test_heads_that_are_only_carried_stay_as_they_are(m3: Path) -> None:
    """Else AdamW's weight decay would wear them out where ranks fill in gradients of zero."""
    encoder = load(m3, heads=("dense", "sparse"))
    set_up(encoder, TrainConfig())
    assert names_that_train(encoder) & HEAD_NAMES == {name for name in HEAD_NAMES if "sparse" in name}


def test_nothing_left_to_train_is_one_line(m3: Path, bert: Path) -> None:
    for encoder, heads in ((load(bert), "auto"), (load(m3), ("dense",)), (load(m3, heads=("dense",)), "auto")):
        with pytest.raises(UserError, match=r"^train\.freeze: nothing is left to train; train a sparse or multi-vec"):
            set_up(encoder, TrainConfig(freeze="encoder", heads=heads))


def test_a_head_that_the_model_lacks_is_one_line(bert: Path) -> None:
    with pytest.raises(UserError, match=r"^train\.heads: sparse: the model's heads are dense; see model\.heads$"):
        trained_heads(load(bert), TrainConfig(heads=("dense", "sparse")))


@pytest.mark.parametrize("freeze", ["none", "embeddings", "encoder"])
def test_gradient_checkpointing_changes_no_gradient(m3: Path, freeze: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = load(m3)
        set_up(encoder, TrainConfig(freeze=freeze, gradient_checkpointing=checkpointing, dropout=0.0))
        train_once(encoder.train())
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# -- adapters


def with_adapters(folder: Path, **lora: Any) -> Encoder:
    encoder = load(folder)
    set_up(encoder, TrainConfig(lora=LoraConfig(**{"rank": 4, **lora}), dropout=0.0))
    return encoder


def shake_adapters(encoder: Encoder) -> None:
    """They start with one matrix of zeros; give them something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)


def test_adapters_and_heads_alone_have_gradients(m3: Path) -> None:
    encoder = with_adapters(m3)
    names = names_that_train(encoder)
    assert encoder.has_adapters
    assert names >= HEAD_NAMES
    assert all("lora_" in name for name in names - HEAD_NAMES)
    shake_adapters(encoder)
    assert train_once(encoder) == {name for name in names if ".key.bias" not in name}
    linears = sum(isinstance(module, nn.Linear) for module in load(m3).backbone.modules())
    assert len(names - HEAD_NAMES) == 2 * linears


def test_adapters_start_as_nothing_and_the_same_for_a_seed(m3: Path) -> None:
    plain, encoder, again = outputs(load(m3)), with_adapters(m3), with_adapters(m3)
    for head, value in outputs(encoder).items():
        torch.testing.assert_close(value, plain[head])
    states = [{n: p for n, p in e.named_parameters() if "lora_A" in n} for e in (encoder, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = load(m3)
    set_up(other, TrainConfig(lora=LoraConfig(rank=4), seed=1))
    assert not any(torch.equal(p, states[0][n]) for n, p in other.named_parameters() if "lora_A" in n)


def test_the_scale_is_alpha_over_rank(m3: Path) -> None:
    from peft.tuners.lora import LoraLayer

    encoder = with_adapters(m3, rank=4, alpha=6.0)
    layers = [module for module in encoder.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert {scale for layer in layers for scale in layer.scaling.values()} == {1.5}


def test_saved_adapters_are_merged_into_a_plain_model(m3: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModel

    encoder = with_adapters(m3)
    shake_adapters(encoder)
    expected = outputs(encoder)
    assert not torch.allclose(expected["dense"], outputs(load(m3))["dense"], atol=1e-2)
    before = encoder.weights_hash()
    encoder.save(tmp_path)
    assert encoder.weights_hash() == before
    assert names_that_train(encoder) >= HEAD_NAMES  # saving does not merge what trains
    for head, value in outputs(encoder).items():
        assert torch.equal(value, expected[head])

    assert set(load_file(tmp_path / "model.safetensors")) == set(load_file(m3 / "model.safetensors"))
    assert not [path.name for path in tmp_path.rglob("*adapter*")]
    again = load(tmp_path)
    assert not again.has_adapters
    for head, value in outputs(again).items():
        torch.testing.assert_close(value, expected[head], rtol=0, atol=1e-5)
    ids, mask = encoder.pad(encoder.tokenize(TEXTS, "passage")[0])
    alone = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert type(alone).__name__ == "XLMRobertaModel"
    with torch.no_grad():
        states = alone(ids, mask).last_hidden_state
        theirs = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], theirs[mask.bool()], rtol=0, atol=1e-5)


def test_adapters_change_their_attention_as_plain_models_do(m3: Path) -> None:
    encoder = with_adapters(m3)
    shake_adapters(encoder)
    before = outputs(encoder)
    for name in ("eager", "sdpa"):
        encoder.use_attention(name)
        assert encoder.attention == name
        for head, value in outputs(encoder).items():
            torch.testing.assert_close(value, before[head])


def test_only_the_named_layers_are_adapted(m3: Path) -> None:
    names = names_that_train(with_adapters(m3, target_modules=("query", "value"))) - HEAD_NAMES
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"query", "value"}


def test_unknown_target_modules_name_the_linear_layers(m3: Path) -> None:
    with pytest.raises(UserError, match=r"^train\.lora\.target_modules: \['q_proj'\]: ") as caught:
        with_adapters(m3, target_modules=("q_proj",))
    assert str(caught.value).endswith("the encoder's linear layers are called dense, key, query, value")
    assert "\n" not in str(caught.value)


def test_dropout_of_adapters_is_their_own(m3: Path) -> None:
    def rates(dropout: float | None) -> set[float]:
        encoder = load(m3)
        set_up(encoder, TrainConfig(lora=LoraConfig(rank=2, dropout=0.25), dropout=dropout))
        return {module.p for name, module in encoder.named_modules()
                if isinstance(module, nn.Dropout) and "lora_dropout" in name}  # fmt: skip

    assert rates(None) == {0.25}
    assert rates(0.0) == {0.25}


# -- groups


def groups_of(encoder: Encoder, config: TrainConfig) -> tuple[list[dict[str, Any]], Temperatures]:
    set_up(encoder, config)
    temperatures = Temperatures(trained_heads(encoder, config), config)
    return parameter_groups(encoder, temperatures, config), temperatures


def by_name(encoder: Encoder, groups: list[dict[str, Any]], temperatures: Temperatures) -> dict[str, tuple]:
    """(scale, weight decay) of each parameter."""
    modules = [("", encoder), ("temperatures.", temperatures)]
    name_of = {id(p): prefix + name for prefix, module in modules for name, p in module.named_parameters()}
    return {
        name_of[id(parameter)]: (group["scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


CONFIGS = {
    "plain": TrainConfig(),
    "embeddings frozen": TrainConfig(freeze="embeddings", layer_decay=0.9),
    "encoder frozen": TrainConfig(freeze="encoder", learn_temperature=True),
    "adapters": TrainConfig(lora=LoraConfig(rank=2), head_learning_rate=1e-4),
    "one head": TrainConfig(heads=("dense", "sparse"), layer_decay=0.5, learn_temperature=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_each_trainable_parameter_is_in_one_group(m3: Path, name: str) -> None:
    encoder = load(m3)
    groups, temperatures = groups_of(encoder, CONFIGS[name])
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trains = [id(p) for p in [*encoder.parameters(), *temperatures.parameters()] if p.requires_grad]
    assert sorted(grouped) == sorted(trains)
    assert len(set(grouped)) == len(grouped)
    torch.optim.AdamW(groups, lr=1e-3)  # it takes them


def test_biases_norms_and_temperatures_do_not_decay(m3: Path) -> None:
    encoder = load(m3)
    config = TrainConfig(weight_decay=0.3, learn_temperature=True)
    for name, (_, decay) in by_name(encoder, *groups_of(encoder, config)).items():
        plain = name.endswith("bias") or "LayerNorm" in name or name.startswith("temperatures.")
        assert decay == (0.0 if plain else 0.3), name


def test_layers_learn_slower_the_lower_they_are(m3: Path) -> None:
    encoder = load(m3)
    config = TrainConfig(layer_decay=0.5)
    for name, (scale, _) in by_name(encoder, *groups_of(encoder, config)).items():
        expected = 1.0
        if name.startswith("backbone.embeddings"):
            expected = 0.25
        elif "layer.0" in name:
            expected = 0.5
        assert scale == expected, name


def test_heads_and_temperatures_have_a_rate_of_their_own(m3: Path) -> None:
    encoder = load(m3)
    config = TrainConfig(learning_rate=2e-5, head_learning_rate=1e-3, learn_temperature=True)
    for name, (scale, _) in by_name(encoder, *groups_of(encoder, config)).items():
        assert scale == pytest.approx(1.0 if name.startswith("backbone.") else 50.0), name


@pytest.mark.parametrize("kind", ["distilbert", "modernbert", "mpnet", "electra", "deberta-v2"])
def test_layers_are_found_whatever_the_architecture_calls_them(kind: str) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    backbone = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=40, **sizes, **special))
    found = [model._layer(name) for name, _ in backbone.named_parameters()]
    assert {0, 1, 2} <= set(found)
    # None: above the last layer, or between the layers, as a final norm or a table of relative positions
    assert set(found) <= {-1, 0, 1, 2, None}
    words = [name for name, p in backbone.named_parameters() if p is backbone.get_input_embeddings().weight]
    assert [model._layer(name) for name in words] == [-1]


# -- mistakes in these options

JOB = JobConfig(data=DataConfig(domain=SourceConfig(path="somewhere")))


def changed(section: Any, options: dict[str, Any]) -> Any:
    """`section` with dotted options set."""
    for option, value in options.items():
        name, _, rest = option.partition(".")
        new = changed(getattr(section, name), {rest: value}) if rest else value
        section = dataclasses.replace(section, **{name: new})
    return section


FROZEN = {"train.freeze": "encoder"}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing but dense, and the encoder is frozen": (
        {**FROZEN, "train.heads": ("dense",)},
        "train.freeze: 'encoder' will not do; the dense head has no weights of its own to train",
    ),
    "the same, by the model's heads": ({**FROZEN, "model.heads": ("dense",)}, "train.freeze: 'encoder' will not do"),
    "a head twice": (
        {"train.heads": ("dense", "sparse", "dense")},
        "train.heads: ['dense', 'sparse', 'dense'] will not do; name each head once, or auto",
    ),
    "a model's head twice": ({"model.heads": ("dense", "dense")}, "model.heads: ['dense', 'dense'] will not do"),
    "no head": ({"train.heads": ()}, "train.heads: [] will not do; name each head once"),
    "a model without dense": ({"model.heads": ("sparse",)}, "model.heads: ['sparse'] will not do; dense is always"),
    "a head that the model is not to have": (
        {"train.heads": ("dense", "multi_vector"), "model.heads": ("dense", "sparse")},
        "train.heads: 'multi_vector' will not do; the model's heads are ['dense', 'sparse']; add it to model.heads",
    ),
    "adapters on frozen layers": (
        {"train.lora.rank": 8, "train.freeze": "embeddings"},
        "train.freeze: 'embeddings' will not do; LoRA freezes the encoder already; use none",
    ),
    "adapters by layer": ({"train.lora.rank": 8, "train.layer_decay": 0.9}, "train.layer_decay: 0.9 will not do"),
    "adapters on nothing": (
        {"train.lora.rank": 8, "train.lora.target_modules": ()},
        "train.lora.target_modules: [] will not do; name layers, or all-linear",
    ),
    "a rank below zero": ({"train.lora.rank": -1}, "train.lora.rank: -1 will not do; use 0 or more"),
    "an alpha of zero": ({"train.lora.alpha": 0.0}, "train.lora.alpha: 0.0 will not do; use more than 0"),
    "adapters that drop everything": ({"train.lora.dropout": 1.0}, "train.lora.dropout: 1.0 will not do"),
    "a length twice": (
        {"train.matryoshka_dims": (64, 32, 64)},
        "train.matryoshka_dims: [64, 32, 64] will not do; use different lengths of at least 1",
    ),
    "a length of zero": ({"train.matryoshka_dims": (0,)}, "train.matryoshka_dims: [0] will not do"),
    "dev by a head that is not there": (
        {"model.heads": ("dense", "sparse"), "train.dev_retriever": "multi_vector"},
        "train.dev_retriever: 'multi_vector' will not do; the model's heads are ['dense', 'sparse']",
    ),
    "a layer decay of zero": ({"train.layer_decay": 0.0}, "train.layer_decay: 0.0 will not do; use a share above 0"),
    "a layer decay above one": ({"train.layer_decay": 1.1}, "train.layer_decay: 1.1 will not do"),
    "a rate of zero": ({"train.head_learning_rate": 0.0}, "train.head_learning_rate: 0.0 will not do"),
    "a temperature of zero": ({"train.sparse.temperature": 0.0}, "train.sparse.temperature: 0.0 will not do"),
    "a weight below zero": ({"train.dense.loss_weight": -1.0}, "train.dense.loss_weight: -1.0 will not do"),
    "an endless weight": ({"train.dense.ensemble_weight": float("inf")}, "train.dense.ensemble_weight: inf will not"),
    "an ensemble below zero": ({"train.ensemble_loss_weight": -1.0}, "train.ensemble_loss_weight: -1.0 will not do"),
    "a start before the start": ({"train.self_distillation_start": -1}, "train.self_distillation_start: -1 will not"),
    "a triplet below zero": ({"train.triplet_weight": -0.1}, "train.triplet_weight: -0.1 will not do"),
    "no tokens": ({"train.micro_batch_tokens": 0}, "train.micro_batch_tokens: 0 will not do; use at least 1, or auto"),
    "no width": ({"model.multi_vector_dim": 0}, "model.multi_vector_dim: 0 will not do; use at least 1"),
    "no negatives at all": (
        {"train.in_batch_negatives": False, "mine.method": "none"},
        "train.in_batch_negatives: False will not do; there are no hard negatives either",
    ),
    "few candidates": ({"eval.candidates": 10}, "eval.candidates: 10 will not do; use at least 100"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_option(mistake: str) -> None:
    options, expected = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        check(changed(JOB, options))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train.heads", "[dense,colbert]"], "train.heads: expected "),
        (["--model.heads", "[lexical]"], "model.heads: expected "),
        (["--train.teacher", "gpt"], "train.teacher: expected one of 'none', 'kl_div'"),
        (["--train.dev_retriever", "bm25"], "train.dev_retriever: expected one of 'auto', 'dense'"),
        (["--train.micro_batch_tokens", "some"], "train.micro_batch_tokens: expected "),
        (["--train.heads", "[dense,dense]"], "train.heads: ['dense', 'dense'] will not do"),
        (["--train.lora.rnk", "8"], 'unknown option --train.lora.rnk; did you mean "--train.lora.rank"?'),
    ],
)
def test_a_mistake_in_the_words_is_one_line_too(flags: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_job(["--data.domain.path", "somewhere", *flags], "bgetune", "")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_options", "train_options"),
    [
        ({}, {}),
        ({"heads": HEADS}, {"freeze": "encoder"}),
        ({"heads": ("dense", "sparse")}, {"heads": ("sparse",), "freeze": "encoder", "dev_retriever": "dense"}),
        ({}, {"heads": ("dense",), "dev_retriever": "hybrid"}),
        ({}, {"lora": LoraConfig(rank=8), "matryoshka_dims": (64, 32), "sparse": HeadConfig(temperature=0.5)}),
        ({}, {"freeze": "encoder"}),  # known only once the model is there
    ],
)
def test_what_makes_sense_is_taken(model_options: Any, train_options: Any) -> None:
    options = {f"model.{name}": value for name, value in model_options.items()}
    config = changed(JOB, {**options, **{f"train.{name}": value for name, value in train_options.items()}})
    assert check(config) is config
