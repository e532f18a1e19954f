"""SIGKILL at random moments over prepare and mine; the resumed files are compared with those of an undisturbed run.

    python scripts/kill_data_prep.py [--kills 20] [--seed 0] [--passages 3000] [--out DIR]

The job has every step that takes time: documents are cut, queries are written by a server on this machine that takes
its time, a round trip filters them, the corpus is encoded in many shards, searched by dense (IVF), BM25 and sparse, and
a cross-encoder scores what is found. Every start is a process group of its own, and is killed as one. The kills are
spread over the steps, each at a random moment of its step; each next start is the same two commands, `prepare` and
`mine`, and goes on in the same folder. Where the job is done before its kills are, another folder takes the others.
All files are compared but those that name the folder or hold times (config.yaml, logs/) and the endpoint's answers,
which lie in the order in which they came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sentence_transformers  # noqa: F401 - else each start spends its time on it, and few kills come in the work
import transformers.models.bert.modeling_bert
import transformers.models.xlm_roberta.modeling_xlm_roberta  # noqa: F401
import yaml

import data_prep.mining.mine
import data_prep.prepare  # noqa: F401
from data_prep.__main__ import main as data_prep_main
from tests import jobs, tiny
from tests.fake_endpoint import FakeEndpoint, Reply, says
from tests.test_teacher import write_reranker

STEPS = (
    "prepare: documents",
    "prepare: synthesize",
    "prepare: round trip, split",
    "mine: encode",
    "mine: index, dense search",
    "mine: bm25, sparse search",
    "mine: scores of positives, filters",
    "mine: teacher",
    "mine: selection, audit",
    "done",
)
_SECTIONS = 50
_ANSWER_SECONDS = 0.02
_POLL = 0.01  # between two looks at the folder
_NEVER_SAME = ("config.yaml", "logs/", "synthesized/")


class Kill(NamedTuple):
    """The step that was under way, the file that was written last, and the seconds since this start."""

    step: str
    newest: str
    seconds: float


# --- the job


def write_documents(folder: Path, passages: int) -> None:
    """Markdown files of short sections: words that the tiny model knows, and words for BM25."""
    draw = random.Random(0)
    folder.mkdir()
    for number in range(-(-passages // _SECTIONS)):
        lines = [f"# Book {number}"]
        for section in range(min(_SECTIONS, passages - number * _SECTIONS)):
            known = [draw.choice((*tiny.TOPICS, *tiny.WORDS)) for _ in range(12)]
            rare = [f"w{draw.randrange(4 * passages)}" for _ in range(6)]
            words = draw.sample(known + rare, 18)
            lines += [f"## Part {number} {section}", f"{' '.join(words[:9])}.", f"{' '.join(words[9:])}."]
        (folder / f"book{number:03d}.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def job_of(top: Path, url: str, passages: int) -> dict[str, object]:
    """The job but for its output."""
    write_documents(top / "books", passages)
    return {
        "model": {"name_or_path": str(tiny.m3(top / "model")), "query_max_length": 16, "passage_max_length": 48},
        "data": {
            "name": "books",
            "domain": {
                "kind": "documents",
                "path": str(top / "books"),
                "documents": {"builders": [], "chunk_tokens": 40, "min_tokens": 8},
            },
            "leakage": "drop",
        },
        "synthesize": {
            "url": url,
            "model": "fake",
            "concurrency": 4,
            "max_passages": passages // 4,
            "round_trip_rank": passages // 2,
        },
        "encode_shard_texts": max(passages // 16, 1),
        "encode_batch_tokens": 256,
        "mine": {
            "sources": {"dense": 2.0, "bm25": 1.0, "sparse": 1.0},
            "agreement": ["dense", "bm25"],
            "rank_last": 50,
            "negatives_per_query": 5,
            "max_share_of_positive": None,
            "index": "IVF8,Flat",
            "memory_gb": passages * 1e-7,  # several parts
            "teacher": {
                "kind": "cross_encoder",
                "name_or_path": str(write_reranker(top / "reranker", "bert")),
                "max_length": 64,
                "margin": 0.0,
                "candidates": 20,
            },
        },
    }


def answer(passage: str, _seed: int) -> Reply:
    """Two queries out of the passage's own words."""
    words = [word.strip(".") for word in passage.split()]
    queries = [" ".join(words[3:17:2]), " ".join(words[4:18:2])]
    return says(json.dumps(queries), delay=_ANSWER_SECONDS)


