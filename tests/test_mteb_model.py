"""Our models under MTEB's own tasks, made from local data: the benchmark's figures are ours, and nothing is fetched."""

from __future__ import annotations

import doctest
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bgetune.config import Head, JobConfig, ModelConfig
from bgetune.data import Texts, read_retrieval_set
from bgetune.encode import encode
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.index.exact import pair_scores
from bgetune.metrics import Results, means, per_query
from bgetune.search import MULTI_VECTOR_FULL, as_results, encode_set, rankings
from eval import mteb_model
from eval.mteb_model import DenseModel, SearchModel, as_mteb
from tests import tiny

mteb = pytest.importorskip("mteb")  # an optional extra

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.cache import ResultCache  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol  # noqa: E402

OPTIONS: dict[str, Any] = {
    "query_instruction": "what does ",
    "passage_instruction": "sign risk cure ",
    "query_max_length": 16,
    "passage_max_length": 32,
}
CONFIG = JobConfig(encode_precision="fp32")
DEPTH = 1000  # MTEB's


def metadata(kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=f"Local{kind}",
        type=kind,
        main_score=score,
        description="made of local data",
        prompt={"query": "an instruction of MTEB that our models do not use"},
        dataset={"path": "nowhere", "revision": "none"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        category="t2t",
        modalities=["text"],
    )


class LocalRetrieval(AbsTaskRetrieval):
    """The test split of a BEIR folder; `own`: passages that a query is to re-rank."""

    metadata = metadata("Retrieval", "ndcg_at_10")

    def __init__(self, queries: Texts, corpus: Texts, qrels: dict[str, Any], own: dict[str, list[str]] | None) -> None:
        super().__init__()
        passages = zip(corpus.ids, corpus.titles, corpus.texts, strict=True)
        self.dataset = {
            "default": {
                "test": {
                    "queries": Dataset.from_list(
                        [{"id": i, "text": text} for i, text in zip(queries.ids, queries.texts, strict=True)]
                    ),
                    "corpus": Dataset.from_list(
                        [{"id": i, "title": title, "text": text} for i, title, text in passages]
                    ),
                    "relevant_docs": qrels,
                    "top_ranked": own,
                }
            }
        }
        self.data_loaded = True


class LocalSTS(AbsTaskSTS):
    metadata = metadata("STS", "spearman")

    def __init__(self, first: list[str], second: list[str], gold: list[float]) -> None:
        super().__init__()
        columns = {"sentence1": first, "sentence2": second, "score": gold}
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    metadata = metadata("Classification", "accuracy")
    n_experiments = 2

    def __init__(self, texts: list[str], labels: list[int]) -> None:
        super().__init__()
        rows = Dataset.from_dict({"text": texts, "label": labels})
        self.dataset = DatasetDict({"train": rows, "test": rows})
        self.data_loaded = True


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not tried


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.m3(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Texts, Texts, dict[str, dict[str, int]]]:
    """Queries, passages, graded judgements; for one query the sparse head finds nothing."""
    data = read_retrieval_set(tiny.domain(tmp_path_factory.mktemp("domain")))
    queries = data.queries_of("test")
    queries = Texts([*queries.ids, "odd"], [*queries.texts, "unheard"])
    graded = {query_id: {**found, f"d{i}": 2} for i, (query_id, found) in enumerate(data.qrels["test"].items())}
    return queries, data.corpus, {**graded, "odd": {"d3": 1}}


def load(folder: Path, head: Head = "dense", **options: Any) -> Any:
    return as_mteb(folder, head=head, precision="fp32", **{**OPTIONS, **options})


def run(model: Any, task: Any, cache: Path | None = None) -> dict[str, float]:
    results = mteb.evaluate(
        model,
        task,
        cache=cache and ResultCache(cache),
        encode_kwargs={"batch_size": 4},
        show_progress_bar=False,
        co2_tracker=False,
    )
    return results.task_results[0].scores["test"][0]


def encoder_of(folder: Path, **options: Any) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), **{**OPTIONS, **options}))


def by_ours(
    encoder: Encoder, domain: tuple[Texts, Texts, dict[str, dict[str, int]]], cache: Path, name: str = "dense"
) -> Results:
    queries, corpus, _ = domain
    encoded = encode_set(encoder, queries, corpus, CONFIG, encoder.heads, cache, "test")
    return as_results(queries.ids, corpus.ids, *rankings(encoded, CONFIG, [name], "test", depth=DEPTH)[name])


