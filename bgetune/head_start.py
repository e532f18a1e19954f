"""First weights of heads that the checkpoint lacks: in closed form from the corpus, never at random.

Shapes: T tokens (or texts), H hidden size, M width of a token's vector, V vocabulary, N texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bgetune.batching import pack
from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encode import autocast
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.progress import progress

_IDF_TEXTS = 100_000
"""Passages that are counted for the IDF, at most."""
_TEXTS = 2_000
_TOKENS = 100_000
"""Passages and tokens that the encoder reads, at most; three times as many retrieved no better in the hybrid."""
_STRENGTH = 0.01
"""Of the ridge, as a share of the states' mean variance."""
_FEW_TEXTS = 0.001
"""Weight of the tokens' covariance beside that of the passages' means."""
_TYPICAL_WEIGHT = 0.2
"""Root mean square of the sparse head's weight over the corpus's tokens."""


def start_heads(encoder: Encoder, corpus: Texts, config: JobConfig) -> list[str]:
    """Give every head that is asked for and has no weights its first ones; the others stay as they are.

    Sparse: ridge regression from the states of the corpus's tokens to their IDF, scaled to a typical weight of 0.2.
    Multi-vector: the identity, or, narrower, the principal directions of the passages' mean states. See `ridge` and
    `_spread` for why. Both see a sample of the passages that only their texts decide.

    Returns:
        A line a head, for the log.

    Raises:
        UserError: model.multi_vector_dim is more than the hidden size, or the corpus has no words.
    """
    absent = encoder.absent_heads
    width = config.model.multi_vector_dim or encoder.width
    if "multi_vector" in absent and width > encoder.width:
        raise UserError(
            f"model.multi_vector_dim: {width} is more than the model's hidden size, {encoder.width}; "
            "set a smaller one, or leave the option out"
        )
    narrow = "multi_vector" in absent and width < encoder.width
    lines = []
    tokens, texts, counted = Moments(encoder.width), Moments(encoder.width), 0
    if "sparse" in absent or narrow:
        tokens, texts, counted = _read(encoder, corpus, config)
    if "sparse" in absent:
        weight, bias, explained = ridge(tokens, _STRENGTH)
        scale = _TYPICAL_WEIGHT / typical_size(tokens, weight, bias)
        encoder.layers.sparse_linear = _linear(scale * weight[None], scale * bias[None], encoder.device)
        lines.append(f"sparse head: ridge regression to the IDF of {counted:,} passages (R^2 {explained:.2f})")
    if narrow:
        directions, kept = principal(_spread(texts, tokens), width)
        encoder.layers.colbert_linear = _linear(directions, torch.zeros(width), encoder.device)
        shape = f"{encoder.width} -> {width}, keeps {100 * kept:.0f} % of the variance"
        lines.append(f"multi-vector head: PCA of the passages' mean states, {shape}")
    elif "multi_vector" in absent:
        encoder.layers.colbert_linear = _linear(torch.eye(width), torch.zeros(width), encoder.device)
        lines.append(f"multi-vector head: the identity ({width})")
    return lines


def _linear(weight: Tensor, bias: Tensor, device: torch.device) -> nn.Linear:
    # skip_init: a layer's own random start would move the global generator
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device=device, dtype=torch.float32)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


class Moments:
    """Sums over rows x [H] with targets y, in float64: all that a regression or a PCA needs, however many rows.

    gram: [H + 1, H + 1], the sum of x x^T, where x ends with a 1; cross: [H + 1], of x y; square: of y^2.
    """

    def __init__(self, width: int) -> None:
        self.gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.cross = torch.zeros(width + 1, dtype=torch.float64)
        self.square = 0.0

    @property
    def count(self) -> float:
        return float(self.gram[-1, -1])

    def add(self, rows: Tensor, targets: Tensor | None = None) -> None:
        """Add rows [T, H] and, for a regression, their targets [T]."""
        rows = nn.functional.pad(rows.cpu().double(), (0, 1), value=1.0)
        self.gram += rows.T @ rows
        if targets is not None:
            self.cross += rows.T @ targets.double()
            self.square += float(targets.double().square().sum())

    def centred(self) -> tuple[Tensor, Tensor]:
        """The rows' covariance [H, H] and their covariance with the targets [H]."""
        mean = self.gram[-1, :-1] / self.count
        covariance = self.gram[:-1, :-1] / self.count - torch.outer(mean, mean)
        return covariance, (self.cross[:-1] - mean * self.cross[-1]) / self.count


def ridge(moments: Moments, strength: float) -> tuple[Tensor, Tensor, float]:
    """The w and b that minimise the mean of (w x + b - y)^2 + strength * v * |w|^2, v being the states' mean variance.

    The target is the plain IDF: its powers 3/2 and 2 and the IDF with frequent tokens set to 0 retrieved worse, its
    square root worse on code and the same on SciFact; strengths from 0.0001 to 0.1 made no difference (docs/log.md).

    Returns:
        w [H] and b [], float64, and R^2, the share of the targets' variance that is explained.

    >>> moments = Moments(1)
    >>> moments.add(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1.0, 3.0, 5.0]))
    >>> [round(float(x), 3) for x in ridge(moments, strength=0.0)]
    [2.0, 1.0, 1.0]
    >>> [round(float(x), 3) for x in ridge(moments, strength=1.0)]
    [1.0, 2.0, 0.75]
    """
    covariance, with_targets = moments.centred()
    # where all states are the same there is nothing to divide by, and w is 0
    penalty = max(strength * float(covariance.diagonal().mean()), 1e-12)
    weight = torch.linalg.solve(covariance + penalty * torch.eye(len(covariance), dtype=torch.float64), with_targets)
    bias = (moments.cross[-1] - moments.gram[-1, :-1] @ weight) / moments.count
    variance = moments.square / moments.count - float(moments.cross[-1] / moments.count) ** 2
    left = variance - float(2 * weight @ with_targets - weight @ covariance @ weight)
    return weight, bias, 1.0 - left / variance if variance > 1e-12 else 1.0


