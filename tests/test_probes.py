"""Probes: every bad row is named, the values are scipy's and scikit-learn's, the verdict is the interval's."""

from __future__ import annotations

import csv
import doctest
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encode import encode
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from eval import probe_files, probes
from eval.probe_files import PER_LABEL, ClassificationProbe, SimilarityProbe, read_probe
from eval.probes import ProbeValues, compare_probes, measure_probe, spearman
from tests import tiny
from tests.by_hand import load

CONFIG = JobConfig(encode_precision="fp32")
PAIRS = [
    {"sentence1": f"{topic} pain", "sentence2": f"{other} {word}", "score": float(topic == other) + i % 3 / 2}
    for i, (topic, other, word) in enumerate(
        zip(tiny.TOPICS * 3, [*tiny.TOPICS, *reversed(tiny.TOPICS)] * 2, tiny.WORDS * 3, strict=False)
    )
]
TEXTS = [
    {"text": f"{topic} {word}", "label": label}
    for topic, label in (("heart", "blood"), ("lung", "air"), ("kidney", "water"))
    for word in tiny.WORDS
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    # random weights: the mean of all tokens' states tells a text's words, that of CLS hardly
    return load(tiny.model(tmp_path_factory.mktemp("model")), pooling="mean")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif path.suffix == ".tsv":
            file.writelines("\t".join(map(str, row)) + "\n" for row in (rows[0], *(row.values() for row in rows)))
        else:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def without(row: dict[str, Any], column: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != column}


def pairs(gold: Sequence[float]) -> SimilarityProbe:
    texts = Texts([str(i) for i in range(len(gold))], ["x"] * len(gold))
    return SimilarityProbe("sts", texts, texts, np.array(gold, dtype=np.float64))


def found(probe: SimilarityProbe, items: np.ndarray) -> ProbeValues:
    return ProbeValues(items, spearman(probe.gold, items))


@pytest.mark.parametrize("module", [probe_files, probes])
def test_doctests(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# -- reading


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_pairs_of_every_format(tmp_path: Path, suffix: str) -> None:
    probe = read_probe("sts", write(tmp_path / f"pairs{suffix}", [{"id": "a,b", **row} for row in PAIRS]))
    assert isinstance(probe, SimilarityProbe)
    assert (probe.kind, probe.metric, len(probe)) == ("similarity", "spearman", len(PAIRS))
    assert probe.first.texts == [row["sentence1"] for row in PAIRS]
    assert probe.second.texts == [row["sentence2"] for row in PAIRS]
    assert probe.gold.tolist() == [row["score"] for row in PAIRS]
    assert probe.first.where(2) == f"{tmp_path}/pairs{suffix}:{3 if suffix == '.jsonl' else 4}"


def test_a_folder_as_sts_benchmark_has_it(tmp_path: Path) -> None:
    """Seven columns, a lone quote in a sentence, dev beside test, a licence beside both."""
    rows = [
        {
            "genre": "news",
            "source": "x",
            "year": "2014",
            "id": f"{i:04}",
            "score": i / 4,
            "sentence1": 'say "no',
            "s": 1,
        }
        for i in range(20)
    ]
    rows = [{**without(row, "s"), "sentence2": "it's 5\" long"} for row in rows]
    write(tmp_path / "test.tsv", rows)
    write(tmp_path / "dev.tsv", rows[:11])
    (tmp_path / "LICENSE.txt").write_text("CC BY-SA 4.0")
    probe = read_probe("stsb", tmp_path)
    assert isinstance(probe, SimilarityProbe)
    assert len(probe) == 20
    assert probe.first.texts[0] == 'say "no'
    assert probe.second.texts[19] == "it's 5\" long"
    (tmp_path / "test.tsv").unlink()
    assert len(read_probe("stsb", tmp_path)) == 11  # the only one there is


def test_csv_with_a_byte_order_mark_blank_lines_and_a_text_over_two_lines(tmp_path: Path) -> None:
    lines = ["\ufefftext,label", '"heart\npain",a', "", *(f"lung {i},b" for i in range(30)), *["bone, a", "skin, a"]]
    path = tmp_path / "topics.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    probe = read_probe("topics", path)
    assert isinstance(probe, ClassificationProbe)
    rows = dict(zip([*probe.train.texts, *probe.test.texts], [*probe.train.lines, *probe.test.lines], strict=True))
    assert rows["heart\npain"] == 2
    assert rows["lung 0"] == 5
    assert {*probe.train_labels, *probe.test_labels} == {"a", "b"}


def test_texts_are_divided_by_a_column(tmp_path: Path) -> None:
    splits = ["train", "test", "validation"]
    rows = [{**row, "split": splits[i % 3]} for i, row in enumerate(TEXTS)]
    probe = read_probe("topics", write(tmp_path / "topics.csv", rows))
    assert isinstance(probe, ClassificationProbe)
    assert probe.train.texts == [row["text"] for row in rows[::3]]
    assert probe.test.texts == [row["text"] for row in rows[1::3]]
    assert probe.test_labels == [row["label"] for row in rows[1::3]]


def test_texts_are_divided_by_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{**row, "label": i % 2} for i, row in enumerate(TEXTS)])
    write(tmp_path / "test.csv", [{**row, "label": 1} for row in TEXTS[:12]])
    probe = read_probe("topics", tmp_path)
    assert isinstance(probe, ClassificationProbe)
    assert (len(probe.train), len(probe)) == (len(TEXTS), 12)
    assert probe.train_labels[:2] == ["0", "1"]  # a number is a label as its digits are
    assert probe.test_labels == ["1"] * 12


