"""`bgetune compare` and `bgetune search`: models side by side, and by hand."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fcntl
import io
import json
import shutil
from pathlib import Path

import pytest

from bgetune import ask
from bgetune.cli import main
from bgetune.config import MergeConfig
from bgetune.config_io import load_job, to_yaml
from bgetune.data import read_retrieval_set
from bgetune.merge_choice import choosing_half
from bgetune.named_models import named_model
from bgetune.run import Run, open_run
from bgetune.search import encode_set
from eval.systems import systems_of
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny models, of which `b` and `c` are the same, a set, and a trained job."""
    root = tmp_path_factory.mktemp("models")
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        tiny.model(root / name, seed=seed)
    settings = tiny.config(root)
    file = tiny.write_config(root / "job.yaml", {**settings, "output": str(root / "job")})
    config = load_job(file)
    with open_run(config, update=False):
        pass
    run = Run(root / "job")
    shutil.copytree(root / "domain", run.data("clinic"))
    tiny.model(run.best, seed=1)
    return root


def asked(root: Path, tmp_path: Path, *words: str) -> list[str]:
    lengths = ["--model.query_max_length", "16", "--model.passage_max_length", "16"]
    return [*words, *lengths, "--output", str(tmp_path / "out"), "--eval.bootstrap_samples", "100",
            "--eval.permutations", "100"]  # fmt: skip