def typical_size(moments: Moments, weight: Tensor, bias: Tensor) -> float:
    """Root mean square of w x + b over the rows.

    The sparse head is scaled by it to 0.2 a token: a positive passage then scores about 0.35 to 0.4, as dense scores
    do and as BGE-M3's own sparse head, and the hybrid of weights (1, 0.3, 1) is near its best on code search and on
    SciFact. At 0.05 the sparse head does nothing in it, at 0.5 it harms on one of the two (docs/log.md).

    >>> moments = Moments(1)
    >>> moments.add(torch.tensor([[3.0], [4.0]]))
    >>> round(typical_size(moments, torch.tensor([2.0]).double(), torch.tensor(0.0).double()) ** 2, 6)  # (36 + 64) / 2
    50.0
    """
    both = torch.cat([weight, bias.reshape(1)])
    return float((both @ moments.gram @ both / moments.count).sqrt())


def _spread(texts: Moments, tokens: Moments) -> Tensor:
    """The covariance that the narrow head is taken from: that of the passages' mean states, a little of the tokens'.

    Passages' means retrieved better than the tokens' own states, centred or not, with which a PCA did no better than a
    random projection; subtracting the mean, as a bias, was worse (docs/log.md). The little of the tokens' orders the
    directions that fewer passages than hidden numbers leave open.
    """
    return texts.centred()[0] + _FEW_TEXTS * tokens.centred()[0]


def principal(covariance: Tensor, width: int) -> tuple[Tensor, float]:
    """The directions of most variance, and the share of the variance that they keep.

    Returns:
        float64 [M, H], rows orthonormal, each with its largest entry positive; and the share, 0 to 1.

    >>> principal(torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double(), 1)
    (tensor([[0., 1.]], dtype=torch.float64), 0.75)
    """
    variance, directions = torch.linalg.eigh(covariance)
    directions = directions.T.flip(0)[:width]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    total = float(variance.sum())
    return directions * largest.sign(), float(variance.flip(0)[:width].sum()) / total if total > 1e-12 else 1.0


def inverse_frequency(frequency: Tensor, count: int) -> Tensor:
    """BM25's IDF, ln(1 + (N - df + 0.5) / (df + 0.5)), of tokens that are in df [V] of N texts; above 0.

    >>> inverse_frequency(torch.tensor([0, 1, 2]), 2).round(decimals=3).tolist()
    [1.792, 0.693, 0.182]
    """
    frequency = frequency.double()
    return torch.log1p((count - frequency + 0.5) / (frequency + 0.5))


def _read(encoder: Encoder, corpus: Texts, config: JobConfig) -> tuple[Moments, Moments, int]:
    """Moments of a sample's words with their IDF, of its texts' mean states, and how many texts the IDF is from."""
    full = corpus.full_texts()
    # by the texts' hashes: the same passages whatever their order or their ids
    order = sorted(range(len(full)), key=lambda i: (hashlib.sha256(full[i].encode()).digest(), i))[:_IDF_TEXTS]
    token_ids = encoder.tokenize([full[i] for i in order], "passage")[0] if order else []
    frequency = _document_frequency(token_ids, len(encoder.tokenizer))
    words, texts = Moments(encoder.width), Moments(encoder.width)
    if token_ids:
        _accumulate(encoder, token_ids, inverse_frequency(frequency, len(token_ids)), config, (words, texts))
    if not words.count:
        raise UserError(
            f"{corpus.source}: no passage has a word that the model's tokenizer knows, so no head can be started; "
            "check the corpus, or set model.heads: [dense]"
        )
    return words, texts, len(token_ids)


def _document_frequency(token_ids: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for ids in token_ids:
        counts[torch.tensor(ids, dtype=torch.int64).unique()] += 1
    return counts


def _accumulate(
    encoder: Encoder, token_ids: Sequence[Sequence[int]], idf: Tensor, config: JobConfig, into: tuple[Moments, Moments]
) -> None:
    words, texts = into
    lengths = _first(list(map(len, token_ids)))
    was_training = encoder.training
    encoder.eval()
    label = "starting heads"
    with torch.inference_mode(), autocast(encoder, config), progress(sum(lengths), label, "tok") as bar:
        for batch in pack(lengths, config.encode_batch_tokens):
            ids, mask = encoder.pad([token_ids[i] for i in batch])
            on_device = {"input_ids": ids.to(encoder.device), "attention_mask": mask.to(encoder.device)}
            states = encoder.backbone(**on_device).last_hidden_state.float().cpu()
            plan = encoder.plan(ids, mask)
            words.add(states.flatten(0, 1)[plan.sparse_at], idf[ids.flatten()[plan.sparse_at]])
            texts.add((states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True))
            bar.update(sum(lengths[i] for i in batch))
    encoder.train(was_training)


def _first(lengths: list[int]) -> list[int]:
    """The lengths of the texts that are encoded: the first ones, up to a number of texts and of tokens."""
    kept, total = 0, 0
    while kept < min(len(lengths), _TEXTS) and (not kept or total + lengths[kept] <= _TOKENS):
        total += lengths[kept]
        kept += 1
    return lengths[:kept]