def test_texts_are_divided_in_halves_label_by_label(tmp_path: Path) -> None:
    path = write(tmp_path / "topics.jsonl", TEXTS)
    probe, again = read_probe("topics", path), read_probe("topics", path)
    assert probe == again
    assert isinstance(probe, ClassificationProbe)
    for label in ("blood", "air", "water"):
        assert probe.train_labels.count(label) == probe.test_labels.count(label) == len(tiny.WORDS) // 2
    assert sorted([*probe.train.texts, *probe.test.texts]) == sorted(row["text"] for row in TEXTS)
    assert probe.train.lines == sorted(probe.train.lines) != list(range(1, len(probe.train) + 1))


def test_no_label_has_more_training_texts_than_needed(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"text": f"heart {i}", "label": "ab"[i >= 5]} for i in range(PER_LABEL + 50)])
    write(tmp_path / "test.csv", [{"text": f"lung {i}", "label": "a"} for i in range(PER_LABEL + 50)])
    probe = read_probe("topics", tmp_path)
    assert isinstance(probe, ClassificationProbe)
    assert (probe.train_labels.count("a"), probe.train_labels.count("b")) == (5, PER_LABEL)
    assert len(probe) == PER_LABEL + 50


BAD_PAIRS: list[tuple[dict[str, Any], str]] = [
    (without(PAIRS[0], "score"), ':12: the column "score" is missing'),
    (without(PAIRS[0], "sentence2"), ':12: the column "sentence2" is missing'),
    ({**PAIRS[0], "sentence1": " "}, ':12: "sentence1" must be a text that is not empty'),
    ({**PAIRS[0], "sentence1": 5}, ':12: "sentence1" must be a text that is not empty, got 5'),
    ({**PAIRS[0], "score": "high"}, ":12: \"score\" must be a number, got 'high'"),
    ({**PAIRS[0], "score": True}, ':12: "score" must be a number, got True'),
    ({**PAIRS[0], "score": "nan"}, ":12: \"score\" must be a number, got 'nan'"),
    ({**PAIRS[0], "score": [1]}, ':12: "score" must be a number'),
]
BAD_TEXTS: list[tuple[dict[str, Any], str]] = [
    (without(TEXTS[0], "label"), ':12: the column "label" is missing'),
    ({**TEXTS[0], "label": None}, ':12: the column "label" is missing'),
    ({**TEXTS[0], "label": 0.5}, ':12: "label" must be a word or a whole number, got 0.5'),
    ({**TEXTS[0], "label": ""}, ':12: "label" must be a word'),
    ({**TEXTS[0], "text": ""}, ':12: "text" must be a text that is not empty'),
]


