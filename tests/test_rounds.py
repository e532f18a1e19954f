"""Two rounds of mining and training: where their files are, what is done again, whose negatives stay."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bgetune import adapt as adapt_module
from bgetune.cli import main
from bgetune.config import AdaptConfig, JobConfig
from bgetune.corpus import Corpus
from bgetune.data import Texts
from bgetune.encoder import Encoder
from bgetune.examples import Example, write_examples
from bgetune.files import read_json, write_json
from bgetune.metrics import means, per_query
from bgetune.run import Run
from bgetune.search import search
from bgetune.stages import Stage, plan
from data_prep.__main__ import main as data_prep
from data_prep.mining.choose import Chosen, Windows
from data_prep.mining.report import write_ranks
from data_prep.mining.rounds import is_mined_already, settle_with_round_before
from data_prep.mining.select import Candidate
from eval.markdown import to_markdown
from eval.rounds import ROUND_COLUMNS, round_rows, rounds_of
from eval.sets import read_eval_sets
from tests import jobs
from tests.jobs import Job, hashes, jsonl, write_jsonl
from train.__main__ import main as train

ALL = ["prepare", "mine 1", "train 1", "mine 2", "train 2", "eval", "export"]


def adapt(job: Job, caplog: pytest.LogCaptureFixture, *options: str) -> list[str]:
    """The stages that were done."""
    done: list[str] = []

    def start(stage: Stage, run: Run, redo: bool) -> int:
        done.append(f"{stage.name} {run.round}" if stage.in_rounds else stage.name)
        return jobs.started_here(stage, run, redo)

    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.INFO, logger="bgetune"):
        patched.setattr(adapt_module, "_start", start)
        assert main(["adapt", *job.words, *options]) == 0
    return done


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished job of two rounds. A rate that moves the tiny model, so that its second round differs."""
    job = jobs.write(
        tmp_path_factory.mktemp("rounds"),
        adapt={"rounds": 2},
        mine={"rank_last": 12, "max_share_of_positive": None},
        train={"learning_rate": 1e-2},
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapt_module, "_start", jobs.started_here)
        assert main(["adapt", *job.words]) == 0
    return job


def second(job: Job) -> Run:
    return Run(job.run.root, 2)


def test_the_plan_has_mining_and_training_once_a_round() -> None:
    def named(rounds: int) -> list[str]:
        config = JobConfig(adapt=AdaptConfig(rounds=rounds))
        return [f"{stage.name} {number}" for stage, number in plan(config)]

    assert named(1) == ["prepare 1", "mine 1", "train 1", "eval 1", "export 1"]
    assert named(3) == [
        "prepare 3", "mine 1", "train 1", "mine 2", "train 2", "mine 3", "train 3", "eval 3", "export 3"
    ]  # fmt: skip


def test_the_second_round_is_in_a_folder_of_its_own(adapted: Job) -> None:
    root = adapted.run.root
    for first, later in (("mined/train.jsonl",) * 2, ("mined/ranks.npz",) * 2, ("checkpoints/best/best.json",) * 2):
        assert (root / first).is_file()
        assert (root / "rounds" / "2" / later).is_file()
    assert {path.name for path in (root / "rounds" / "2").iterdir()} == {"mined", "checkpoints", "logs"}
    assert {path.name for path in (root / "manifests").glob("*.json")} == {
        f"{name}.json" for name in ("prepare", "mine", "train", "mine-2", "train-2", "eval", "export")
    }
    for cache in ("best", "best-2"):
        assert list((root / "vectors" / cache).glob("*/dense.npy")), cache
    # what is exported is the last round's model
    assert (root / "export" / "model.safetensors").read_bytes() == (
        (second(adapted).best / "model.safetensors").read_bytes()
    )


def test_the_second_round_is_mined_with_the_first_ones_model(adapted: Job) -> None:
    """And each round's training starts from the base model, on its own negatives."""
    made_from = read_json(second(adapted).manifest("mine-2"))["made_from"]["inputs"]
    assert set(made_from) == {"data/clinic", "checkpoints/best", "mined"}
    rows = {row["query_id"]: row for row in jsonl(second(adapted).examples)}
    data = {row["_id"]: f"{row['title']} {row['text']}" for row in jsonl(adapted.run.data("clinic") / "corpus.jsonl")}
    encoder = Encoder.load_folder(adapted.run.best, adapted.config.model)
    for row in list(rows.values())[:5]:
        texts = [row["query"], *(data[passage_id] for passage_id in row["neg_ids"])]
        ids = [encoder.tokenize(texts[:1], "query")[0], encoder.tokenize(texts[1:], "passage")[0]]
        query, passages = (encoder.eval()(*encoder.pad(each)).dense.detach().float().numpy() for each in ids)
        assert row["neg_scores"] == pytest.approx((passages @ query[0]).tolist(), abs=2e-2)  # bf16 where there is any
    stats = [read_json(run.examples.parent / "stats.json") for run in (adapted.run, second(adapted))]
    assert stats[0]["queries_changed"] is None
    before = {row["query_id"]: row["neg_ids"] for row in jsonl(adapted.run.examples)}
    changed = sum(sorted(row["neg_ids"]) != sorted(before[query_id]) for query_id, row in rows.items())
    assert stats[1]["queries_changed"] == changed > 0


