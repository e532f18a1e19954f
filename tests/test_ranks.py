"""Four and two ranks, started by torchrun, compute what one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from bgetune.files import read_json
from tests import jobs, tiny
from tests.jobs import torchrun
from tests.rank_worker import CASES, flat, made_up
from train.__main__ import main as train
from train.ranks import gather, shares

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def launched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("launched")
    torchrun(4, "-m", "tests.rank_worker", folder, out)
    return out


def found_by(file: Path, name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}: "
    return {key[len(prefix) :]: value for key, value in load_file(file).items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_figures_and_gradients_are_those_of_one_process(folder: Path, launched: Path, name: str) -> None:
    one = CASES[name].run(folder)
    expected = {**one.figures, **one.gradients}
    assert "encoder.backbone.unused" not in expected
    # a key's bias has no effect on a softmax: its gradient is rounding alone, however it is computed
    rounding = 100 * torch.finfo(torch.float64).eps * max(value.norm() for value in one.gradients.values())
    for ranks in (2, 4):
        found = found_by(launched / f"{'2-0' if ranks == 2 else '4'}.safetensors", name)
        caching = found.pop("caching").item()
        assert 0 < caching < ranks if "unequal" in name and one.encoding.cached else caching in (0, ranks)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            tolerance = 1e-6 if value.dtype == torch.float32 else 1e-9  # counts and shares are in float32
            floor = rounding if key.endswith("key.bias") else 0.0
            assert (found[key] - value).norm() <= tolerance * value.norm() + floor, key


def test_twice_the_same_bytes(launched: Path) -> None:
    assert (launched / "2-0.safetensors").read_bytes() == (launched / "2-1.safetensors").read_bytes()


@pytest.mark.parametrize("ranks", ["2-0", "4"])
def test_each_process_needs_a_query(launched: Path, ranks: str) -> None:
    with safe_open(launched / f"{ranks}.safetensors", "pt") as file:
        message = file.metadata()["too_few"]
    assert message == f"train.batch_size: a step needs a query for each of the {ranks[0]} processes; raise it"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, 8))
def test_every_text_is_dealt_once_and_tokens_are_balanced(lengths: list[int], ranks: int) -> None:
    dealt = shares(lengths, ranks)
    assert sorted(text for texts in dealt for text in texts) == list(range(len(lengths)))
    tokens = [sum(lengths[text] for text in texts) for texts in dealt]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert len(lengths) < ranks or all(dealt)


def test_with_one_process_there_is_nothing_to_gather() -> None:
    whole = made_up([2, 0, 1])
    torch.testing.assert_close(flat(gather(whole, [[0, 1, 2]])), flat(whole), rtol=0, atol=0)


def test_a_whole_training_run_is_that_of_one_process(tmp_path: Path) -> None:
    """In float32, and with gradient caching; AdamW makes the most of every rounding."""
    lines, best = [], []
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        model = {"name_or_path": str(tiny.m3(tmp_path / "m3"))}
        job = jobs.trainable(tmp_path / str(ranks), model=model, train={"micro_batch_tokens": 64})
        if ranks == 1:
            jobs.fresh_accelerator()
            assert train(job.words) == 0
        else:
            torchrun(ranks, "-m", "train", *job.words)
        lines.append(jobs.jsonl(job.run.train_log))
        best.append(read_json(job.run.best / "best.json"))
    assert set(lines[1][1]) > {"loss", "loss/ensemble", "distillation/sparse", "grad_norm"}
    rank_alone = {"tokens", "padding_share", "cached"}
    for found, expected in zip([*lines[1], best[1]], [*lines[0], best[0]], strict=True):
        assert found.keys() == expected.keys()
        for key in expected.keys() - rank_alone:
            close = (
                expected[key] if isinstance(expected[key], str) else pytest.approx(expected[key], rel=1e-4, abs=1e-6)
            )
            assert found[key] == close, (key, expected["step"])