def test_three_models_on_two_sets(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    guard = tiny.domain(tmp_path / "other", seed=5)
    words = ["compare", *(str(models / name) for name in "abc"), "--sets", str(models / "domain"), str(guard)]
    assert main(asked(models, tmp_path, *words)) == 0
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert list(report["systems"]) == ["a", "b", "c"]
    assert report["title"] == "a against b, c"
    assert {name: found["role"] for name, found in report["sets"].items()} == {"domain": "domain", "other": "guard"}
    for found in report["sets"].values():
        assert found["retrievers"]["dense"]["b"] == found["retrievers"]["dense"]["c"]
        assert set(found["verdicts"]) == {"b", "c"}
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "a against b, c" in page
    assert "c" in capsys.readouterr().out


def test_a_job_brings_its_own_sets(models: Path, tmp_path: Path):
    assert main(asked(models, tmp_path, "compare", str(models / "a"), str(models / "job"))) == 0
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert list(report["sets"]) == ["clinic"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "models: name two or more"),
        (["a", "b"], "--sets: name folders"),
        (["a", "nowhere"], "models: "),
        (["a", "b", "--sets", "domain", "domain"], "named twice"),
        (["a", "b", "--sets", "nothing"], "no such folder"),
        (["a", "a", "--sets", "domain"], "name each model once"),
        (["a", "b", "--sets", "domain", "--train.epochs", "5"], "--train.epochs: a comparison has no such option"),
        (["a", "b", "--sets", "domain", "--eval.max_guard_loss", "0.01"], "there is no guard to keep it"),
    ],
)
def test_mistakes_of_compare(
    models: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(models)
    words = [f"./{word}" if word in "ab" else word for word in words]
    assert main(asked(models, tmp_path, "compare", *words)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "report").exists()


def test_sets_named_by_whole_paths_stay_in_the_report(models: Path, tmp_path: Path):
    """Two folders of one name are told apart by their paths, which are no place to write to."""
    one, two = (tiny.domain(tmp_path / name / "test", seed=5) for name in ("x", "y"))
    words = ["compare", str(models / "a"), str(models / "b"), "--sets", str(one), str(two)]
    assert main(asked(models, tmp_path, *words)) == 0
    assert len(list((tmp_path / "out" / "report" / "runs").iterdir())) == 2 * 3
    assert not list(tmp_path.glob("*/*.trec"))
    report = (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert "bgetune compare" in report


def test_queries_that_chose_a_merge_are_left_out(models: Path, tmp_path: Path):
    root = tmp_path / "merged"
    shutil.copytree(models / "job", root)
    settings = {**tiny.config(tmp_path), "output": str(root), "merge": {"shares": [0.5]}}
    settings["data"]["guards"] = {"guard": {"kind": "beir", "path": str(models / "domain")}}
    tiny.write_config(root / "config.yaml", settings)
    guard = root / "data" / "guard"
    tiny.domain(guard, seed=9)
    tiny.model(root / "checkpoints" / "merged", seed=3)
    (root / "checkpoints" / "merged" / "merge.json").write_text(json.dumps({"spent": {"guard": "half of test"}}))
    words = ["compare", str(models / "a"), str(root), "--sets", str(models / "domain"), str(guard)]
    assert main(asked(models, tmp_path, *words)) == 0
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    left_out = report["sets"]["guard"]["left_out"]
    assert left_out == len(choosing_half(_test_ids(guard))) > 0
    assert report["sets"]["guard"]["n_queries"] == 10 - left_out
    assert any("chose a merge" in note for note in report["notes"])


def _test_ids(folder: Path) -> list[str]:
    return [line.split("\t")[0] for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]


def test_compare_refuses_a_jobs_folder(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["compare", str(models / "a"), str(models / "b"), "--sets", str(models / "domain")]
    assert main([*words, "--output", str(models / "job")]) == 2
    assert "is a job's folder" in capsys.readouterr().err


def test_search_by_hand(models: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["search", "--model", str(models / "job"), "--top", "2", "a question", "another"]) == 0
    out = capsys.readouterr().out
    assert out.count("dense") >= 2
    assert "a question" in out
    assert "another" in out


def searched(root: Path, capsys: pytest.CaptureFixture[str], *questions: str) -> str:
    assert main(["search", "--model", str(root / "job"), *questions]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("merged", [False, True])
def test_a_search_takes_the_vectors_of_the_evaluation_and_leaves_nothing(
    models: Path, tmp_path: Path, merged: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(models / "job", tmp_path / "job")
    config, run = load_job(tmp_path / "job" / "config.yaml"), Run(tmp_path / "job")
    if merged:
        config = dataclasses.replace(config, merge=MergeConfig(shares=(0.5,)))
        (tmp_path / "job" / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
        shutil.copytree(run.best, run.merged)
    system = systems_of(config, run)[-1]
    encoder, data = system.load(), read_retrieval_set(run.data("clinic"))
    encode_set(encoder, data.queries, data.corpus, config, encoder.heads, system.cache, "")
    before = {path: path.stat().st_mtime_ns for path in run.vectors.rglob("*")}
    searched(tmp_path, capsys, "heart pain", "skin")
    monkeypatch.setattr("sys.stdin", io.StringIO("heart pain\n"))
    searched(tmp_path, capsys)
    after = {path: path.stat().st_mtime_ns for path in run.vectors.rglob("*")}
    assert {path for path in before if path.suffix == ".npy"} == {path for path in after if path.suffix == ".npy"}
    assert all(after[path] == before[path] for path in before if path.suffix == ".npy")
    assert (run.root / ".lock").read_text(encoding="utf-8") == ""


def test_questions_together_find_what_each_finds_alone(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    questions = ["heart pain", "what does skin help", "blood"]
    together = searched(models, capsys, *questions)
    assert together == "".join(searched(models, capsys, question) for question in questions)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions) + "\n\nnot asked\n"))
    assert searched(models, capsys) == together


def test_a_search_stays_out_of_the_way_of_a_job_and_of_another_search(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(models / "job", tmp_path / "job", ignore=shutil.ignore_patterns("vectors"))
    config, run = load_job(models / "job.yaml"), Run(tmp_path / "job")
    with open(run.root / ".lock", "w", encoding="utf-8") as job, concurrent.futures.ThreadPoolExecutor() as pool:
        fcntl.flock(job, fcntl.LOCK_EX)
        job.write("the job's")
        job.flush()
        alone = searched(tmp_path, capsys, "heart pain")
        assert not run.best_vectors.exists()
        shutil.rmtree(run.vectors)
        model = named_model(str(run.root), config, "--model")
        with ask.shared_vectors(model) as first:
            second = pool.submit(searched, tmp_path, capsys, "heart pain")
            with pytest.raises(concurrent.futures.TimeoutError):
                second.result(timeout=0.7)  # it waits
            assert list(first.glob("*")) == [first / ".lock"]
        assert second.result(timeout=20) == alone
        assert (run.root / ".lock").read_text(encoding="utf-8") == "the job's"
    assert searched(tmp_path, capsys, "heart pain") == alone
    assert tiny.shards_in(run.best_vectors)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["q"], "--model"),
        (["--model", "a", "q"], "--corpus: name"),
        (["--model", "job", "--top", "0", "q"], "--top: 0"),
        (["--model", "job", "--corpus", "nothing", "q"], "nothing"),
    ],
)
def test_mistakes_of_search(
    models: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)
    words = [f"./{word}" if word == "a" else word for word in words]
    assert main(["search", *words]) == 2
    assert said in capsys.readouterr().err