def test_the_report_shows_what_each_round_gave(adapted: Job) -> None:
    report = read_json(adapted.run.report / "report.json")
    first, last = report["rounds"]
    assert [first["round"], last["round"]] == [1, 2]
    for row, run in ((first, adapted.run), (last, second(adapted))):
        stats, best = read_json(run.examples.parent / "stats.json"), read_json(run.best / "best.json")
        assert row["negatives"] == stats["negatives"] == 160
        assert row["queries_changed"] == stats["queries_changed"]
        assert row["dev_ndcg@10"] == best["dev_ndcg@10"]
    assert last["test_ndcg@10"] == report["sets"]["clinic"]["retrievers"]["dense"]["tuned"]["ndcg@10"]
    told = (adapted.run.report / "report.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(ROUND_COLUMNS)} |" in told
    for cells in round_rows(report["rounds"]):
        assert f"| {' | '.join(cells)} |" in told


def test_the_first_rounds_test_figure_is_that_of_its_model(adapted: Job) -> None:
    config, run = adapted.config, adapted.run
    domain = read_eval_sets(config, run)[0][0]
    encoder = Encoder.load_folder(run.best, config.model)
    found = search(encoder, domain.queries, domain.corpus, config, ["dense"], run.root / "elsewhere", "test")["dense"]
    expected = means(per_query(domain.qrels, found))["ndcg@10"]
    assert read_json(run.report / "report.json")["rounds"][0]["test_ndcg@10"] == expected


def test_a_second_run_skips_every_stage(adapted: Job, caplog: pytest.LogCaptureFixture) -> None:
    before = hashes(adapted.run.root)
    assert adapt(adapted, caplog) == []
    assert sum("still holds, skipped" in message for message in caplog.messages) == len(ALL)
    assert any("mine, round 2 of 2: still holds" in message for message in caplog.messages)
    assert hashes(adapted.run.root) == before


def test_a_round_that_is_not_there_is_refused(adapted: Job, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("3", "0", "-1"):
        assert data_prep(["mine", *adapted.words, "--round", number]) == 2
        assert (
            jobs.only_error(capsys)
            == f"error: --round: {number} will not do; rounds count from 1, and adapt.rounds is 2"
        )
    assert train([*adapted.words, "--round", "3"]) == 2
    assert jobs.only_error(capsys) == "error: --round: 3 will not do; rounds count from 1, and adapt.rounds is 2"


def test_a_round_whose_round_before_is_missing_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.prepared(tmp_path, adapt={"rounds": 2})
    assert data_prep(["mine", *job.words, "--round", "2"]) == 2
    assert "run the stage `mine --round 1` first" in jobs.only_error(capsys)
    assert data_prep(["mine", *job.words]) == 0, "without --round: the first that is not done"
    assert job.run.examples.is_file()
    assert data_prep(["mine", *job.words]) == 2
    assert "run the stage `train --round 1` first" in jobs.only_error(capsys)


def test_one_round_has_no_table(adapted: Job) -> None:
    config = replace(adapted.config, adapt=AdaptConfig(rounds=1))
    assert rounds_of(config, adapted.run, read_eval_sets(adapted.config, adapted.run)[0][0], "dense") == []
    report = {**read_json(adapted.run.report / "report.json"), "rounds": []}
    assert "Rounds of mining" not in to_markdown(report, adapted.file)


def test_a_round_after_one_that_kept_the_base_model_is_not_mined_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are those that mining with the same model makes."""
    job = jobs.mined(tmp_path, adapt={"rounds": 2}, mine={"sources": {"bm25": 1.0, "dense": 1.0}})
    best = job.run.best / "best.json"
    Encoder.load(job.config.model).save(job.run.best)
    write_json(best, {"step": 0})
    words = ["mine", *job.words, "--round", "2"]
    with monkeypatch.context() as patched:
        patched.setattr("data_prep.mining.mine.is_mined_already", lambda config, run: False)
        assert data_prep(words) == 0
    folder = second(job).examples.parent
    searched = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix.startswith(".json")}
    assert set(searched) == {"train.jsonl", "stats.json"}
    said = "round 1 ended with the base model itself"
    with caplog.at_level(logging.INFO, logger="bgetune"):
        assert data_prep([*words, "--force"]) == 0
    assert sum(said in message for message in caplog.messages) == 1
    assert {name: (folder / name).read_bytes() for name in searched} == searched
    assert {path.name for path in folder.iterdir()} == {path.name for path in job.run.examples.parent.iterdir()}
    # not where the best is another model, has heads that were started for it, or mining was asked for otherwise
    run = second(job)
    assert is_mined_already(job.config, run)
    changed = replace(job.config, mine=replace(job.config.mine, rank_last=7))
    assert not is_mined_already(changed, run)
    assert not is_mined_already(job.config, job.run)
    (job.run.best / "started_heads").mkdir()
    assert not is_mined_already(job.config, run)
    (job.run.best / "started_heads").rmdir()
    write_json(best, {"step": 5})
    assert not is_mined_already(job.config, run)


# -- whose negatives stay

QUERIES = Texts(["same", "moved", "bm25 moved"], ["x", "y", "z"])


def rankings(rows: dict[str, list[list[int]]]) -> dict[Any, Any]:
    """Scores fall by a tenth a rank; those of a later round are told by `better`."""
    found = {source: np.array(at) for source, at in rows.items()}
    return {
        source: ((10.0 - np.arange(at.size).reshape(at.shape) / 10).astype(np.float32), at)
        for source, at in found.items()
    }


BEFORE = {"dense": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "bm25": [[3, 1, 0], [6, 5, 4], [9, 8, 7]]}
NOW = {"dense": [[1, 2, 3], [5, 4, 6], [7, 8, 9]], "bm25": [[3, 1, 0], [6, 5, 4], [9, 7, 8]]}


def windows_of(rows: dict[str, list[list[int]]]) -> Windows:
    return Windows(rankings(rows), np.full((3, 1), -1), {})


@pytest.fixture
def before(tmp_path: Path) -> tuple[Run, Corpus]:
    """A first round as it leaves its files: each query's negatives come from the end of its windows."""
    source = write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": f"text {i}"} for i in range(10)])
    run = Run(tmp_path / "run")
    negatives = [([2, 3], ["dense", "bm25"]), ([5, 6], ["dense", "bm25"]), ([8, 9], ["dense", "bm25"])]
    write_examples(
        run.examples,
        [
            Example(query, ["p"], [f"text {row}" for row in rows], query_id, neg_ids=[f"d{row}" for row in rows],
                    neg_sources=sources)
            for query_id, query, (rows, sources) in zip(QUERIES.ids, QUERIES.texts, negatives, strict=True)
        ],
    )  # fmt: skip
    write_ranks(run.examples.parent / "ranks.npz", windows_of(BEFORE), 100)
    return run, Corpus.open(source, tmp_path)


def chosen_anew() -> Chosen:
    """Others than before for each query, as a limit that moved makes of the same ranks."""
    fresh = [[Candidate(1, 1, 0.5)], [Candidate(4, 2, 0.4)], [Candidate(7, 1, 0.3)]]
    return Chosen(fresh, {"dense": Counter(), "bm25": Counter()})


def test_unchanged_ranks_keep_their_negatives(before: tuple[Run, Corpus]) -> None:
    run, corpus = before
    windows, chosen = windows_of(NOW), chosen_anew()
    assert settle_with_round_before(run, windows, chosen, QUERIES, corpus) == 2
    kept, *others = chosen.negatives
    # as the source that found each sees it, though the other one has passage 3 as well
    score = {source: found[0] for source, found in windows.rankings.items()}
    assert kept == [
        Candidate(2, 2, float(score["dense"][0, 1]), "dense"),
        Candidate(3, 1, float(score["bm25"][0, 0]), "bm25"),
    ]
    assert others == chosen_anew().negatives[1:]


def test_nothing_moved_nothing_changes(before: tuple[Run, Corpus]) -> None:
    run, corpus = before
    chosen = chosen_anew()
    assert settle_with_round_before(run, windows_of(BEFORE), chosen, QUERIES, corpus) == 0
    assert [[candidate.row for candidate in found] for found in chosen.negatives] == [[2, 3], [5, 6], [8, 9]]


def test_negatives_that_the_teacher_did_not_score_are_chosen_anew(before: tuple[Run, Corpus]) -> None:
    run, corpus = before
    chosen = replace(chosen_anew(), teacher=[{1: 0.1, 2: 0.2}, {4: 0.1, 5: 0.2, 6: 0.3}, {7: 0.1}])
    assert settle_with_round_before(run, windows_of(BEFORE), chosen, QUERIES, corpus) == 2
    assert [[candidate.row for candidate in found] for found in chosen.negatives] == [[1], [5, 6], [7]]


def test_the_same_passages_in_another_order_are_no_change(before: tuple[Run, Corpus]) -> None:
    run, corpus = before
    chosen = chosen_anew()
    chosen.negatives[1] = [Candidate(6, 1, 0.2, "bm25"), Candidate(5, 1, 0.4)]
    assert settle_with_round_before(run, windows_of(NOW), chosen, QUERIES, corpus) == 1
    assert chosen.negatives[1][0] == Candidate(6, 1, 0.2, "bm25")
