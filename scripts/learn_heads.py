"""What training gives each head: base, tuned without and with self-distillation, over several seeds.

    python scripts/learn_heads.py --config configs/quickstart.yaml --output runs/learn_quickstart
    python scripts/learn_heads.py --config scripts/medquad.yaml --output runs/learn_medquad --data.guards '{}' \\
        --model.heads '[dense, sparse, multi_vector]' --model.passage_max_length 128 --train.max_steps 20 \\
        --passages 3000 --test_queries 400

The data are prepared and mined once, as `bgetune adapt` does it. Then each variant is trained on them from the same
start and measured on the test split after its last step; there is no choice by dev, so that variants differ in nothing
else. Each result is added to OUTPUT/learn.jsonl; what is there is not done again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jsonargparse
import torch

import bgetune  # noqa: F401 - sets what libgomp reads when torch is imported
from bgetune.config import JobConfig
from bgetune.config_io import parse_job
from bgetune.data import RetrievalSet, read_retrieval_set, write_retrieval_set
from bgetune.encoder import Encoder
from bgetune.metrics import means, per_query
from bgetune.progress import progress
from bgetune.run import Run, open_run
from bgetune.search import retrievers_of, search, search_bm25
from data_prep.__main__ import main as data_prep
from train import checkpoint
from train.dataset import batch_at, load_training_set
from train.launch import keep_freed_memory, make_learner, open_accelerator
from train.schedule import learning_rate
from train.step import Learner, training_step
from train.trainer import _step_seed, total_steps


def add_options(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="Training seeds.")
    parser.add_argument("--passages", type=int | None, default=None, help="Keep so many passages of the domain.")
    parser.add_argument("--test_queries", type=int | None, default=None, help="Keep so many test queries.")
    parser.add_argument("--update", action="store_true", help="Accept a changed configuration for an existing output.")


def shrink(folder: Path, passages: int, test_queries: int) -> None:
    """Cut a set down, by hash: test queries, their positives, and passages that answer train queries or none."""
    data = read_retrieval_set(folder)
    tested = sorted(data.qrels["test"], key=_hash)[:test_queries]
    kept = {passage_id for query_id in tested for passage_id in data.qrels["test"][query_id]}
    others = [i for i in sorted(data.corpus.ids, key=_hash) if i not in kept]
    kept |= set(others[: passages - len(kept)])
    qrels = {"test": {query_id: data.qrels["test"][query_id] for query_id in tested}}
    for split in ("train", "dev"):
        judged = data.qrels[split]
        qrels[split] = {q: found for q, found in judged.items() if all(passage_id in kept for passage_id in found)}
    wanted = {query_id for judged in qrels.values() for query_id in judged}
    corpus = data.corpus.take([i for i, passage_id in enumerate(data.corpus.ids) if passage_id in kept])
    queries = data.queries.take([i for i, query_id in enumerate(data.queries.ids) if query_id in wanted])
    write_retrieval_set(folder, RetrievalSet(corpus, queries, qrels))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def measured(encoder: Encoder, config: JobConfig, run: Run, label: str) -> dict[str, float]:
    """nDCG@10 of every retriever on the test split."""
    data = read_retrieval_set(run.data(config.data.name))
    queries = data.queries_of("test")
    qrels = {query_id: data.qrels["test"][query_id] for query_id in queries.ids}
    cache = Path(tempfile.mkdtemp(dir=run.root))
    try:
        found = search(encoder, queries, data.corpus, config, retrievers_of(encoder.heads), cache, label)
    finally:
        shutil.rmtree(cache)
    found["bm25"] = search_bm25(queries, data.corpus, 100)
    return {name: means(per_query(qrels, results))["ndcg@10"] for name, results in found.items()}


def trained(config: JobConfig, run: Run, label: str) -> Learner:
    """The model after the last step."""
    data = load_training_set(run.examples, config.train, config.model.query_instruction)
    learner, _, _ = make_learner(config, run, data, open_accelerator(config, run))
    total = total_steps(len(data.examples), config.train)
    learner.encoder.train()
    learner.encoder.use_attention(learner.attention)
    with progress(total, label, "step") as bar:
        for step in range(total):
            for group in learner.optimizer.param_groups:
                group["lr"] = learning_rate(step, total, config.train) * group["scale"]
            training_step(
                learner, batch_at(step, data, config.train), config.train, step, _step_seed(config.train.seed, step)
            )
            bar.update(1)
    learner.encoder.use_attention(learner.attention_of_dev)
    return learner


def variant(config: JobConfig, name: str, seed: int) -> JobConfig:
    return replace(config, train=replace(config.train, seed=seed, self_distillation=name == "with"))


def run_all(config: JobConfig, run: Run, seeds: Sequence[int]) -> list[dict]:
    results = run.root / "learn.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def add(row: dict) -> None:
        done.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    for seed in seeds:
        for name in ("without", "with"):
            if any((row["variant"], row["seed"]) == (name, seed) for row in done):
                continue
            learner = trained(variant(config, name, seed), run, f"{name}, seed {seed}")
            add({"variant": name, "seed": seed, **measured(learner.encoder, config, run, name)})
    if not any(row["variant"] == "base" for row in done):
        base = Encoder.load(config.model, heads_from=checkpoint.started_heads(run))
        add({"variant": "base", "seed": 0, **measured(base, config, run, "base")})
    return done


def table(rows: list[dict]) -> str:
    """Mean over seeds and standard deviation, one line a retriever."""
    names = [name for name in rows[0] if name not in ("variant", "seed")]
    lines = ["| nDCG@10 | base | tuned without self-distillation | tuned with |", "|---|---:|---:|---:|"]
    for name in names:
        cells = []
        for kind in ("base", "without", "with"):
            values = [row[name] for row in rows if row["variant"] == kind]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    config, own = parse_job(sys.argv[1:], "learn_heads.py", __doc__ or "", add_options)
    with open_run(config, own["update"]) as run:
        pass
    if list(run.checkpoints.glob("step-*")):
        raise SystemExit(f"{run.checkpoints}: another job's checkpoints, which training would go on from; set --output")
    for stage in ("prepare", "mine"):
        if not run.manifest(stage).exists():
            if data_prep([stage, "--config", str(run.config_file)]):
                raise SystemExit(f"{stage} failed")
            if stage == "prepare" and own["passages"]:
                shrink(run.data(config.data.name), own["passages"], own["test_queries"])
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {config.output}")
    print(table(run_all(config, run, own["seeds"])))


if __name__ == "__main__":
    main()
