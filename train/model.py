"""What trains and how fast: frozen parts, low-rank adapters, dropout, learning rates by layer."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from bgetune.config import LoraConfig, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError

from .dropout import quick_dropout
from .objective import Temperatures, trained_heads


def set_up(encoder: Encoder, config: TrainConfig) -> None:
    """Freeze, adapt and switch as the configuration says; the encoder keeps its interface."""
    if config.freeze == "encoder":
        encoder.backbone.requires_grad_(False)
    elif config.freeze == "embeddings":
        encoder.backbone.get_input_embeddings().requires_grad_(False)
    # the checkpoint may bring heads that are not asked for; they are carried through as they are
    trained = trained_heads(encoder, config)
    for head in ("sparse", "multi_vector"):
        layer = encoder.layers.sparse_linear if head == "sparse" else encoder.layers.colbert_linear
        if layer is not None:
            layer.requires_grad_(head in trained)
    if config.dropout is not None:
        _set_dropout(encoder, config.dropout)  # the model's own: before the adapters come with theirs
    if config.lora.rank:
        encoder.backbone = _with_adapters(encoder.backbone, config.lora, config.seed)
    if config.gradient_checkpointing:
        device = encoder.device
        # what the backward pass computes again, where no context of ours is open, must draw the same masks
        contexts = {"context_fn": lambda: (quick_dropout(device), quick_dropout(device))}
        encoder.backbone.gradient_checkpointing_enable({"use_reentrant": False, **contexts})
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise UserError("train.freeze: nothing is left to train; train a sparse or multi-vector head, or freeze less")


def _with_adapters(backbone: Any, lora: LoraConfig, seed: int) -> Any:
    import peft

    torch.manual_seed(seed)  # one of the two matrices starts at random, the other at zero
    targets = lora.target_modules
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        task_type=peft.TaskType.FEATURE_EXTRACTION,
    )
    try:
        return peft.get_peft_model(backbone, settings)
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in backbone.named_modules() if isinstance(m, nn.Linear)})
        raise UserError(
            f"train.lora.target_modules: {list(targets)}: {' '.join(str(error).split())[:120]}; "
            f"the encoder's linear layers are called {', '.join(names)}"
        ) from None


def _set_dropout(encoder: Encoder, rate: float) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", rate)  # noqa: B010 - not every class declares it


def parameter_groups(encoder: Encoder, temperatures: Temperatures, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups, each with a `scale` of the learning rate.

    Matrices decay; biases, norms and other vectors do not. The encoder's layers learn at
    `layer_decay` ** (layers above them), its embeddings one step slower than the first layer.
    """
    last = max((_layer(name) or 0 for name, _ in encoder.backbone.named_parameters()), default=0)
    head_scale = (config.head_learning_rate or config.learning_rate) / config.learning_rate
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in encoder.backbone.named_parameters():
        if parameter.requires_grad:
            layer = _layer(name)
            scale = config.layer_decay ** (last - (last if layer is None else layer))
            groups.setdefault((scale, parameter.ndim >= 2), []).append(parameter)
    for parameter in encoder.layers.parameters():
        if parameter.requires_grad:
            groups.setdefault((head_scale, parameter.ndim >= 2), []).append(parameter)
    for parameter in temperatures.parameters():
        if parameter.requires_grad:
            groups.setdefault((head_scale, False), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "scale": scale}
        for (scale, decays), parameters in groups.items()
    ]


def _layer(name: str) -> int | None:
    """Which layer of the encoder a parameter belongs to; -1: the embeddings, below the first; None: above the last.

    >>> [_layer(n) for n in ("encoder.layer.11.output.dense.weight", "embeddings.LayerNorm.bias", "final_norm.weight")]
    [11, -1, None]
    """
    match = re.search(r"\blayers?\.(\d+)\.", name)
    return int(match[1]) if match else -1 if "embed" in name else None
