"""Merging: the ends come out bit for bit, the choice keeps the guards, a killed merge goes on to the same bytes."""

from __future__ import annotations

import logging
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bgetune import merge as merging
from bgetune.data import read_retrieval_set
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.files import read_json, write_json
from bgetune.merge import interpolate, merge
from bgetune.merge_choice import Point, as_merging, choose, choosing_half, more_tuned_folders
from bgetune.metrics import means, per_query
from bgetune.models import model_folder
from bgetune.run import STARTED_HEADS, Run
from bgetune.search import search
from tests import jobs, tiny
from tests.jobs import Job

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job after `train`: a guard with a dev split, other weights in best/, chosen by the dense head."""
    root = tmp_path_factory.mktemp("template")
    guard = tiny.domain(root / "guard", seed=7)
    guards = {"guard": {"kind": "beir", "path": str(guard)}}
    job = jobs.prepared(root, merge={"shares": [0.5]}, data={"guards": guards})
    shutil.copytree(guard, job.run.data("guard"))
    tuned(root, job, job.run.best, seed=1)
    write_json(job.run.best / "best.json", {"retriever": "dense"})
    return job


@pytest.fixture
def job(template: Job, tmp_path: Path) -> Job:
    return copied(template, tmp_path)


def copied(job: Job, tmp_path: Path) -> Job:
    """The job and its model, `model`, in a folder of their own."""
    shutil.copytree(job.file.parent, tmp_path, dirs_exist_ok=True)
    run = Run(tmp_path / job.run.root.name)
    model = replace(job.config.model, name_or_path=str(tmp_path / "model"))
    return Job(tmp_path / job.file.name, replace(job.config, output=str(run.root), model=model), run)


def changed(job: Job, section: str, **options: Any) -> Job:
    values = replace(getattr(job.config, section), **options)
    return job._replace(config=replace(job.config, **{section: values}))


@pytest.fixture(scope="module")
def whole(template: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A merge that nothing disturbed."""
    job = copied(template, tmp_path_factory.mktemp("whole"))
    job = changed(job, "merge", shares=(0.5, 0.25, 0.5), max_guard_loss=1.0)
    merge(job.config, job.run)
    return job


def tuned(tmp_path: Path, job: Job, folder: Path, seed: int) -> Path:
    """A model of the tiny base's shape with other weights, as training writes it."""
    Encoder.load_folder(tiny.model(tmp_path / f"seed{seed}", seed), job.config.model).save(folder)
    return folder


def told(job: Job) -> dict[str, Any]:
    return read_json(job.run.merged / "merge.json")


def points_of(job: Job) -> list[dict[str, Any]]:
    return told(job)["merging"]["points"]


def chosen_share(job: Job) -> float:
    return next(point["share"] for point in points_of(job) if point["chosen"])


def measure(monkeypatch: pytest.MonkeyPatch, points: list[Point]) -> None:
    """The scores of base, of the mix, and so on are these."""
    by_share = {point.share: point for point in points}
    monkeypatch.setattr(merging._Scores, "of", lambda _self, _encoder, share, _cache=None: by_share[share])


# -- the algebra

numbers = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5)


@settings(max_examples=100, deadline=None)
@given(numbers, numbers, st.floats(0, 1))
def test_a_mix_is_the_weighted_sum_in_double_precision(a: list[float], b: list[float], share: float) -> None:
    mixed = interpolate([{"w": torch.tensor(a)}, {"w": torch.tensor(b)}], [1 - share, share])["w"]
    exact = np.array(a) * (1 - share) + np.array(b) * share
    assert mixed.dtype == torch.float32
    np.testing.assert_array_equal(mixed.numpy(), exact.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(numbers, numbers)
def test_the_ends_are_the_models_bit_for_bit(a: list[float], b: list[float]) -> None:
    ends = {"w": torch.tensor([*a, -0.0, float("inf"), float("nan")])}, {"w": torch.tensor([*b, 0.0, 1.0, 2.0])}
    for share, end in enumerate(ends):
        found = interpolate(ends, [1 - share, share])["w"]
        assert found.numpy().tobytes() == end["w"].numpy().tobytes()
        assert found.data_ptr() != end["w"].data_ptr()


def test_sums_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{"w": torch.randn(7, 9), "b": torch.randn(())} for _ in range(3)]
    whole = interpolate(states, [0.2, 0.3, 0.5])
    monkeypatch.setattr(merging, "_BLOCK", 4)
    assert all(torch.equal(interpolate(states, [0.2, 0.3, 0.5])[name], whole[name]) for name in whole)


