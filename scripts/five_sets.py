"""Every retriever on every set of ../shared/data, base and tuned: MedQuAD is the domain, the others are guards.

    python scripts/five_sets.py --output runs/five_sets [--passages 4000] [--test_queries 1000] [--train.max_steps 80]

The job is scripts/five_sets.yaml. Each set is cut by hash to so many test queries, their positives, and other passages
up to that number, so that it can be measured in an hour without a GPU; 0: whole sets. The cuts are kept in OUTPUT-data;
run it again to go on. Other options are the job's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from learn_heads import shrink

from bgetune.cli import main as bgetune
from bgetune.config_io import load_job
from bgetune.data import read_retrieval_set, write_retrieval_set

_WHOLE = 10**9


def cut(source: Path, folder: Path, passages: int, test_queries: int) -> None:
    if not folder.is_dir():
        write_retrieval_set(folder, read_retrieval_set(source))
        shrink(folder, passages or _WHOLE, test_queries or _WHOLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=4000)
    parser.add_argument("--test_queries", type=int, default=1000)
    parser.add_argument("--until", default="adapt", help="adapt (all), or one stage: prepare, mine, train, eval")
    options, more = parser.parse_known_args()
    config = Path(__file__).with_name("five_sets.yaml")
    job = load_job(config)
    sources = {job.data.name: job.data.domain, **job.data.guards}
    words = ["--config", str(config), "--output", str(options.output), *more]
    data = options.output.with_name(options.output.name + "-data")
    for name, source in sources.items():
        cut(Path(source.path or ""), data / name, options.passages, options.test_queries)
        option = "--data.domain.path" if name == job.data.name else f"--data.guards.{name}.path"
        words += [option, str(data / name)]
    stage = ["data-prep", options.until] if options.until in ("prepare", "mine") else [options.until]
    return bgetune([*stage, *words])


if __name__ == "__main__":
    raise SystemExit(main())
