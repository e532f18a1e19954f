"""What is measured, and the merging of weights that is decided by measuring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MergeConfig:
    """Between base and tuned: weights that keep most of the gain and give back most of the loss elsewhere."""

    shares: tuple[float, ...] = ()
    """Shares of the tuned weights to try, the rest is the base's, such as [0.25, 0.5, 0.75]; 1 is always tried.
    Empty: no merging."""
    models: tuple[str, ...] = ()
    """More tuned models of the same shape, as job folders or model folders; the tuned part is then their mean."""
    max_guard_loss: float = 0.01
    """nDCG@10 that any guard may lose against the base; of what keeps to it, the best on dev is taken."""


@dataclass(frozen=True)
class EvalConfig:
    """Base against tuned on every test split, with rebuilt indexes."""

    index: str = "Flat"
    """FAISS factory string; Flat is exact, so that the figures are the model's."""
    depth: int = 100
    """Passages retrieved for each query; at least 100."""
    candidates: int = 200
    """Passages of each query, of dense and of sparse each, that multi-vector and hybrid re-rank."""
    multi_vector: Literal["rerank", "full", "both"] = "rerank"
    """Multi-vector search: re-rank those candidates, score every passage (exact, slow), or measure both."""
    metrics: tuple[str, ...] = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")
    """Any of ndcg, mrr, recall, precision, map and success, each @k; ndcg@10 decides and is always there."""
    tune_weights: bool = True
    """Measure the hybrid also with weights that were best on the domain's dev split."""
    fusions: tuple[str, ...] = ()
    """More ways to fuse the heads' rankings, by ranx's names, such as [isr, mnz]; needs bgetune[fusion]."""
    indexes: tuple[str, ...] = ()
    """Production indexes whose loss, size and latency are measured: FAISS factory strings in quotes, or qdrant."""
    compression: bool = False
    """Measure cheaper vectors: fewer dimensions, int8, binary, fewer sparse weights, pooled token vectors."""
    slices: bool = True
    """Gains by length, rare words and language pair."""
    probes: dict[str, str] = field(default_factory=dict)
    """Name -> file of sentence pairs with a similarity, or of texts with a label: what the model should not forget."""
    max_guard_loss: float | None = None
    """A guard that loses more than this of nDCG@10 ends the command with exit code 1; null: none does."""
    bootstrap_samples: int = 10000
    """Resamples for the 95 % interval."""
    permutations: int = 10000
    """Sign flips for the randomisation test."""
    examples: int = 5
    """Queries won and lost that are shown with texts."""
    seed: int = 0
    """Decides resamples and flips."""
