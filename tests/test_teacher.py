"""Teacher scores: two libraries, one answer; blocks that come out the same however often the work is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification

from bgetune import files
from bgetune.config_data import TeacherConfig
from bgetune.errors import UserError
from data_prep.mining import score_store
from data_prep.mining.score_store import PairSource, read_scores, score_blocks
from data_prep.mining.select import exceeded
from data_prep.mining.teacher import cross_encoder, teacher_limits
from tests import tiny
from tests.jobs import contents
from tests.tiny_reranker import WORDS, write_reranker

BLOCK = 16


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rerankers")
    return {kind: write_reranker(root / kind, kind) for kind in ("bert", "xlm-roberta")}


def settings(folder: object, **options: Any) -> TeacherConfig:
    return TeacherConfig(**{"kind": "cross_encoder", "name_or_path": str(folder), "max_length": 64, **options})


def some_pairs(count: int, longest: int = 20) -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)

    def text(most: int) -> str:
        return " ".join(WORDS[i] for i in draw.integers(len(WORDS), size=draw.integers(1, most + 1)))

    return [(text(5), text(longest)) for _ in range(count)]


def plain_logits(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """One pair at a time, without any library of rerankers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForSequenceClassification))
    with torch.inference_mode():
        return [float(model.eval()(**tokenizer(*pair, return_tensors="pt")).logits) for pair in pairs]


def test_both_libraries_give_the_logits_of_the_plain_model(rerankers, tmp_path, capfd):
    """Also of cut pairs, and in float32 whatever the files hold. The one test that imports FlagEmbedding: seconds."""
    pairs = some_pairs(50)
    long = [(query, " ".join([passage] * 90)) for query, passage in pairs[:10]]
    for kind, special in (("bert", 3), ("xlm-roberta", 4)):
        expected = plain_logits(rerankers[kind], pairs)
        assert np.ptp(expected) > 0.5
        assert min(expected) < 0 or max(expected) > 1, "a sigmoid would not be noticed"
        cut = [(q, " ".join(p.split()[: 24 - special - len(q.split())])) for q, p in long]
        found = {}
        for library in ("sentence-transformers", "FlagEmbedding"):
            options = {"library": library, "batch_size": 8}
            scorer = cross_encoder(settings(rerankers[kind], **options))
            found[library] = scorer(pairs)
            assert found[library].dtype == np.float32
            assert found[library].shape == (50,)
            np.testing.assert_allclose(found[library], expected, atol=1e-5)
            assert scorer(pairs).tobytes() == found[library].tobytes()
            for few in (1, 2):  # of a last block
                np.testing.assert_allclose(scorer(pairs[:few]), expected[:few], atol=1e-5)
            short = cross_encoder(settings(rerankers[kind], max_length=24, **options))
            np.testing.assert_allclose(short(long), plain_logits(rerankers[kind], cut), atol=1e-5)
        np.testing.assert_allclose(*found.values(), atol=1e-4)
    half, wide = in_half(rerankers["bert"], tmp_path)
    for library in ("sentence-transformers", "FlagEmbedding"):
        scores = cross_encoder(settings(half, library=library))(pairs)
        assert scores.tobytes() == cross_encoder(settings(wide, library=library))(pairs).tobytes()
    assert "Compute Scores" not in capfd.readouterr().err


def in_half(folder: Path, target: Path) -> tuple[Path, Path]:
    """The model in files of half precision, and these very numbers in files of float32."""
    half, wide = shutil.copytree(folder, target / "half"), shutil.copytree(folder, target / "wide")
    model = BertForSequenceClassification.from_pretrained(folder).half()
    model.save_pretrained(half)
    model.float().save_pretrained(wide)
    assert json.loads((half / "config.json").read_text())["dtype"] == "float16"
    return half, wide


# -- models that will not do