def test_integers_are_kept_and_must_agree() -> None:
    first, second = ({"w": torch.ones(2), "ids": torch.arange(3)} for _ in range(2))
    assert interpolate([first, second], [0.5, 0.5])["ids"].tolist() == [0, 1, 2]
    second["ids"] = torch.arange(1, 4)
    with pytest.raises(UserError, match=r"^merge\.models: ids of model 2 holds integers that are not the base's"):
        interpolate([first, second], [0.5, 0.5])


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"b of model 2 has the shape \[3\], in the base it is \[2\]"),
        ({"b": torch.ones(3)}, "model 2 lacks a, which the base has"),
        ({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(1)}, "model 2 has c, which the base lacks"),
    ],
)
def test_models_of_other_shapes_name_the_first_weight(other: State, error: str) -> None:
    with pytest.raises(UserError, match=rf"^merge\.models: {error}; merge models that were tuned from the same base"):
        interpolate([{"a": torch.ones(2), "b": torch.ones(2)}, other], [0.5, 0.5])


def test_weights_that_do_not_sum_to_one_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        interpolate([{"a": torch.ones(1)}] * 2, [0.5, 0.6])


# -- the choice

BASE, QUARTER, HALF, WHOLE = (
    Point(0.0, 0.50, {"a": 0.600, "b": 0.7}),
    Point(0.25, 0.55, {"a": 0.610, "b": 0.7}),
    Point(0.5, 0.60, {"a": 0.590, "b": 0.7}),
    Point(1.0, 0.65, {"a": 0.700, "b": 0.6}),
)


@pytest.mark.parametrize(("allowed", "share"), [(0.0, 0.25), (0.0099, 0.25), (0.01, 0.5), (0.1, 1.0)])
def test_the_best_on_dev_within_the_loss_of_every_guard(allowed: float, share: float) -> None:
    assert choose([BASE, QUARTER, HALF, WHOLE], allowed).share == share


def test_of_equal_points_the_smaller_share() -> None:
    equal = Point(0.75, QUARTER.dev, QUARTER.guards)
    assert choose([equal, BASE, QUARTER], 0.01) is QUARTER


def test_the_base_where_nothing_keeps_to_it_or_is_better() -> None:
    assert choose([BASE, WHOLE], 0.01) is BASE
    assert choose([BASE, Point(1.0, 0.49, BASE.guards)], 0.01) is BASE


def test_without_guards_dev_decides() -> None:
    assert choose([Point(0.0, 0.5, {}), Point(0.5, 0.7, {}), Point(1.0, 0.6, {})], 0.0).share == 0.5


def test_the_curve_has_every_point_and_one_chosen() -> None:
    curve = as_merging([BASE, HALF, WHOLE], 0.02)
    assert (curve["allowed_loss"], curve["dev_metric"]) == (0.02, "ndcg@10")
    assert [(p["share"], p["within"], p["chosen"]) for p in curve["points"]] == [
        (0.0, True, False), (0.5, True, True), (1.0, False, False),
    ]  # fmt: skip
    assert curve["points"][1]["guards"]["a"] == {"value": 0.59, "gain": pytest.approx(-0.01)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), unique=True))
def test_an_id_is_in_the_half_whatever_the_others_are(ids: list[str]) -> None:
    half = choosing_half(ids)
    assert half == [query_id for query_id in ids if choosing_half([query_id])]


def test_the_half_is_about_a_half() -> None:
    assert len(choosing_half([f"q{i}" for i in range(2000)])) == pytest.approx(1000, abs=100)


# -- the stage


def ends_of(job: Job) -> list[State]:
    return [load_file(folder / "model.safetensors") for folder in (model_folder(job.config.model), job.run.best)]


