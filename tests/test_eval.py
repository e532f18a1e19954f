"""The stage on a model of under 10,000 parameters: files, figures, freshness, and a user's mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bgetune.config import JobConfig
from bgetune.config_io import load_job
from bgetune.data import read_retrieval_set
from bgetune.metrics import Results, means, per_query
from bgetune.run import Run, open_run
from eval.__main__ import main
from eval.evaluate import evaluate
from tests import tiny
from tests.jobs import contents


def job(tmp_path: Path) -> tuple[Path, JobConfig, Run]:
    """A job whose earlier stages are done: data read, a tuned model (with other weights) in best/."""
    guards = {"guard": {"kind": "beir", "path": str(tiny.domain(tmp_path / "guard", seed=7))}}
    settings = tiny.config(tmp_path)
    settings["data"]["guards"] = guards
    file = tiny.write_config(tmp_path / "job.yaml", settings)
    config = load_job(file)
    with open_run(config, update=False) as run:
        pass
    shutil.copytree(tmp_path / "domain", run.data("clinic"))
    shutil.copytree(tmp_path / "guard", run.data("guard"))
    tiny.model(run.best, seed=1)
    return file, config, run


def report_of(run: Run) -> dict[str, Any]:
    return json.loads((run.report / "report.json").read_text(encoding="utf-8"))


def read_trec_run(path: Path) -> Results:
    results: Results = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        query_id, _, passage_id, _, score, _ = line.split()
        results.setdefault(query_id, {})[passage_id] = float(score)
    return results


def test_stage_writes_the_report_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, _, run = job(tmp_path)
    assert main(["--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {run.report / 'report.html'}"
    assert "clinic (domain): 10 queries, 60 passages" in out
    made = contents(run.report)
    found = [f"{s}.{r}.trec" for s in ("clinic", "guard") for r in ("bm25.any", "dense.base", "dense.tuned")]
    own = ["report.json", "report.md", "report.html", "per_query.parquet"]
    assert sorted(made) == sorted([*own, *(f"runs/{name}" for name in found)])
    report = report_of(run)
    assert {name: s["role"] for name, s in report["sets"].items()} == {"clinic": "domain", "guard": "guard"}
    assert report["systems"]["base"]["weights"] != report["systems"]["tuned"]["weights"]

    assert main(["--config", str(file), "--force"]) == 0
    assert contents(run.report) == made  # the same bytes
    assert [p.name for p in run.root.iterdir() if p.name.startswith(".")] == [".lock"]


def test_figures_are_those_of_the_run_files(tmp_path: Path):
    _, config, run = job(tmp_path)
    evaluate(config, run)
    for name, measured in report_of(run)["sets"].items():
        qrels = read_retrieval_set(run.data(name)).qrels["test"]
        for retriever, versions in measured["retrievers"].items():
            for version in versions:
                results = read_trec_run(run.report / "runs" / f"{name}.{retriever}.{version}.trec")
                assert versions[version] == pytest.approx(means(per_query(qrels, results)), abs=1e-12)


def test_an_unchanged_model_shows_no_difference(tmp_path: Path):
    _, config, run = job(tmp_path)
    shutil.rmtree(run.best)
    shutil.copytree(tmp_path / "model", run.best)
    evaluate(config, run)
    for measured in report_of(run)["sets"].values():
        gain = measured["gains"]["dense"]["tuned"]["ndcg@10"]
        assert (gain["abs"], gain["ci95"], gain["p"], gain["tied"]) == (0, [0, 0], 1, 10)
        assert measured["verdicts"] == {"tuned": "no difference shown"}


def test_new_weights_under_the_same_name_are_measured_anew(tmp_path: Path):
    _, config, run = job(tmp_path)
    evaluate(config, run)
    before = report_of(run)
    tiny.model(run.best, seed=2)
    evaluate(config, run)
    after = report_of(run)
    assert after["systems"]["tuned"]["weights"] != before["systems"]["tuned"]["weights"]
    dense_before, dense_after = (r["sets"]["clinic"]["retrievers"]["dense"] for r in (before, after))
    assert dense_after["base"] == dense_before["base"]
    assert dense_after["tuned"] != dense_before["tuned"]


def test_other_ranks_leave_the_report_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, _, run = job(tmp_path)
    monkeypatch.setenv("RANK", "1")
    assert main(["--config", str(file)]) == 0
    assert not run.report.exists()


def test_no_test_split_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, _, run = job(tmp_path)
    (run.data("guard") / "qrels" / "test.tsv").unlink()
    assert main(["--config", str(file)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert f"{run.data('guard')}/qrels/test.tsv: missing" in error[0]
    assert not run.report.exists()


def test_a_broken_tuned_model_leaves_no_half_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, _, run = job(tmp_path)
    (run.best / "model.safetensors").write_bytes(b"cut off")
    assert main(["--config", str(file)]) == 2
    assert str(run.best) in capsys.readouterr().err
    assert not run.report.exists()


def test_before_training_it_says_which_stage_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, _, run = job(tmp_path)
    shutil.rmtree(run.checkpoints)
    assert main(["--config", str(file)]) == 2
    assert "run the stage `train` first" in capsys.readouterr().err


def table_of(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def test_every_query_is_in_the_table(tmp_path: Path):
    _, config, run = job(tmp_path)
    evaluate(config, run)
    rows = table_of(run.report / "per_query.parquet")
    assert len(rows) == 2 * 3 * 10  # sets, BM25 and two systems, queries
    tuned = [row["ndcg@10"] for row in rows if (row["set"], row["system"]) == ("clinic", "tuned")]
    mean = report_of(run)["sets"]["clinic"]["retrievers"]["dense"]["tuned"]["ndcg@10"]
    assert sum(tuned) / len(tuned) == pytest.approx(mean)


def test_a_guard_that_loses_too_much_ends_with_1_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, _, run = job(tmp_path)
    asked = ["--config", str(file), "--eval.max_guard_loss", "0"]
    codes = {main(asked), main(asked)}  # the second time its work still holds
    report = report_of(run)
    loses = report["sets"]["guard"]["gains"]["dense"]["tuned"]["ndcg@10"]["abs"] < 0
    assert codes == {1 if loses else 0}
    assert bool(report["failed"]) == loses
    before = contents(run.report)
    assert main(["--config", str(file), "--eval.max_guard_loss", "1"]) == 0  # a limit alone measures nothing anew
    assert contents(run.report) == before


def test_everything_that_can_be_measured(tmp_path: Path):
    probe = tmp_path / "pairs.csv"
    pairs = [f"t{i} a,t{(7 * i) % 20} a,{i % 6}" for i in range(20)]
    probe.write_text("sentence1,sentence2,score\n" + "\n".join(pairs) + "\n", encoding="utf-8")
    file, _, run = job(tmp_path)
    words = ["--eval.indexes", '["IVF2,Flat", qdrant]', "--eval.compression", "true"]
    words += ["--eval.probes", f"{{sts: {probe}}}"]
    metrics = ["--eval.metrics", "[precision@5, success@1]"]
    assert main(["--config", str(file), *words, *metrics]) == 0
    report = report_of(run)
    assert report["metrics"] == ["ndcg@10", "precision@5", "success@1"]
    assert {row["system"] for row in report["indexes"]} == {"base", "tuned"}
    assert {row["head"] for row in report["compression"]} == {"dense"}
    assert report["probes"][0]["name"] == "sts"
    page = (run.report / "report.html").read_text(encoding="utf-8")
    for word in ("IVF2,Flat", "qdrant", "binary", "sts"):
        assert word in page
