"""The mine stage on a tiny job: what it writes is what numpy finds, byte for byte the same each time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bgetune.data import Texts, normalised, read_retrieval_set
from bgetune.encode import encode
from bgetune.encoder import Encoder
from data_prep.__main__ import main
from tests import jobs
from tests.jobs import Job, jsonl, mined_rows, only_error, stats_of

WIDE = {"max_share_of_positive": None, "rank_last": 60}


def scores_by_numpy(job: Job) -> tuple[list[str], list[str], np.ndarray]:
    """Train query ids, passage ids, and every score, without an index."""
    data, config = read_retrieval_set(job.run.data("clinic")), job.config
    encoder = Encoder.load(config.model)
    queries = data.queries_of("train")
    query_ids, texts = queries.ids, queries.texts
    q = encode(encoder, Texts(query_ids, texts), "query", config, "test").vectors.astype(np.float64)
    p = encode(encoder, data.corpus, "passage", config, "test").vectors.astype(np.float64)
    if config.model.similarity == "euclidean":
        return query_ids, data.corpus.ids, -np.linalg.norm(q[:, None] - p[None], axis=2)
    return query_ids, data.corpus.ids, q @ p.T


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_ids_ranks_and_scores_are_those_of_exact_search(tmp_path, similarity):
    model = {"similarity": similarity, "normalize": similarity == "cosine"}
    job = jobs.prepared(tmp_path, model=model, mine={"rank_first": 3, "rank_last": 40})
    rows = mined_rows(job)
    query_ids, passage_ids, scores = scores_by_numpy(job)
    assert list(rows) == query_ids
    data = read_retrieval_set(job.run.data("clinic"))
    text_of = dict(zip(passage_ids, data.corpus.full_texts(), strict=True))
    for i, query_id in enumerate(query_ids):
        row = rows[query_id]
        of = dict(zip(passage_ids, scores[i], strict=True))
        assert row["pos_ids"] == list(data.qrels["train"][query_id])
        assert row["pos"] == [text_of[p] for p in row["pos_ids"]]
        assert row["neg"] == [text_of[n] for n in row["neg_ids"]]
        assert row["neg_scores"] == pytest.approx([of[n] for n in row["neg_ids"]], abs=2e-5)
        assert row["pos_scores"] == pytest.approx([of[p] for p in row["pos_ids"]], abs=2e-5)
        by_score = sorted(passage_ids, key=lambda p, of=of: -of[p])
        for rank, negative in zip(row["neg_ranks"], row["neg_ids"], strict=True):
            assert of[by_score[rank - 1]] == pytest.approx(of[negative], abs=2e-5)
            assert 3 <= rank <= 40
        best = max(row["pos_scores"])
        assert all(score <= best - 0.05 * abs(best) + 2e-5 for score in row["neg_scores"])
        assert not set(row["neg_ids"]) & set(row["pos_ids"])


def test_two_runs_give_the_same_bytes(tmp_path):
    job = jobs.mined(tmp_path)
    before = {path.name: path.read_bytes() for path in job.run.examples.parent.iterdir()}
    assert set(before) == {"train.jsonl", "stats.json", "audit.html", "ranks.npz"}
    assert main(["mine", *job.words, "--force"]) == 0  # from the stored vectors
    again = {path.name: path.read_bytes() for path in job.run.examples.parent.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    other = jobs.mined(tmp_path / "elsewhere")
    anew = {path.name: path.read_bytes() for path in other.run.examples.parent.iterdir()}
    assert before == again == anew


def test_top_takes_the_nearest_that_are_allowed(tmp_path):
    job = jobs.prepared(tmp_path, mine={**WIDE, "sampling": "top"})
    query_ids, passage_ids, scores = scores_by_numpy(job)
    rows = mined_rows(job)
    data = read_retrieval_set(job.run.data("clinic"))
    texts = [normalised(text) for text in data.corpus.full_texts()]
    for i, query_id in enumerate(query_ids):
        row = rows[query_id]
        allowed = [
            float(scores[i, j])
            for j in np.argsort(-scores[i], kind="stable")
            if passage_ids[j] not in row["pos_ids"] and texts[j] not in {normalised(t) for t in row["pos"]}
        ]
        assert row["neg_scores"] == pytest.approx(allowed[:4], abs=2e-5)


def test_a_query_gets_the_same_negatives_whatever_the_others_are(tmp_path):
    job = jobs.prepared(tmp_path, encode_precision="fp32")
    whole = mined_rows(job)
    qrels = job.run.data("clinic") / "qrels" / "train.tsv"
    lines = qrels.read_text().splitlines()
    qrels.write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    half = mined_rows(job)
    assert len(half) == len(whole) // 2
    for query_id, row in half.items():
        assert row["neg_ids"] == whole[query_id]["neg_ids"]
        assert row["neg_scores"] == pytest.approx(whole[query_id]["neg_scores"], abs=2e-5)


def test_the_query_itself_and_copies_of_its_positive_are_no_negatives(tmp_path):
    job = jobs.prepared(tmp_path, mine={**WIDE, "negatives_per_query": 60, "rank_last": 62})
    folder = job.run.data("clinic")
    query, passage = jsonl(folder / "queries.jsonl")[0], jsonl(folder / "corpus.jsonl")[0]
    with open(folder / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"_id": "echo", "title": "", "text": f"  {query['text'].upper()} "}) + "\n")
        copy = f"{passage['title']}  {passage['text'].title()}"
        file.write(json.dumps({"_id": "copy", "title": "", "text": copy}) + "\n")
    rows = mined_rows(job)
    assert {"echo", "copy"}.isdisjoint(rows["q0"]["neg_ids"])
    # to others they are passages like any other, and a text is taken once
    assert "echo" in rows["q1"]["neg_ids"]
    assert len({"d0", "copy"} & set(rows["q1"]["neg_ids"])) == 1


def test_too_few_negatives_are_counted(tmp_path):
    job = jobs.prepared(tmp_path, mine={"max_share_of_positive": 0.9, "rank_last": 8, "negatives_per_query": 5})
    rows = mined_rows(job)
    counts = [len(row["neg"]) for row in rows.values()]
    assert 0 < sum(counts) < 5 * len(rows)
    stats = stats_of(job)
    assert stats["queries"] == 40
    assert stats["negatives"] == sum(counts)
    assert stats["queries_with_too_few"] == sum(count < 5 for count in counts)
    assert stats["queries_by_number_of_negatives"] == {str(n): counts.count(n) for n in sorted(set(counts))}
    assert stats["dropped"]["score above the limit of mine.max_share_of_positive (0.9)"] > 0


def test_data_that_changed_since_prepare_are_warned_of(tmp_path, caplog):
    job = jobs.write(tmp_path)
    assert main(["prepare", *job.words]) == 0
    assert main(["mine", *job.words]) == 0
    said = "mine: the configuration, the inputs or the output of `prepare` changed after it was done"
    assert not any("changed after it was done" in message for message in caplog.messages)
    with open(tmp_path / "domain" / "corpus.jsonl", "a", encoding="utf-8") as file:
        file.write('{"_id": "new", "text": "a new passage"}\n')
    before = stats_of(job)
    assert main(["mine", *job.words, "--force"]) == 0
    assert stats_of(job) == before
    assert [message.startswith(said) for message in caplog.messages if "changed after" in message] == [True]
    caplog.clear()
    assert main(["prepare", *job.words]) == 0
    assert main(["mine", *job.words]) == 0
    assert not any("changed after it was done" in message for message in caplog.messages)


def given_job(tmp_path, negatives: int, **mine: Any) -> Job:
    rows = [
        {
            "query": f"what does topic{i} help",
            "pos": [f"answer{i} to topic{i}"],
            "neg": [f"wrong{j} for topic{i}" for j in range(negatives)],
        }
        for i in range(40)
    ]
    path = jobs.write_jsonl(tmp_path / "examples.jsonl", rows)
    domain = {"kind": "flagembedding", "path": str(path), "dev_share": 0.2}
    job = jobs.write(tmp_path, data={"name": "clinic", "domain": domain}, mine={"method": "given", **mine})
    assert main(["prepare", *job.words]) == 0
    return job


def test_given_negatives_are_used_as_they_are(tmp_path):
    job = given_job(tmp_path, negatives=6, negatives_per_query=4)
    rows = mined_rows(job)
    assert len(rows) == stats_of(job)["queries"] > 15
    for row in rows.values():
        i = row["query"].split()[2].removeprefix("topic")
        assert row["pos"] == [f"answer{i} to topic{i}"]
        assert row["neg"] == [f"wrong{j} for topic{i}" for j in range(4)]
        assert len(row["neg_ids"]) == 4
    assert not job.run.vectors.exists()  # no model was needed


def test_given_without_negatives_says_what_to_use(tmp_path, capsys):
    job = given_job(tmp_path, negatives=0)
    assert main(["mine", *job.words]) == 2
    assert only_error(capsys).startswith("error: mine.method: the data holds no negatives to be `given`")


def test_none_leaves_the_negatives_to_the_batch(tmp_path):
    rows = mined_rows(jobs.prepared(tmp_path, mine={"method": "none"}))
    assert len(rows) == 40
    assert all(row["neg"] == [] and len(row["pos"]) == 1 for row in rows.values())


def test_a_window_larger_than_the_corpus_is_refused(tmp_path, capsys):
    job = jobs.prepared(tmp_path, mine={"rank_last": 61})
    assert main(["mine", *job.words]) == 2
    assert only_error(capsys).startswith("error: mine.rank_last: 61 is more than the 60 passages of ")
    assert not job.run.examples.parent.exists()


def test_no_negative_at_all_is_refused(tmp_path, capsys):
    job = jobs.prepared(tmp_path, mine={"max_score": -2.0})
    assert main(["mine", *job.words]) == 2
    assert only_error(capsys).startswith("error: mine: no query got a negative; widen mine.rank_last")
    assert not job.run.examples.parent.exists()