def test_the_curve_is_that_of_searches_with_each_mix(whole: Job, tmp_path: Path) -> None:
    job = whole
    ends, encoder = ends_of(job), Encoder.load(job.config.model)
    assert [point["share"] for point in points_of(job)] == [0.0, 0.25, 0.5, 1.0]
    for point in points_of(job):
        share = point["share"]
        encoder.backbone.load_state_dict(interpolate(ends, [1 - share, share]))
        for name, told_value in (("clinic", point["dev"]), ("guard", point["guards"]["guard"]["value"])):
            data = read_retrieval_set(job.run.data(name))
            found = search(encoder, data.queries_of("dev"), data.corpus, job.config, ["dense"], tmp_path / "c", "")
            assert means(per_query(data.qrels["dev"], found["dense"]))["ndcg@10"] == told_value
    assert len({point["dev"] for point in points_of(job)}) > 2
    assert (told(job)["retriever"], told(job)["spent"]) == ("dense", {"guard": "dev"})
    # what was encoded for the mixes is gone; base's and best's stay, for the evaluation
    assert len(tiny.shards_in(job.run.vectors)) == 4 + 1
    assert len(tiny.shards_in(job.run.best_vectors)) == 4


def test_the_same_command_gives_the_same_bytes_and_table(whole: Job, capsys: pytest.CaptureFixture[str]) -> None:
    before = jobs.hashes(whole.run.merged)
    merge(whole.config, whole.run)
    assert jobs.hashes(whole.run.merged) == before
    out = capsys.readouterr().out
    assert "merge: nDCG@10, a guard may lose 1 " in out
    assert out.count("chosen") == 1
    guard = points_of(whole)[1]["guards"]["guard"]
    assert re.search(rf"0\.25 +{points_of(whole)[1]['dev']:.4f} +{guard['value']:.4f} \({guard['gain']:+.4f}\)", out)


