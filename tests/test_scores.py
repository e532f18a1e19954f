"""Sparse and MaxSim scores against loops over texts and tokens, gradients included, and their memory."""

from __future__ import annotations

import doctest
import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bgetune import maxsim, scores
from bgetune.maxsim import max_sim
from bgetune.representations import SparseRows, TokenVectors, offsets_of
from bgetune.scores import sparse_scores

lengths = st.lists(st.integers(0, 5), min_size=1, max_size=5)
seeds = st.integers(0, 10**6)
quick = settings(max_examples=40, deadline=None)


def sparse_rows(sizes: list[int], seed: int, vocabulary: range, dtype: torch.dtype = torch.float64) -> SparseRows:
    """Texts with so many distinct tokens each (at most the whole vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    of = torch.tensor(vocabulary)
    ids = [of[torch.randperm(len(of), generator=generator)[:size]].sort().values for size in sizes]
    joined = torch.cat(ids)
    weights = torch.rand(len(joined), generator=generator, dtype=torch.float64).to(dtype)
    return SparseRows(joined, weights.requires_grad_(), offsets_of([len(each) for each in ids]))


def token_vectors(sizes: list[int], seed: int, width: int = 3, dtype: torch.dtype = torch.float64) -> TokenVectors:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(sum(sizes), width, generator=generator, dtype=torch.float64).to(dtype)
    return TokenVectors(vectors.requires_grad_(), offsets_of(sizes))


def naive_sparse(queries: SparseRows, passages: SparseRows) -> Tensor:
    """Every pair of texts, as wide as the largest id."""

    def dense(texts: SparseRows) -> list[Tensor]:
        starts = texts.offsets.tolist()
        return [
            torch.zeros(50, dtype=texts.weights.dtype).index_put((texts.ids[a:b],), texts.weights[a:b])
            for a, b in itertools.pairwise(starts)
        ]

    return torch.stack([torch.stack([(q * p).sum() for p in dense(passages)]) for q in dense(queries)])


def naive_max_sim(queries: TokenVectors, passages: TokenVectors) -> Tensor:
    """Every query token with every passage token, text by text."""

    def score(q: Tensor, p: Tensor) -> Tensor:
        if not len(q) or not len(p):
            return q.sum() * 0 + p.sum() * 0
        return torch.stack([(token * p).sum(dim=1).max(dim=0).values for token in q]).mean()

    parts = [texts.vectors.split(texts.offsets.diff().tolist()) for texts in (queries, passages)]
    return torch.stack([torch.stack([score(q, p) for p in parts[1]]) for q in parts[0]])


def with_gradients(score: Callable[[], Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """The scores and the gradients of a fixed, uneven sum of them."""
    found = score()
    grad = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    return found.detach(), *torch.autograd.grad(found, inputs, grad)


def max_sim_with_gradients(queries: TokenVectors, passages: TokenVectors, **options: object) -> tuple[Tensor, ...]:
    return with_gradients(lambda: max_sim(queries, passages, **options), queries.vectors, passages.vectors)


def assert_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def assert_same_bytes(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("module", [scores, maxsim])
def test_doctest(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@quick
@given(lengths, lengths, seeds)
def test_sparse_equals_loops(q_sizes, p_sizes, seed):
    queries, passages = sparse_rows(q_sizes, seed, range(8)), sparse_rows(p_sizes, seed + 1, range(3, 12))
    inputs = queries.weights, passages.weights
    found = with_gradients(lambda: sparse_scores(queries, passages), *inputs)
    assert_close(found, with_gradients(lambda: naive_sparse(queries, passages), *inputs))


@pytest.mark.parametrize("q_sizes", [[0], [0, 0], [2, 0]])
@pytest.mark.parametrize("p_sizes", [[0], [3, 0, 1]])
def test_sparse_without_overlap_is_zero_with_zero_gradients(q_sizes, p_sizes):
    queries, passages = sparse_rows(q_sizes, 0, range(4)), sparse_rows(p_sizes, 1, range(10, 14))
    inputs = queries.weights, passages.weights
    found, *grads = with_gradients(lambda: sparse_scores(queries, passages), *inputs)
    assert torch.equal(found, torch.zeros(len(q_sizes), len(p_sizes), dtype=torch.float64))
    assert [grad.tolist() for grad in grads] == [[0.0] * len(each) for each in inputs]


def test_sparse_is_never_as_wide_as_the_vocabulary():
    queries = sparse_rows([4] * 8, 0, range(0, 250_002, 1000))
    passages = sparse_rows([200] * 16, 1, range(0, 250_002, 500))
    with Largest() as largest:
        sparse_scores(queries, passages).sum().backward()
    assert largest.elements <= 16 * 200


def test_sparse_is_in_float32_under_autocast_and_for_bf16_weights():
    queries, passages = (
        sparse_rows([5] * 3, 0, range(9), torch.float32),
        sparse_rows([5] * 4, 1, range(9), torch.float32),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sparse_scores(queries, passages)
    assert torch.equal(found, sparse_scores(queries, passages))
    low = SparseRows(queries.ids, queries.weights.detach().bfloat16().requires_grad_(), queries.offsets)
    sparse_scores(low, passages).sum().backward()
    assert sparse_scores(low, passages).dtype == torch.float32
    assert low.weights.grad is not None
    assert low.weights.grad.dtype == torch.bfloat16


@quick
@given(lengths, lengths, seeds, st.integers(1, 60))
def test_max_sim_equals_loops_whatever_the_chunks(q_sizes, p_sizes, seed, elements):
    queries, passages = token_vectors(q_sizes, seed), token_vectors(p_sizes, seed + 1)
    expected = with_gradients(lambda: naive_max_sim(queries, passages), queries.vectors, passages.vectors)
    found = max_sim_with_gradients(queries, passages)
    assert_close(found, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "CHUNK_ELEMENTS", elements)
        assert_close(max_sim_with_gradients(queries, passages), found)
    with torch.no_grad():
        assert_close((max_sim(queries, passages),), found[:1])


@quick
@given(lengths, lengths, seeds, st.integers(1, 60))
def test_of_equal_tokens_the_first_wins(q_sizes, p_sizes, seed, elements):
    """Small whole numbers: products are exact, and many are equal."""
    queries, passages = token_vectors(q_sizes, seed), token_vectors(p_sizes, seed + 1)
    queries, passages = (
        TokenVectors(texts.vectors.detach().round().clamp(-1, 1).requires_grad_(), texts.offsets)
        for texts in (queries, passages)
    )
    expected = with_gradients(lambda: naive_max_sim(queries, passages), queries.vectors, passages.vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "CHUNK_ELEMENTS", elements)
        found = max_sim_with_gradients(queries, passages)
        assert_close(found, expected)
        # bf16 holds such numbers exactly, so that the search in it finds the same tokens
        assert_close(max_sim_with_gradients(queries, passages, search_dtype=torch.bfloat16), found)


def test_max_sim_passes_gradcheck():
    queries, passages = token_vectors([2, 0, 1, 3], 0), token_vectors([4, 1, 0, 2, 6], 1)

    def score(q: Tensor, p: Tensor) -> Tensor:
        return max_sim(TokenVectors(q, queries.offsets), TokenVectors(p, passages.offsets))

    assert torch.autograd.gradcheck(score, (queries.vectors, passages.vectors))
    assert torch.autograd.gradcheck(lambda q: score(q, passages.vectors.detach()), (queries.vectors,))
    assert torch.autograd.gradcheck(lambda p: score(queries.vectors.detach(), p), (passages.vectors,))


def test_a_search_in_bf16_is_scored_exactly():
    queries, passages = (token_vectors([20] * 4, s, 64, torch.float32) for s in (0, 1))
    exact, *exact_grads = max_sim_with_gradients(queries, passages)
    found, *grads = max_sim_with_gradients(queries, passages, search_dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    # another winner only scores less, by a rounding of bf16 (2**-8)
    assert (found <= exact + 1e-5).all()
    torch.testing.assert_close(found, exact, rtol=2**-8, atol=0)
    for one, other in zip(grads, exact_grads, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98
    with torch.no_grad():
        assert torch.equal(max_sim(queries, passages, torch.bfloat16), found)


def test_max_sim_is_in_float32_under_autocast_and_for_bf16_vectors():
    queries, passages = (token_vectors([7, 3], s, 32, torch.float32) for s in (0, 1))
    expected = max_sim_with_gradients(queries, passages)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bytes(max_sim_with_gradients(queries, passages), expected)
    low = TokenVectors(passages.vectors.detach().bfloat16().requires_grad_(), passages.offsets)
    found, _, grad = max_sim_with_gradients(queries, low)
    assert (found.dtype, grad.dtype) == (torch.float32, torch.bfloat16)
    same = TokenVectors(low.vectors.detach().float(), low.offsets)
    assert torch.equal(found, max_sim(queries, same))


def test_max_sim_is_the_same_twice_and_warns_of_nothing():
    queries, passages = (token_vectors([9, 0, 30, 4] * 4, s, 48, torch.float32) for s in (0, 1))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for search in (None, torch.bfloat16):
                first = max_sim_with_gradients(queries, passages, search_dtype=search)
                assert_same_bytes(max_sim_with_gradients(queries, passages, search_dtype=search), first)
    finally:
        torch.use_deterministic_algorithms(False)


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize("search", [None, torch.bfloat16])
def test_max_sim_makes_no_large_tensor(monkeypatch, search):
    """All products are 512 * 131,072 = 2**26 elements, 268 MB; nothing may pass the inputs and a chunk."""
    monkeypatch.setattr(maxsim, "CHUNK_ELEMENTS", 2**18)
    queries = token_vectors([16] * 32, 0, 4, torch.float32)
    passages = token_vectors([2048] * 63 + [1024, 1023, 1], 1, 4, torch.float32)
    with Largest() as largest:
        max_sim(queries, passages, search).sum().backward()
    assert passages.vectors.grad is not None
    # [512, 2048] products of one passage are four chunks: cut along the query tokens
    assert largest.elements <= max(passages.vectors.numel(), 2**18)


def test_only_the_winners_are_kept():
    queries, passages = token_vectors([16] * 4, 0), token_vectors([50] * 10, 1)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        max_sim(queries, passages)
    assert [t.dtype for t in saved if t.shape == (10, 64)] == [torch.int32]
    # besides: both inputs, the queries' offsets and which passages have tokens
    assert sum(t.numel() for t in saved) == 10 * 64 + queries.vectors.numel() + passages.vectors.numel() + 5 + 10


def test_vectors_need_not_be_contiguous():
    queries, passages = token_vectors([3, 5], 0), token_vectors([4, 2, 7], 1)
    expected = max_sim_with_gradients(queries, passages)
    across = [
        TokenVectors(t.vectors.detach().T.contiguous().T.requires_grad_(), t.offsets) for t in (queries, passages)
    ]
    assert not across[0].vectors.is_contiguous()
    assert_close(max_sim_with_gradients(*across), expected)
    assert_close(max_sim_with_gradients(*across, search_dtype=torch.float32), expected)
