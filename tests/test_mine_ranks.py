"""Mining by one, two and three processes leaves the same bytes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests import jobs, tiny
from tests.jobs import Job, half_done, hashes, torchrun

ROOT = Path(__file__).parents[1]
# All three mine a job, then the first two another one, as if they had been launched alone. These need a meeting point
# of their own, for the launcher's still has the addresses of the three. One launch, for imports take seconds.
PROGRAM = """
import os, sys
from data_prep.__main__ import main
three, two, port = sys.argv[1:]
assert os.environ["WORLD_SIZE"] == "3"
assert main(["mine", "--config", three]) == 0
if os.environ["RANK"] != "2":
    os.environ |= {"WORLD_SIZE": "2", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    assert main(["mine", "--config", two]) == 0
"""
MINE = {
    "sources": {"bm25": 1.0, "dense": 2.0, "sparse": 1.0},
    "max_share_of_positive": None,
    "agreement": ["dense", "bm25"],
    "teacher": {"kind": "hybrid", "max_share_of_positive": 1.0, "candidates": 12},
}


def write_job(folder: Path, model: Path) -> Job:
    """The corpus in 30 shards, searched in four parts."""
    folder.mkdir()
    return jobs.prepared(
        folder, model={"name_or_path": str(model)}, encode_shard_texts=2, encode_batch_tokens=64, mine=MINE
    )


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Job]:
    """Number of processes -> its job, mined."""
    top = tmp_path_factory.mktemp("ranks")
    model = tiny.m3(top / "m3")
    made = {count: write_job(top / str(count), model) for count in (1, 2, 3)}
    assert main(["mine", *made[1].words]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = top / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    torchrun(3, program, made[3].file, made[2].file, port)
    return made


@pytest.mark.parametrize("processes", [2, 3])
def test_the_mined_files_are_those_of_one_process(mined: dict[int, Job], processes: int) -> None:
    one, several = (mined[count].run.root for count in (1, processes))
    assert set(hashes(one / "mined")) == {"train.jsonl", "stats.json", "audit.html", "ranks.npz"}
    assert hashes(several / "mined") == hashes(one / "mined")
    assert hashes(several / "vectors") == hashes(one / "vectors")
    assert hashes(several / "manifests") == hashes(one / "manifests")


@pytest.mark.parametrize("processes", [2, 3])
def test_nothing_half_done_is_left(mined: dict[int, Job], processes: int) -> None:
    root = mined[processes].run.root
    assert not (root / "mining").exists()
    assert half_done(root) == []


def test_what_several_mined_holds_for_one(mined: dict[int, Job], caplog: pytest.LogCaptureFixture) -> None:
    before = hashes(mined[3].run.root)
    with caplog.at_level("INFO", logger="bgetune"):
        assert main(["mine", *mined[3].words]) == 0
    assert any("still holds, skipped" in message for message in caplog.messages)
    assert hashes(mined[3].run.root) == before