def test_the_chosen_mix_is_a_model_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, [Point(0.0, 0.5, {}), Point(0.5, 0.7, {}), Point(1.0, 0.6, {})])
    merge(job.config, job.run)
    assert chosen_share(job) == 0.5
    expected, found = interpolate(ends_of(job), [0.5, 0.5]), load_file(job.run.merged / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert told(job)["weights"] == Encoder.load_folder(job.run.merged, job.config.model).weights_hash()
    best = Encoder.load_folder(job.run.best, job.config.model).weights_hash()
    base = Encoder.load(job.config.model).weights_hash()
    assert told(job)["made_from"] == {"base": base, "tuned": best, "models": []}


def test_the_tuned_end_is_best_itself(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.run.best / "best.json").unlink()
    measure(monkeypatch, [Point(share, share, {"guard": 0.5}) for share in (0.0, 0.5, 1.0)])
    merge(job.config, job.run)
    assert chosen_share(job) == 1.0
    assert told(job)["weights"] == told(job)["made_from"]["tuned"]
    assert told(job)["retriever"] == "dense"  # its only head
    made = jobs.hashes(job.run.merged)
    del made["merge.json"]
    assert made == jobs.hashes(job.run.best)


@pytest.mark.parametrize(
    ("guard", "words"), [(0.4, "keeps every guard within 0.01"), (0.5, "that keeps the guards is better on dev")]
)
def test_the_base_itself_is_chosen_with_a_warning(
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    guard: float,
    words: str,
) -> None:
    points = [Point(0.0, 0.5, {"guard": 0.5}), *(Point(share, 0.5, {"guard": guard}) for share in (0.5, 1.0))]
    measure(monkeypatch, points)
    merge(job.config, job.run)
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        f"merge: no share of the tuned weights {words}; the base itself is chosen"
    ]
    files = [folder / "model.safetensors" for folder in (tmp_path / "model", job.run.merged)]
    base, merged = (load_file(file) for file in files)
    assert all(torch.equal(merged[name], base[name]) for name in base)


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_merge_goes_on_to_the_same_bytes(
    whole: Job, job: Job, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    job = changed(job, "merge", shares=(0.25, 0.5), max_guard_loss=1.0)
    searched = []

    def counting(*args: Any, **options: Any) -> Any:
        searched.append(args[6])
        if len(searched) == killed_at:
            (args[5] / "half").mkdir(parents=True)
            raise KeyboardInterrupt
        return search(*args, **options)

    monkeypatch.setattr(merging, "search", counting)
    with pytest.raises(KeyboardInterrupt):
        merge(job.config, job.run)
    assert not job.run.merged.exists()
    scratch = job.run.vectors / "merge"
    assert not scratch.exists()
    scratch.mkdir(parents=True)  # as a kill -9 leaves it
    merge(job.config, job.run)
    assert searched[killed_at - 1] == searched[killed_at]  # it goes on where it was
    assert len(searched) == 8 + 1
    assert not scratch.exists()
    assert jobs.hashes(job.run.merged) == jobs.hashes(whole.run.merged)


def test_scores_of_other_data_are_not_taken(job: Job, tmp_path: Path) -> None:
    merge(job.config, job.run)
    before = points_of(job)[1]["guards"]["guard"]["value"]
    shutil.rmtree(job.run.data("guard"))
    shutil.copytree(tiny.domain(tmp_path / "other", seed=8), job.run.data("guard"))
    merge(job.config, job.run)
    assert points_of(job)[1]["guards"]["guard"]["value"] != before


def test_all_heads_are_merged_and_hybrid_decides(job: Job, tmp_path: Path) -> None:
    job = changed(job, "merge", max_guard_loss=1.0)
    for name, seed in (("model", 0), ("tuned", 1)):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        tiny.m3(tmp_path / name, seed=seed)
    shutil.rmtree(job.run.best)
    Encoder.load_folder(tmp_path / "tuned", job.config.model).save(job.run.best)
    merge(job.config, job.run)
    assert told(job)["retriever"] == "hybrid"
    share = chosen_share(job)
    base = Encoder.load(job.config.model)
    layers = {name: tensor.detach() for name, tensor in base.layers.state_dict().items()}
    expected = interpolate([layers, load_file(job.run.best / "heads.safetensors")], [1 - share, share])
    found = load_file(job.run.merged / "heads.safetensors")
    assert len(found) == 4
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_heads_that_the_base_lacks_start_where_training_did(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = changed(job, "model", heads=("dense", "sparse"))
    started, ended = ({"sparse_linear.weight": torch.full((1, 16), value)} for value in (1.0, 3.0))
    (job.run.best / STARTED_HEADS).mkdir()
    save_file(started, job.run.best / STARTED_HEADS / "heads.safetensors")
    save_file(ended, job.run.best / "heads.safetensors")
    measure(monkeypatch, [Point(0.0, 0.5, {}), Point(0.5, 0.6, {}), Point(1.0, 0.5, {})])
    merge(job.config, job.run)
    found = load_file(job.run.merged / "heads.safetensors")
    assert found["sparse_linear.weight"].tolist() == [[2.0] * 16]


# -- guards without a dev split


def without_dev(job: Job, queries: range) -> None:
    """The guard's judgements of these queries are all its test split."""
    folder = job.run.data("guard") / "qrels"
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in queries)]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "test.tsv").write_text("\n".join(lines) + "\n")


