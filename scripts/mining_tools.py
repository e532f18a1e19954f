"""The miners that compare_mining.py compares, each in a process of its own, with its time and its memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bgetune.data import read_retrieval_set
from bgetune.examples import Example, read_examples, write_examples
from bgetune.files import write_jsonl
from bgetune.run import Run

OURS, FLAG, SENTENCE = "bgetune", "FlagEmbedding", "sentence-transformers"
FLAG_SMALL = "FlagEmbedding, batches of 128"

# the script draws without a seed
_HN_MINE = """
import random, runpy, sys
random.seed(0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# the values of its documentation's example, but for 7 negatives in place of 5
_SENTENCE_TRANSFORMERS = """
import json, random, sys
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
random.seed(0), torch.manual_seed(0)
model, asked, corpus, out = sys.argv[1:]
rows = [json.loads(line) for line in open(asked, encoding="utf-8")]
encoder = SentenceTransformer(model, device="cpu")
encoder.max_seq_length = 128
found = mine_hard_negatives(
    dataset=Dataset.from_dict({"query": [row["query"] for row in rows], "answer": [row["pos"][0] for row in rows]}),
    model=encoder, corpus=[json.loads(line)["text"] for line in open(corpus, encoding="utf-8")], range_min=10,
    range_max=50, max_score=0.8, relative_margin=0.05, num_negatives=7, sampling_strategy="random", batch_size=128,
    use_faiss=True, output_format="labeled-list",
)
with open(out, "w", encoding="utf-8") as file:
    for row in found:
        file.write(json.dumps({"query": row["query"], "pos": row["answer"][:1], "neg": row["answer"][1:]}) + "\\n")
"""


@dataclass(frozen=True)
class Task:
    """What every tool is given: the model's folder, and a set in BEIR layout with the positives it may know."""

    model: Path
    data: Path
    job: list[str]
    """Options of our job but for its folder."""


def mine_with_tool(tool: str, task: Task, out: Path, work: Path, hn_mine: Path) -> dict[str, float]:
    """From texts to examples at `out`: what that took. A query for which a tool finds nothing keeps no negative."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    asked, found, corpus = work / "asked.jsonl", work / "found.jsonl", task.data / "corpus.jsonl"
    examples = asked_examples(task.data)
    write_jsonl(asked, ({"query": example.query, "pos": example.pos} for example in examples))
    if tool == OURS:
        job = work / "job"
        shutil.copytree(task.data, job / "data" / task.data.name)
        (job / "config.yaml").write_text("{}\n")
        mine = ("-m", "data_prep", "mine", "--update", "--force", "--output", str(job))
        took = timed([sys.executable, *mine, *task.job])
        shutil.copy(Run(job).examples, out)
        return took
    if tool == SENTENCE:
        words = ["-c", _SENTENCE_TRANSFORMERS, str(task.model), str(asked), str(corpus), str(found)]
    else:
        words = [
            *("-c", _HN_MINE, str(hn_mine), "--input_file", str(asked), "--output_file", str(found)),
            *("--candidate_pool", str(corpus), "--range_for_sampling", "10-210", "--negative_number", "7"),
            *("--embedder_name_or_path", str(task.model), "--embedder_model_class", "encoder-only-base"),
            *("--pooling_method", "mean", "--embedder_query_max_length", "64", "--embedder_passage_max_length", "128"),
            *("--devices", "cpu", *(["--batch_size", "128"] if tool == FLAG_SMALL else [])),
        ]
    took = timed([sys.executable, *words])
    negatives = {example.query: example.neg for example in read_examples(found)}
    write_examples(out, (replace(example, neg=negatives.get(example.query, [])) for example in examples))
    return took


def asked_examples(folder: Path) -> list[Example]:
    """What every miner is given: train queries with the positives they may know."""
    data = read_retrieval_set(folder)
    text_of = dict(zip(data.corpus.ids, data.corpus.full_texts(), strict=True))
    queries, examples = data.queries_of("train"), []
    for query_id, query in zip(queries.ids, queries.texts, strict=True):
        ids = list(data.qrels["train"][query_id])
        examples.append(Example(query, [text_of[i] for i in ids], [], query_id=query_id, pos_ids=ids))
    return examples


def timed(words: Sequence[str]) -> dict[str, float]:
    """Seconds, processor seconds and most memory in GB (mapped files included) of a child process."""
    began = time.perf_counter()
    child = subprocess.Popen(words, env={**os.environ, "PYTHONHASHSEED": "0"})
    proc, resident, ticks = Path(f"/proc/{child.pid}"), 0, 0
    while child.poll() is None:
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB", (proc / "status").read_text(), re.M)
            user_and_system = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:  # it has ended since
            break
        resident = max(resident, int(found[1]) if found else 0)
        ticks = max(ticks, sum(map(int, user_and_system)))
        time.sleep(0.05)
    if child.wait():
        raise SystemExit(f"failed: {words}")
    seconds, busy = time.perf_counter() - began, ticks / os.sysconf("SC_CLK_TCK")
    return {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "memory_gb": round(resident / 1e6, 2)}