@pytest.mark.parametrize(
    ("good", "bad", "message"), [*((PAIRS, *case) for case in BAD_PAIRS), *((TEXTS, *case) for case in BAD_TEXTS)]
)
def test_a_bad_row_is_named(tmp_path: Path, good: list[dict[str, Any]], bad: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "probe.jsonl", [*good[:11], bad, *good[11:]])
    with pytest.raises(UserError) as error:
        read_probe("sts", path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_table_with_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", PAIRS)
    path.write_text(path.read_text() + "one\ttwo\n")
    with pytest.raises(UserError, match=rf"pairs\.tsv:{len(PAIRS) + 2}: 2 cells where the header has 3 columns"):
        read_probe("sts", path)
    path = write(tmp_path / "pairs.csv", PAIRS)
    path.write_text(path.read_text() + '"never closed,b,1\n')
    with pytest.raises(UserError, match=rf"pairs\.csv:{len(PAIRS) + 2}: eval\.probes\.sts cannot be read from here on"):
        read_probe("sts", path)
    path.write_bytes(b"sentence1,sentence2,score\n\xff,b,1\n")
    with pytest.raises(UserError, match=r"pairs\.csv:1: .* not UTF-8 text"):
        read_probe("sts", path)


def test_a_probe_that_is_none(tmp_path: Path) -> None:
    def fails(path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            read_probe("p", path)

    split = [{**row, "split": "train" if i % 2 else "test"} for i, row in enumerate(TEXTS)]
    fails(tmp_path / "gone.csv", r"eval\.probes\.p: .*gone\.csv: no such file or folder")
    fails(write(tmp_path / "a.txt", PAIRS), r"eval\.probes\.p: .*a\.txt is none of \.csv, \.tsv, \.jsonl")
    fails(write(tmp_path / "a.jsonl", PAIRS[:9]), r"a\.jsonl: eval\.probes\.p has 9 rows; at least 10 are needed")
    fails(write(tmp_path / "b.jsonl", TEXTS[:14]), r"b\.jsonl: eval\.probes\.p has 7 texts to test with; at least 10")
    fails(write(tmp_path / "c.jsonl", [{"a": 1, "b": 2}] * 10), r"c\.jsonl:1: .* or text, label; the file has a, b")
    fails(write(tmp_path / "d.csv", [{**row, "score": 3} for row in PAIRS]), r"d\.csv: .* every score is 3")
    fails(write(tmp_path / "e.csv", [{**row, "label": "x"} for row in TEXTS]), r"every training text has the label 'x'")
    fails(write(tmp_path / "f.csv", [{**row, "split": "test"} for row in TEXTS]), "there is no training text; two")
    fails(write(tmp_path / "g.csv", [*split, {**split[0], "split": "tets"}]), r"g\.csv:44: \"split\" must be .*'tets'")
    fails(write(tmp_path / "h.csv", [*split, {**split[0], "label": "new"}]), r"h\.csv:44: the label 'new' is in no tra")
    empty = tmp_path / "i.csv"
    empty.write_text("")
    fails(empty, r"i\.csv: eval\.probes\.p has 0 rows")


def test_a_folder_that_is_no_probe(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UserError, match=r"needs a test\.csv, test\.tsv or test\.jsonl; it has no such file"):
        read_probe("p", tmp_path)
    write(tmp_path / "a.csv", PAIRS)
    write(tmp_path / "b.csv", PAIRS)
    with pytest.raises(UserError, match=r"it has a\.csv, b\.csv"):
        read_probe("p", tmp_path)
    write(tmp_path / "test.csv", PAIRS)
    write(tmp_path / "test.tsv", PAIRS)
    with pytest.raises(UserError, match=r"has test\.csv and test\.tsv; keep one of them"):
        read_probe("p", tmp_path)


# -- measuring


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_similarity_is_the_models_own(tmp_path: Path, similarity: Any) -> None:
    encoder = load(
        tiny.model(tmp_path / "model"), similarity=similarity, normalize=False, passage_instruction="what does "
    )
    probe = read_probe("sts", write(tmp_path / "pairs.csv", PAIRS))
    assert isinstance(probe, SimilarityProbe)
    values = measure_probe(probe, encoder, CONFIG)
    a, b = (
        encode(encoder, texts, "passage", CONFIG, "t").vectors.astype(np.float64)
        for texts in (probe.first, probe.second)
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dot = (a * b).sum(axis=1)
    expected = {"cosine": dot / lengths, "dot": dot, "euclidean": -np.linalg.norm(a - b, axis=1)}[similarity]
    np.testing.assert_allclose(values.items, expected, rtol=1e-4, atol=1e-5)
    assert values.value == pytest.approx(spearmanr(probe.gold, values.items).statistic, abs=1e-12)


def test_accuracy_is_a_logistic_regressions(tmp_path: Path, encoder: Encoder) -> None:
    probe = read_probe("topics", write(tmp_path / "topics.csv", TEXTS))
    assert isinstance(probe, ClassificationProbe)
    values = measure_probe(probe, encoder, CONFIG)
    train, test = (encode(encoder, texts, "passage", CONFIG, "t").vectors for texts in (probe.train, probe.test))
    score = LogisticRegression(max_iter=1000).fit(train, probe.train_labels).score(test, probe.test_labels)
    assert values.value == pytest.approx(score)
    assert values.value == values.items.mean() > 0.5
    assert set(values.items) <= {0.0, 1.0}
    assert len(values.items) == len(probe)
    again = measure_probe(probe, encoder, CONFIG)
    assert np.array_equal(values.items, again.items)


# -- comparing


def test_a_row_of_the_report(tmp_path: Path, encoder: Encoder) -> None:
    probe = read_probe("topics", write(tmp_path / "topics.csv", TEXTS))
    base = measure_probe(probe, encoder, CONFIG)
    none = ProbeValues(np.zeros(len(probe)), 0.0)
    row = compare_probes(probe, {"base": base, "tuned": none, "merged": base}, 200, 0)
    assert row == {
        "name": "topics",
        "kind": "classification",
        "metric": "accuracy",
        "n": len(probe),
        "values": {"base": base.value, "tuned": 0.0, "merged": base.value},
        "gain": {
            "tuned": {"abs": -base.value, "ci95": row["gain"]["tuned"]["ci95"]},
            "merged": {"abs": 0.0, "ci95": [0.0, 0.0]},
        },
        "verdict": {"tuned": "worse", "merged": "no difference shown"},
    }
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert compare_probes(probe, {"base": none, "tuned": base}, 200, 0)["verdict"] == {"tuned": "better"}


def test_an_encoder_that_was_broken_is_called_worse(tmp_path: Path, encoder: Encoder) -> None:
    """Gold scores are the base's own similarities with noise, so that random weights must lose."""
    path = write(tmp_path / "pairs.csv", PAIRS)
    probe = read_probe("sts", path)
    assert isinstance(probe, SimilarityProbe)
    base = measure_probe(probe, encoder, CONFIG)
    noisy = base.items + 0.05 * np.random.default_rng(0).normal(size=len(probe))
    probe = SimilarityProbe("sts", probe.first, probe.second, noisy)
    broken = load(tiny.model(tmp_path / "model", seed=1))
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.mul_(torch.randn_like(parameter))
    row = compare_probes(
        probe, {"base": measure_probe(probe, encoder, CONFIG), "tuned": measure_probe(probe, broken, CONFIG)}, 1000, 0
    )
    assert row["verdict"] == {"tuned": "worse"}
    assert row["gain"]["tuned"]["ci95"][1] < 0


graded = st.lists(st.integers(0, 4), min_size=10, max_size=30)


@settings(max_examples=40, deadline=None)
@given(graded, st.integers(0, 1000))
def test_every_resample_is_scipys_spearman(gold: list[int], seed: int) -> None:
    """The counts of a resample are as good as its items; ties in both, and a constant gives 0."""
    draw = np.random.default_rng(seed)
    n = len(gold)
    first, second = np.array(gold, dtype=np.float64), draw.integers(0, 6, n).astype(np.float64)
    counts = np.concatenate(list(probes._resampled(n, 5, draw)))
    assert counts.sum(axis=1).tolist() == [n] * 5
    ours = probes._correlation(probes._Ranked(first).ranks(counts), probes._Ranked(second).ranks(counts), counts)
    for value, count in zip(ours, counts.astype(int), strict=True):
        x, y = np.repeat(first, count), np.repeat(second, count)
        expected = 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else spearmanr(x, y).statistic
        assert value == pytest.approx(expected, abs=1e-9)


def test_the_interval_is_the_plain_bootstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    gold = draw.normal(size=40).round(1)
    before, after = gold + 2 * draw.normal(size=40), gold + draw.normal(size=40)
    probe = pairs(gold.tolist())
    row = compare_probes(probe, {"a": found(probe, before), "b": found(probe, after)}, 400, seed=7)
    drawn = np.random.default_rng([7, 0]).integers(0, 40, (400, 40))
    plain = [
        spearmanr(gold[rows], after[rows]).statistic - spearmanr(gold[rows], before[rows]).statistic for rows in drawn
    ]
    np.testing.assert_allclose(row["gain"]["b"]["ci95"], np.percentile(plain, [2.5, 97.5]), atol=1e-12)
    # how many are held at once changes nothing
    monkeypatch.setattr(probes, "_BLOCK", 100)
    assert compare_probes(probe, {"a": found(probe, before), "b": found(probe, after)}, 400, seed=7) == row


def test_false_alarms_keep_to_their_level() -> None:
    """Two systems that are equally good but not the same: at most 1 of 20 intervals should leave out 0."""
    draw = np.random.default_rng(11)
    alarms = 0
    for seed in range(200):
        gold = draw.normal(size=60)
        common = gold + draw.normal(size=60)
        probe = pairs(gold.tolist())
        systems = {name: found(probe, common + 0.7 * draw.normal(size=60)) for name in ("a", "b")}
        alarms += compare_probes(probe, systems, 300, seed)["verdict"]["b"] != "no difference shown"
    assert alarms <= 20  # 10 are expected


def test_a_model_of_one_vector_scores_nothing() -> None:
    probe = pairs([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    flat, perfect = found(probe, np.ones(10)), found(probe, probe.gold)
    row = compare_probes(probe, {"base": perfect, "tuned": flat}, 200, 0)
    assert row["values"] == {"base": pytest.approx(1.0), "tuned": 0.0}
    assert row["gain"]["tuned"]["ci95"] == [pytest.approx(-1.0), pytest.approx(-1.0)]
    assert row["verdict"] == {"tuned": "worse"}
