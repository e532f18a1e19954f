"""Losses: functions of tensors, never of models.

Shapes: Q queries, P passages (columns), G passages in the largest group. A query's group is its positive and its hard
negatives. Logits are scores divided by their temperature. A column that is not allowed, or is outside the group where
a loss looks at the group alone, has no say and no gradient, whatever stands in it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def info_nce(logits: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """InfoNCE over in-batch and hard negatives in one softmax (arXiv 1807.03748; BGE-M3, 2402.03216, eq. 1).

    Args:
        logits: [Q, P].
        target: int64 [Q], the column of each query's positive; always allowed.
        allowed: bool [Q, P]; False takes a passage out of the query's softmax (a false negative).

    Returns:
        The mean over the queries, a scalar.

    >>> logits = torch.tensor([[1.0, 0.0, 1.0]])
    >>> allowed = torch.tensor([[True, True, False]])
    >>> round(info_nce(logits, torch.tensor([0]), allowed).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    # -inf, unlike the finite floor below, makes the loss of a target that is not allowed infinite: it is seen at once
    return cross_entropy(logits.masked_fill(~allowed, float("-inf")), target)


def passage_info_nce(logits: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """InfoNCE the other way: each query's positive has to find its query among all queries (CLIP, arXiv 2103.00020).

    Args:
        logits, target, allowed: as for `info_nce`. Query k is left out for the positive of query i if that passage
            may not be a negative of k, or is k's own positive.

    Returns:
        The mean over the queries' positives, a scalar.

    >>> logits = torch.tensor([[1.0, 5.0], [0.0, 2.0]])
    >>> allowed = torch.tensor([[True, False], [True, True]])
    >>> round(passage_info_nce(logits, torch.tensor([0, 1]), allowed).item(), 4)  # (log(1 + e^-1) + 0) / 2
    0.1566
    """
    may_be_negative = allowed.scatter(1, target[:, None], False)[:, target].T
    own = torch.eye(len(target), dtype=torch.bool, device=target.device)
    return info_nce(logits[:, target].T, torch.arange(len(target), device=target.device), may_be_negative | own)


def self_distillation(logits: Tensor, teacher: Tensor, allowed: Tensor) -> Tensor:
    """Cross entropy with the model's own ensemble as teacher (BGE-M3, arXiv 2402.03216 §3.2).

    FlagEmbedding's is in finetune/embedder/encoder_only/m3/modeling.py, forward.

    Args:
        logits: [Q, P], one head's.
        teacher: [Q, P], the ensemble's logits; no gradient flows into them.
        allowed: bool [Q, P], the columns of both softmaxes.

    Returns:
        −Σ softmax(teacher) · log softmax(logits), the mean over the queries, a scalar.

    >>> logits, teacher = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0]])
    >>> allowed = torch.tensor([[True, True, False]])
    >>> round(self_distillation(logits, teacher, allowed).item(), 4)  # (log(1 + e^-1) + log(1 + e)) / 2
    0.8133
    """
    return _soft_cross_entropy(logits, teacher, allowed)


def teacher_kl(logits: Tensor, teacher_scores: Tensor, group: Tensor) -> Tensor:
    """Distillation within the query's group, FlagEmbedding's `kl_div` (abc/finetune/embedder/AbsModeling.py).

    A cross entropy: it differs from the divergence by the teacher's entropy, a constant. InfoNCE is not in it.

    Args:
        logits: [Q, P].
        teacher_scores: [Q, P], raw, as the teacher gave them; read in the group only.
        group: bool [Q, P]; groups may differ in size. A query with no group adds 0.

    Returns:
        The mean over the queries, a scalar.

    >>> logits, teacher_scores = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> group = torch.tensor([[True, True, False]])
    >>> round(teacher_kl(logits, teacher_scores, group).item(), 4)  # (log(1 + e^-1) + log(1 + e)) / 2
    0.8133
    """
    return _soft_cross_entropy(logits, teacher_scores, group)


def m3_kd(logits: Tensor, teacher_scores: Tensor, group: Tensor, allowed: Tensor) -> Tensor:
    """Distillation against all passages, FlagEmbedding's `m3_kd_loss` (abc/finetune/embedder/AbsModeling.py).

    Each passage of the group in turn, in the order of the columns, is the target of a cross entropy against all allowed
    columns but the group's earlier ones; the teacher's softmax over the group weighs these. The first of them, with the
    positive as its target, is InfoNCE.

    Args:
        logits: [Q, P].
        teacher_scores: [Q, P], raw, as the teacher gave them; read in the group only.
        group: bool [Q, P]; groups may differ in size. Its columns that are not allowed are out of everything, the
            teacher's softmax too. A query with none left adds 0.
        allowed: bool [Q, P].

    Returns:
        The mean over the queries, a scalar.

    >>> logits, teacher_scores = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0, 3.0, 0.0]])
    >>> group, allowed = torch.tensor([[True, True, False]]), torch.tensor([[True, True, True]])
    >>> round(m3_kd(logits, teacher_scores, group, allowed).item(), 4)  # (log(1 + 2 e^-1) + log(2)) / 2
    0.6223
    """
    members = group & allowed
    rest = _floored(logits, allowed & ~group).logsumexp(dim=1, keepdim=True)

    # [Q, G]: the group's columns in their order, then, in the smaller groups, columns that are no members
    size = int(members.sum(dim=1).max())
    columns = members.int().argsort(dim=1, descending=True, stable=True)[:, :size]
    mine, real = logits.gather(1, columns), members.gather(1, columns)
    weights = _floored(teacher_scores.detach(), members).softmax(dim=1).gather(1, columns)

    # each column's rivals in the group are itself and the later ones, hence the cumulation from the right
    later = _floored(mine, real).flip(1).logcumsumexp(dim=1).flip(1)
    losses = torch.logaddexp(rest, later) - mine
    return (weights * losses.masked_fill(~real, 0.0)).sum(dim=1).mean()


def triplet_margin(scores: Tensor, target: Tensor, allowed: Tensor, margin: float) -> Tensor:
    """Hinge on how far the positive's score is above each negative's (Sentence-BERT, arXiv 1908.10084 §3, on scores).

    Args:
        scores: [Q, P], raw, not divided by a temperature.
        target: int64 [Q], the column of each query's positive.
        allowed: bool [Q, P]; the allowed columns but the target are the negatives.
        margin: in units of the scores.

    Returns:
        relu(margin − positive + negative), the mean over a query's negatives (0 where it has none), then over the
        queries; a scalar.

    >>> scores = torch.tensor([[0.5, 0.4, 0.1, 0.9]])
    >>> allowed = torch.tensor([[True, True, True, False]])
    >>> round(triplet_margin(scores, torch.tensor([0]), allowed, margin=0.2).item(), 4)  # (0.1 + 0) / 2
    0.05
    """
    negatives = allowed.scatter(1, target[:, None], False)
    hinge = torch.relu(margin - scores.gather(1, target[:, None]) + scores).masked_fill(~negatives, 0.0)
    return (hinge.sum(dim=1) / negatives.sum(dim=1).clamp(min=1)).mean()


def margin_guard(scores: Tensor, target: Tensor, allowed: Tensor, margin: float) -> Tensor:
    """Leaves out passages that score above the positive by more than a margin: they probably answer the query too.

    Qwen3-Embedding (arXiv 2506.05176, eq. of the mask, margin 0.1).

    Args:
        scores: [Q, P], raw, not divided by a temperature; only compared, no gradient.
        target: int64 [Q], the column of each query's positive; it stays.
        allowed: bool [Q, P].
        margin: in units of the scores.

    Returns:
        bool [Q, P], `allowed` less those passages.

    >>> scores = torch.tensor([[0.5, 0.55, 0.65, 0.1]])
    >>> allowed = torch.tensor([[True, True, True, False]])
    >>> margin_guard(scores, torch.tensor([0]), allowed, margin=0.1).tolist()
    [[True, True, False, False]]
    """
    suspect = scores > scores.gather(1, target[:, None]) + margin
    return allowed & ~suspect.scatter(1, target[:, None], False)


def _soft_cross_entropy(logits: Tensor, teacher: Tensor, where: Tensor) -> Tensor:
    """−Σ softmax(teacher) · log softmax(logits) over the columns in `where` [Q, P], the mean over the queries."""
    weights = _floored(teacher.detach(), where).softmax(dim=1)
    # set to 0 outside, for there it overflows to -inf in half precision, and 0 · -inf is not a number
    log_student = _floored(logits, where).log_softmax(dim=1).masked_fill(~where, 0.0)
    return -(weights * log_student).sum(dim=1).mean()


def _floored(logits: Tensor, where: Tensor) -> Tensor:
    """The smallest finite number outside `where`: its exponential is 0, and rows without a column stay finite."""
    return logits.masked_fill(~where, torch.finfo(logits.dtype).min)