def refusal(config: TeacherConfig) -> str:
    with pytest.raises(UserError) as caught:
        cross_encoder(config)(some_pairs(1))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_model_that_is_not_there_is_refused(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    message = refusal(settings(tmp_path / "absent"))
    assert message.startswith("mine.teacher.name_or_path: ")
    assert "is no folder here and no Hub id" in message
    message = refusal(settings("BAAI/no-such-reranker"))
    assert message.startswith("mine.teacher.name_or_path: 'BAAI/no-such-reranker' is no folder here")
    assert "hf download BAAI/no-such-reranker --local-dir DIR" in message


def test_an_encoder_is_no_teacher(tmp_path):
    """It would load, with a head of random numbers."""
    message = refusal(settings(tiny.model(tmp_path / "encoder")))
    assert message.startswith("mine.teacher.name_or_path: ")
    assert "is BertModel" in message
    assert "choose a reranker" in message


def test_a_classifier_of_three_is_no_teacher(tmp_path):
    message = refusal(settings(write_reranker(tmp_path / "nli", "bert", labels=3)))
    assert "is BertForSequenceClassification with 3 labels" in message


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("length", [19, 65])
def test_a_maximum_that_the_model_cannot_take_is_refused(rerankers, kind, length):
    message = refusal(settings(rerankers[kind], max_length=length))
    assert message.startswith(f"mine.teacher.max_length: {length} will not do; ")
    assert message.endswith("takes pairs of 20 to 64 tokens")
    pair = [("pain", "heart " * 100)]
    assert np.isfinite(cross_encoder(settings(rerankers[kind]))(pair)).all(), "64 is the limit and runs"


def test_torn_weights_are_refused(tmp_path):
    folder = write_reranker(tmp_path / "torn", "bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert refusal(settings(folder)).startswith(f"mine.teacher.name_or_path: {folder} cannot be loaded: ")


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = write_reranker(tmp_path / "evil", "bert")
    path = folder / "config.json"
    names = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "evil", "auto_map": names}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    assert "it brings Python code of its own, which is not run" in refusal(settings(folder))
    assert not (tmp_path / "was_run").exists()


def test_the_key_is_what_decides_scores(rerankers, tmp_path):
    def key(folder: Path, **options: Any) -> str:
        return cross_encoder(settings(folder, **options)).key

    base = key(rerankers["bert"])
    assert base == key(rerankers["bert"], margin=1.0, max_share_of_positive=0.9, candidates=5)
    copy = shutil.copytree(rerankers["bert"], tmp_path / "copy")
    assert key(copy) == base, "not the folder's name"
    others = [{"max_length": 32}, {"batch_size": 8}, {"library": "FlagEmbedding"}]
    keys = {base, key(rerankers["xlm-roberta"]), *(key(rerankers["bert"], **options) for options in others)}
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert len({*keys, key(copy)}) == 6


# -- blocks


class Counting:
    """A scorer that depends on its whole block, as padding does; raises in block `fatal`."""

    def __init__(self, fatal: int | None = None) -> None:
        self.sizes: list[int] = []
        self.fatal = fatal

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        if len(self.sizes) == self.fatal:
            raise KeyboardInterrupt
        self.sizes.append(len(pairs))
        longest = max(len(query) + len(passage) for query, passage in pairs)
        return np.array([len(passage) - len(query) / 7 + longest / 3 for query, passage in pairs], dtype=np.float32)


def source(count: int = 100, asked: list[int] | None = None) -> PairSource:
    draw = np.random.default_rng(1)
    queries, passages = draw.integers(30, size=count), draw.integers(500, size=count)

    def query_text(i: int) -> str:
        if asked is not None:
            asked.append(i)
        return "q" * (i + 1)

    return PairSource(queries, passages, query_text, lambda row: "p" * (row + 1))


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(score_store, "_BLOCK", BLOCK)


@pytest.fixture
def expected(small_blocks, tmp_path) -> tuple[np.ndarray, dict[str, bytes]]:
    """The scores of one process that nobody interrupts, and its files."""
    score_blocks(Counting(), source(), tmp_path / "whole", "key", "teacher")
    scores = read_scores(source(), tmp_path / "whole", "key")
    assert scores.dtype == np.float32
    return scores, contents(tmp_path / "whole")


def test_scores_are_the_scorers(expected):
    scores, files = expected
    pairs = source().texts(0, 100)
    assert scores.tolist() == [s for i in range(0, 100, BLOCK) for s in Counting()(pairs[i : i + BLOCK]).tolist()]
    assert [Path(name).name for name in files] == [f"{block:06d}.npy" for block in range(7)]


def test_a_block_is_an_npy_file(expected, tmp_path):
    scores, files = expected
    np.testing.assert_array_equal(np.load(tmp_path / "whole" / next(iter(files))), scores[:BLOCK])


def test_no_pairs_no_scores(tmp_path):
    score_blocks(Counting(), source(0), tmp_path, "key", "teacher")
    assert read_scores(source(0), tmp_path, "key").shape == (0,)


def test_what_is_there_is_not_scored_again(expected, tmp_path):
    again, asked = Counting(), []
    score_blocks(again, source(asked=asked), tmp_path / "whole", "key", "teacher")
    assert again.sizes == asked == []


@pytest.mark.parametrize("fatal", range(7))
def test_an_interrupted_start_goes_on_with_the_missing_blocks(expected, tmp_path, fatal):
    folder, second, asked = tmp_path / "interrupted", Counting(), []
    with pytest.raises(KeyboardInterrupt):
        score_blocks(Counting(fatal), source(), folder, "key", "teacher")
    with pytest.raises(UserError, match="missing or damaged; run the same command again"):
        read_scores(source(), folder, "key")
    score_blocks(second, source(asked=asked), folder, "key", "teacher")
    assert len(second.sizes) == 7 - fatal
    assert len(asked) == 100 - fatal * BLOCK, "texts of finished blocks are not asked for"
    assert contents(folder) == expected[1]


@pytest.mark.parametrize(
    "tear",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"x" + content[1:],
        lambda content: content[:-40] + b"x" + content[-39:],
        lambda content: content + b"x",
    ],
    ids=["an end gone", "half", "empty", "first byte", "a number", "too long"],
)
def test_a_torn_block_is_scored_again(expected, tmp_path, tear: Callable[[bytes], bytes]):
    folder, again = tmp_path / "whole", Counting()
    torn = sorted(folder.rglob("*.npy"))[3]
    torn.write_bytes(tear(torn.read_bytes()))
    with pytest.raises(UserError, match=r"000003\.npy: missing or damaged"):
        read_scores(source(), folder, "key")
    score_blocks(again, source(), folder, "key", "teacher")
    assert again.sizes == [BLOCK]
    assert contents(folder) == expected[1]