def test_doctests() -> None:
    result = doctest.testmod(mteb_model)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_retrieval_is_ours(m3: Path, domain: Any, tmp_path: Path, similarity: Any) -> None:
    options = {"similarity": similarity, "normalize": False}
    model = load(m3, **options)
    assert isinstance(model, DenseModel)
    assert isinstance(model, EncoderProtocol)
    assert not isinstance(model, SearchProtocol)
    scores = run(model, LocalRetrieval(*domain, None))
    ours = means(per_query(domain[2], by_ours(encoder_of(m3, **options), domain, tmp_path)))
    assert scores["ndcg_at_10"] == pytest.approx(ours["ndcg@10"], abs=1e-5)
    assert scores["recall_at_10"] == pytest.approx(ours["recall@10"], abs=1e-5)
    assert scores["map_at_100"] == pytest.approx(ours["map@100"], abs=1e-5)
    assert 0.05 < ours["ndcg@10"] < 0.95


def test_a_wrong_role_would_show(m3: Path, domain: Any, tmp_path: Path) -> None:
    """The instructions matter to this model, so that the test above tells queries from passages."""
    values = {}
    for query, passage in (("what does ", "sign risk cure "), ("sign risk cure ", "what does "), ("", "")):
        encoder = encoder_of(m3, query_instruction=query, passage_instruction=passage)
        values[query] = means(per_query(domain[2], by_ours(encoder, domain, tmp_path)))["ndcg@10"]
    assert len({round(value, 3) for value in values.values()}) == 3
    assert run(load(m3), LocalRetrieval(*domain, None))["ndcg_at_10"] == pytest.approx(values["what does "], abs=1e-5)


@pytest.mark.parametrize(("head", "retriever"), [("sparse", "sparse"), ("multi_vector", MULTI_VECTOR_FULL)])
def test_the_other_heads_search(m3: Path, domain: Any, tmp_path: Path, head: Head, retriever: str) -> None:
    model = load(m3, head, query_instruction="")  # whose words the odd query would be found by
    assert isinstance(model, SearchModel)
    assert isinstance(model, SearchProtocol)
    assert not isinstance(model, EncoderProtocol)
    found = by_ours(encoder_of(m3, query_instruction=""), domain, tmp_path, retriever)
    scores = run(model, LocalRetrieval(*domain, None))
    assert scores["ndcg_at_10"] == pytest.approx(means(per_query(domain[2], found))["ndcg@10"], abs=1e-5)
    assert (found["odd"] == {}) == (head == "sparse")


@pytest.mark.parametrize("head", ["dense", "sparse", "multi_vector"])
def test_reranking(m3: Path, domain: Any, tmp_path: Path, head: Head) -> None:
    """Only a query's own passages, of each another number, in the order of their scores."""
    queries, corpus, qrels = domain
    own = {query_id: corpus.ids[i::7][: 3 + i] for i, query_id in enumerate(queries.ids)}
    scores = run(load(m3, head), LocalRetrieval(*domain, own))
    retriever = MULTI_VECTOR_FULL if head == "multi_vector" else head
    every = by_ours(encoder_of(m3), domain, tmp_path, retriever)
    found = {query_id: {i: every[query_id].get(i, 0.0) for i in ids} for query_id, ids in own.items()}
    assert scores["ndcg_at_10"] == pytest.approx(means(per_query(qrels, found))["ndcg@10"], abs=1e-5)


def test_similarity_of_sentences_is_ours(m3: Path) -> None:
    first = [f"{topic} pain" for topic in tiny.TOPICS]
    second = [f"{topic} cure" for topic in reversed(tiny.TOPICS)]
    gold = [float(i % 5) for i in range(10)]
    encoder = encoder_of(m3)
    a, b = (encode(encoder, Texts(first, texts), "passage", CONFIG, "t").vectors for texts in (first, second))
    ours = spearmanr(gold, pair_scores(a, b, np.arange(10)[:, None], "cosine")[:, 0]).statistic
    assert run(load(m3), LocalSTS(first, second, gold))["spearman"] == pytest.approx(ours, abs=1e-9)