def test_a_guard_without_dev_gives_half_of_its_test_split(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dev(job, range(60))
    asked = []

    def listening(*args: Any, **options: Any) -> Any:
        asked.append(args[1].ids)
        return search(*args, **options)

    monkeypatch.setattr(merging, "search", listening)
    merge(job.config, job.run)
    half = choosing_half([f"q{i}" for i in range(60)])
    assert 10 <= len(half) <= 50
    assert asked == [[f"q{i}" for i in range(40, 50)], half] * 3
    assert told(job)["spent"] == {"guard": "half of test"}


def test_half_of_a_short_test_split_is_refused(job: Job) -> None:
    without_dev(job, range(12))
    error = r"^data\.guards\.guard: it has no dev split, and its 12 test queries give \d+ to choose .* each needs 10\."
    with pytest.raises(UserError, match=error):
        merge(job.config, job.run)


def test_a_domain_without_dev_says_what_to_run(job: Job) -> None:
    (job.run.data("clinic") / "qrels" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"dev\.tsv: missing; run the stage `prepare` again"):
        merge(job.config, job.run)


# -- several tuned models


def with_models(job: Job, *models: Path) -> Job:
    return changed(job, "merge", models=tuple(map(str, models)))


def test_more_models_are_averaged_with_the_tuned_one(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = jobs.write(tmp_path / "elsewhere", adapt={"rounds": 2})
    (other.run.root).mkdir(parents=True)
    shutil.copy(other.file, other.run.config_file)
    of_a_job = tuned(tmp_path, job, Run(other.run.root, 2).best, seed=2)
    plain = tuned(tmp_path, job, tmp_path / "third", seed=3)
    job = with_models(job, other.run.root, plain)
    measure(monkeypatch, [Point(0.0, 0.5, {}), Point(0.5, 0.6, {}), Point(1.0, 0.7, {})])
    merge(job.config, job.run)
    states = [load_file(folder / "model.safetensors") for folder in (job.run.best, of_a_job, plain)]
    expected = interpolate(states, [1 / 3] * 3)
    found = load_file(job.run.merged / "model.safetensors")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-7)
    hashes = [Encoder.load_folder(folder, job.config.model).weights_hash() for folder in (of_a_job, plain)]
    assert told(job)["made_from"]["models"] == hashes


def test_one_model_is_loaded_beside_the_base_at_a_time(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_models(job, *(tuned(tmp_path, job, tmp_path / f"other{seed}", seed) for seed in (2, 3)))
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def counting(_cls: type, *args: Any) -> Encoder:
        alive.append(sum(reference() is not None for reference in loaded))
        encoder = load(*args)
        loaded.append(weakref.ref(encoder.backbone))
        return encoder

    load = Encoder.load_folder
    monkeypatch.setattr(Encoder, "load_folder", classmethod(counting))
    merge(job.config, job.run)
    # base; with it best, and each of the others; then the one that is filled with every share
    assert alive == [0, 1, 1, 1, 0]


def test_models_that_cannot_be_found(job: Job, tmp_path: Path) -> None:
    untrained = jobs.write(tmp_path / "untrained")
    untrained.run.root.mkdir(parents=True)
    shutil.copy(untrained.file, untrained.run.config_file)
    errors = {
        (tmp_path / "nowhere",): r"nowhere is no job's folder \(config\.yaml\) and no model's \(config\.json\)",
        (untrained.run.root,): r"checkpoints/best: missing; train that job first, or leave it out",
        (job.run.root,): r"its weights would count twice \(this job's own model is always one of them\); name each",
        (tmp_path / "seed1", tmp_path / "seed1"): r"its weights would count twice; name each model once",
    }
    for models, error in errors.items():
        with pytest.raises(UserError, match=rf"^merge\.models: .*{error}"):
            more_tuned_folders(with_models(job, *models).config, job.run)


def broken(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut off")


def of_other_shape(folder: Path) -> None:
    weights, name = load_file(folder / "model.safetensors"), "encoder.layer.0.intermediate.dense"
    for kind in ("weight", "bias"):
        weights[f"{name}.{kind}"] = weights[f"{name}.{kind}"][:8].clone()
    output = "encoder.layer.0.output.dense.weight"
    weights[output] = weights[output][:, :8].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "intermediate_size": 8})


def of_other_words(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"kidney"', '"spleen"'))


def with_a_head(folder: Path) -> None:
    save_file({"sparse_linear.weight": torch.ones(1, 16)}, folder / "heads.safetensors")


def pooled_otherwise(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    write_json(path, {**read_json(path), "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (broken, "other cannot be loaded: "),
        (of_other_shape, r"encoder\.layer\.0\.intermediate\.dense\.bias of .*other has the shape \[8\], in the base"),
        (of_other_words, "other has another vocabulary than the base"),
        (with_a_head, r"other has sparse_linear\.bias, which the base lacks"),
        (pooled_otherwise, r"other was made with pooling 'mean', the base with 'cls'; set model\.pooling"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_encoded(
    job: Job, tmp_path: Path, damage: Any, error: str
) -> None:
    damage(tuned(tmp_path, job, tmp_path / "other", seed=2))
    job = with_models(job, tmp_path / "other")
    with pytest.raises(UserError, match=rf"^merge\.models: .*{error}"):
        merge(job.config, job.run)
    assert not job.run.vectors.exists()
    assert not job.run.merged.exists()


def test_no_shares_is_nothing_to_merge(job: Job) -> None:
    job = changed(job, "merge", shares=())
    with pytest.raises(UserError, match=r"^merge\.shares: \[\] names nothing to try"):
        merge(job.config, job.run)