@pytest.mark.parametrize("worlds", [[2], [3], [9], [3, 2], [2, 3, 1]])
def test_any_number_of_processes_gives_the_same_bytes(expected, tmp_path, worlds):
    """All but the last launch lose their first process after one block."""
    folder, sizes = tmp_path / "shared", {}
    for world in worlds[:-1]:
        with pytest.raises(KeyboardInterrupt):
            score_blocks(Counting(1), source(), folder, "key", "teacher", 0, world)
    for rank in reversed(range(worlds[-1])):
        scorer = Counting()
        score_blocks(scorer, source(), folder, "key", "teacher", rank, worlds[-1])
        sizes[rank] = scorer.sizes
    assert contents(folder) == expected[1]
    np.testing.assert_array_equal(read_scores(source(), folder, "key"), expected[0])
    if len(worlds) == 1:
        whole = [BLOCK] * 6 + [100 - 6 * BLOCK]
        assert sizes == {rank: whole[rank :: worlds[0]] for rank in range(worlds[0])}, "each its own part"


def test_another_key_other_pairs_other_blocks_are_other_scores(expected, tmp_path, monkeypatch):
    folder, pairs = tmp_path / "whole", source()
    swapped = PairSource(pairs.passages, pairs.queries, pairs.query_text, pairs.passage_text)
    for other, key in ((pairs, "another key"), (source(99), "key"), (swapped, "key")):
        with pytest.raises(UserError):
            read_scores(other, folder, key)
    monkeypatch.setattr(score_store, "_BLOCK", 2 * BLOCK)
    score_blocks(Counting(), pairs, folder, "key", "teacher")
    assert expected[1].items() <= contents(folder).items(), "beside the others, not in their place"