def test_classification_runs(m3: Path) -> None:
    texts = [f"{topic} {word}" for topic in tiny.TOPICS[:2] for word in tiny.WORDS[:10]]
    assert run(load(m3), LocalClassification(texts, [0] * 10 + [1] * 10))["accuracy"] > 0.5


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_similarity_of_vectors(m3: Path, similarity: Any) -> None:
    model = load(m3, similarity=similarity)
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(3, 16)).astype(np.float32), draw.normal(size=(3, 16)).astype(np.float32)
    every = model.similarity(a, torch.from_numpy(b))
    product = a @ b.T
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    expected = {"cosine": product / lengths, "dot": product, "euclidean": -distances}[similarity]
    np.testing.assert_allclose(every, expected, atol=1e-5)
    np.testing.assert_allclose(model.similarity_pairwise(a, b), np.diag(expected), atol=1e-5)
    np.testing.assert_allclose(model.similarity(a[0], b), expected[:1], atol=1e-5)


def test_results_are_kept_by_weights_not_by_name(m3: Path, domain: Any, tmp_path: Path) -> None:
    """A checkpoint of the same name with other weights, or another instruction, gets no result of the first."""
    task = LocalRetrieval(*domain, None)
    other = tiny.m3(tmp_path / m3.name, seed=1)
    models = load(m3), load(other), load(m3, query_instruction="the "), load(m3, "sparse")
    assert {model.mteb_model_meta.name for model in models} == {f"bgetune/{m3.name}"}
    fresh = [run(model, task)["ndcg_at_10"] for model in models]
    kept = [run(model, task, tmp_path / "cache")["ndcg_at_10"] for model in models]
    assert kept == fresh
    assert len(set(fresh)) > 2
    assert len(list((tmp_path / "cache").rglob("LocalRetrieval.json"))) == 4


def test_what_mteb_is_told(m3: Path) -> None:
    meta = load(m3, name="clinic/tuned").mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens, meta.use_instructions) == ("clinic/tuned", 16, 32, True)
    assert meta.revision == encoder_of(m3).weights_hash()
    assert (meta.similarity_fn_name.value, meta.model_type, meta.experiment_kwargs) == ("cosine", ["dense"], None)
    assert as_mteb(m3, head="multi_vector", precision="bf16").mteb_model_meta.experiment_kwargs == {
        "head": "multi_vector",
        "precision": "bfloat16",
    }


def test_a_job_brings_its_own_options(tmp_path: Path) -> None:
    """What it was trained with, unless told otherwise."""
    job = tiny.config(tmp_path, encode_precision="fp32")
    job["model"].update(query_instruction="what does ", passage_instruction="the ")
    root = tmp_path / "clinic"
    best = tiny.m3(root / "checkpoints" / "best", seed=3)
    tiny.write_config(root / "config.yaml", job)
    options = {key: value for key, value in job["model"].items() if key != "name_or_path"}
    meta = as_mteb(root).mteb_model_meta
    assert meta.name == "bgetune/clinic"
    assert meta.revision == encoder_of(best, **options).weights_hash()
    changed = as_mteb(root, passage_instruction="").mteb_model_meta
    assert (
        changed.revision == encoder_of(best, **{**options, "passage_instruction": ""}).weights_hash() != meta.revision
    )


def test_mistakes(m3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(message: str, model: Path | str = m3, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            as_mteb(model, **options)

    fails(r'unknown option \'query_instructions\'; did you mean "query_instruction"', query_instructions="x")
    fails(r'unknown head \'spare\'; did you mean "sparse"\?; known: dense, sparse, multi_vector', head="spare")
    fails("unknown precision 'fp16'", precision="fp16")
    fails("has no sparse head", tiny.model(tmp_path / "plain"), head="sparse", passage_max_length=32)
    fails("as_mteb: 'gone/away/far' is no folder here", "gone/away/far")
    fails(r"model\.query_max_length", query_max_length=0)
    with pytest.raises(UserError, match="encode_kwargs precision 'int8' is not supported"):
        load(m3).encode([], task_metadata=LocalSTS.metadata, hf_split="", hf_subset="", precision="int8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(r"needs the package mteb; pip install 'bgetune\[mteb\]'")