def start_endpoint() -> tuple[int, str]:
    """The server in a process of its own: a program with threads must not fork. Its id and URL."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it complains of clients that were killed
        with FakeEndpoint(answer=answer) as server:
            os.write(theirs, server.url.encode())
            signal.pause()
        os._exit(0)
    return child, os.read(ours, 100).decode()


# --- starts and kills


def start(file: Path) -> int:
    """The two commands, in a process group of its own; its id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    said = os.open(file.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 1
    try:
        code = data_prep_main(["prepare", "--config", str(file)]) or data_prep_main(["mine", "--config", str(file)])
    finally:
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit status, None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def newest_file(folder: Path) -> str:
    """The file that was written last, half-written ones included; what every start writes anew is left out."""
    found: list[tuple[int, str]] = []
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            try:
                found.append((os.stat(path).st_mtime_ns, os.path.relpath(path, folder)))
            except FileNotFoundError:  # renamed meanwhile
                continue
    shown = [pair for pair in found if pair[1] not in (".lock", "config.yaml")]
    return max(shown, default=(0, ""))[1]


def blocks_in(folder: Path) -> int:
    """Whole blocks of teacher scores."""
    return sum(name.endswith(".npy") for _, _, names in os.walk(folder / "mining" / "teacher") for name in names)


def step_of(folder: Path, newest: str, blocks: int) -> str:
    """Which step was under way, from the file that was written last.

    Args:
        blocks: of teacher scores, in an undisturbed run; 0: not known.
    """
    prepared, name = (folder / "manifests" / "prepare.json").is_file(), Path(newest).name
    if (folder / "manifests" / "mine.json").is_file():
        return "done"
    if not prepared:
        if newest.startswith("synthesized"):
            return "prepare: synthesize"
        return "prepare: round trip, split" if newest.startswith(("vectors", "data")) else "prepare: documents"
    if newest.startswith("mined") or ".mined." in newest:
        return "mine: selection, audit"
    if "/teacher/" in newest:
        return "mine: selection, audit" if blocks_in(folder) == blocks else "mine: teacher"
    if "-pairs-" in name:
        return "mine: scores of positives, filters"
    if name.lstrip(".").startswith(("bm25", "words", "sparse-")):
        return "mine: bm25, sparse search"
    return "mine: index, dense search" if newest.startswith(("mining", "logs")) else "mine: encode"


def undisturbed(file: Path, folder: Path) -> tuple[dict[str, float], int]:
    """Run it to its end: seconds of each step, and the number of blocks of teacher scores."""
    child, seconds, blocks = start(file), dict.fromkeys(STEPS, 0.0), 0
    last = time.monotonic()
    while (status := ended(child)) is None:
        time.sleep(_POLL)
        blocks, now = max(blocks, blocks_in(folder)), time.monotonic()
        seconds[step_of(folder, newest_file(folder), 0)] += now - last
        last = now
    assert status == 0, file.with_suffix(".txt").read_text(encoding="utf-8")[-3000:]
    return seconds, blocks


def killed(
    file: Path, folder: Path, step: str, seconds: float, idle: float, draw: random.Random, blocks: int
) -> Kill | None:
    """Start it, wait until `step` has begun and a while more, kill its group; None where it had ended.

    Args:
        seconds: what the step takes, divided by its kills: the while is at most as long.
        idle: what a start takes before it does anything, for a start that begins in the step.
    """
    began, waited, child = time.monotonic(), False, start(file)
    while ended(child) is None:
        if STEPS.index(step_of(folder, newest_file(folder), blocks)) < STEPS.index(step):
            waited = True
            time.sleep(_POLL)
            continue
        time.sleep(draw.uniform(0.0, seconds + (0.0 if waited else idle)))
        if ended(child) is not None:
            return None
        newest = newest_file(folder)
        os.killpg(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            return None
        return Kill(step_of(folder, newest, blocks), newest, time.monotonic() - began)
    return None


def compared(folder: Path) -> dict[str, str]:
    """Files and their hashes, without those that hold times or the folder's own path."""
    return {name: digest for name, digest in jobs.hashes(folder).items() if not name.startswith(_NEVER_SAME)}


def difference(plain: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in plain.keys() | other.keys() if plain.get(name) != other.get(name)}


# --- the program


def write_job(top: Path, name: str, job: dict[str, object]) -> tuple[Path, Path]:
    """The YAML file and the job's folder."""
    file, folder = top / f"{name}.yaml", top / name
    file.write_text(yaml.safe_dump({**job, "output": str(folder)}, sort_keys=False), encoding="utf-8")
    return file, folder


def finish(file: Path) -> float:
    """Run it to its end; the seconds that took."""
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start(file), 0)[1]) == 0, file.with_suffix(".txt").read_text()[-3000:]
    return time.monotonic() - began


def kill_and_compare(top: Path, url: str, passages: int, kills: int, seed: int) -> bool:
    """Print the table and whether all bytes are the same."""
    job, draw = job_of(top, url, passages), random.Random(seed)
    file, folder = write_job(top, "plain", job)
    seconds, blocks = undisturbed(file, folder)
    plain, idle = compared(folder), finish(file)
    assert compared(folder) == plain, "a second start of what is done changes nothing"
    print(f"undisturbed: {sum(seconds.values()):.1f} s, {blocks} blocks of teacher scores")
    for step in STEPS[:-1]:
        print(f"  {seconds[step]:5.2f} s  {step}")
    print(f"\n{'kill':>4}  {'step under way':<36}{'seconds':>7}  newest file")
    steps = [STEPS[i * (len(STEPS) - 1) // kills] for i in range(kills)]
    wrong: set[str] = set()
    done = number = 0
    while done < kills:
        number += 1
        file, folder = write_job(top, f"killed{number}", job)
        while done < kills:
            share = seconds[steps[done]] / steps.count(steps[done])
            kill = killed(file, folder, steps[done], share, idle, draw, blocks)
            if kill is None:
                break
            done += 1
            print(f"{done:>4}  {kill.step:<36}{kill.seconds:>7.2f}  {kill.newest}", flush=True)
        finish(file)
        wrong |= difference(plain, compared(folder))
    counts = ", ".join(f"{sum(n.startswith(f'{part}/') for n in plain)} of {part}/" for part in ("data", "mined"))
    print(f"\n{done} kills, {number} folders, {len(plain)} files of each compared ({counts}, vectors and manifests)")
    print(f"DIFFERENT: {', '.join(sorted(wrong))}" if wrong else "identical")
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passages", type=int, default=3000)
    parser.add_argument("--out", type=Path, help="a new folder that stays; a temporary one when absent")
    options = parser.parse_args()
    server, url = start_endpoint()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            top = options.out or Path(temporary)
            top.mkdir(parents=True, exist_ok=True)
            return 0 if kill_and_compare(top, url, options.passages, options.kills, options.seed) else 1
    finally:
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)


if __name__ == "__main__":
    raise SystemExit(main())