def killed_at_block(number: int, moment: str, folder: Path) -> int:
    """Score in a process of its own that dies when a block is scored, or written under its temporary name."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        scorer, replace = Counting(), os.replace

        def die(now: str) -> None:
            if now == moment and len(scorer.sizes) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            scores = scorer(pairs)
            die("scored")
            return scores

        def rename(*names: Any) -> None:
            die("written")
            replace(*names)

        files.os.replace = rename  # of this process alone
        score_blocks(score, source(), folder, "key", "teacher")
    finally:
        os._exit(1)


@pytest.mark.parametrize("moment", ["scored", "written"])
def test_a_killed_process_leaves_whole_blocks(expected, tmp_path, moment):
    folder, second = tmp_path / "killed", Counting()
    assert killed_at_block(4, moment, folder) == -signal.SIGKILL
    assert [path.suffix for path in folder.rglob("*.partial")] == [".partial"] * (moment == "written")
    score_blocks(second, source(), folder, "key", "teacher")
    assert len(second.sizes) == 4, "the fourth of seven, which was lost, and three more"
    assert contents(folder) == expected[1]


def test_a_score_that_is_no_number_is_refused(small_blocks, tmp_path):
    def overflowing(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([np.nan if i == 3 else 1.0 for i in range(len(pairs))], dtype=np.float32)

    pairs = source()
    with pytest.raises(UserError) as caught:
        score_blocks(overflowing, pairs, tmp_path, "key", "teacher")
    query, passage = pairs.texts(3, 4)[0]
    assert str(caught.value).startswith(f"mine.teacher: the score of '{query[:40]}' with '{passage[:40]}' is nan")
    assert not contents(tmp_path)


def test_the_bar_counts_pairs(small_blocks, tmp_path, capfd):
    with pytest.raises(KeyboardInterrupt):
        score_blocks(Counting(2), source(), tmp_path, "key", "teacher")
    score_blocks(Counting(), source(), tmp_path, "key", "teacher: pairs")
    said = capfd.readouterr().err
    assert "teacher: pairs: 32%" in said, "goes on where it was"
    assert "100/100" in said
    assert "pair/s" in said


def test_a_cross_encoder_in_blocks(small_blocks, rerankers, tmp_path):
    """The real thing: finished scores do not even load the weights."""
    texts = some_pairs(40)
    pairs = PairSource(np.arange(40), np.arange(40), lambda i: texts[i][0], lambda row: texts[row][1])
    scorer = cross_encoder(settings(rerankers["xlm-roberta"]))
    with pytest.raises(UserError):
        read_scores(pairs, tmp_path, scorer.key)
    for rank in (0, 1):
        score_blocks(scorer, pairs, tmp_path, scorer.key, "teacher", rank, 2)
    scores = read_scores(pairs, tmp_path, scorer.key)
    np.testing.assert_allclose(scores, plain_logits(rerankers["xlm-roberta"], texts), atol=1e-5)
    fresh = cross_encoder(settings(rerankers["xlm-roberta"]))
    score_blocks(fresh, pairs, tmp_path, fresh.key, "teacher")
    assert "_score" not in vars(fresh)


# -- what the scores decide

some_scores = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=6)


@given(some_scores, some_scores, st.none() | st.floats(0.1, 1), st.none() | st.floats(0, 5))
def test_the_limit_is_never_above_the_best_positive(positives, candidates, share, margin):
    rule = TeacherConfig(max_share_of_positive=share, margin=margin)
    named = teacher_limits(positives, rule)
    drop = [exceeded(score, named) is not None for score in candidates]
    best = max(positives)
    limits = [best - margin] if margin is not None else []
    limits += [best - (1 - share) * abs(best)] if share is not None else []
    assert drop == [bool(limits) and score > min(limits) for score in candidates]
    if limits:
        assert all(drop[i] for i, score in enumerate(candidates) if score > best)
