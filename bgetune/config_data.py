"""Every knob of data preparation; a part of the JobConfig in config.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Builder = Literal["question_answer", "title_body", "heading_section", "faq", "paraphrase", "excerpts", "docstring_code"]
Leakage = Literal["error", "drop", "warn"]
Signal = Literal["dense", "sparse", "multi_vector", "bm25", "hybrid", "random"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)


@dataclass(frozen=True)
class DocumentsConfig:
    """Kind documents: how documents become passages, and which pairs of query and passage they give by themselves."""

    builders: tuple[Builder, ...] = ("question_answer", "faq", "heading_section", "title_body")
    """How queries are made. A passage's query comes from the first builder that finds one. None, []: a corpus
    without queries, for `synthesize`."""
    chunk_tokens: int = 200
    """Most tokens of a passage, counted by the model's tokenizer; borders are headings, then sentences."""
    chunk_overlap_tokens: int = 0
    """Whole sentences of up to so many tokens that a passage repeats from the one before it."""
    min_tokens: int = 12
    """A passage of fewer tokens is joined to its neighbour of the same section, or left out when it has none."""
    include: tuple[str, ...] = ()
    """Name patterns such as `*.md`; none: every file of a kind that can be read."""
    exclude: tuple[str, ...] = ()
    """Name patterns that are left out."""


@dataclass(frozen=True)
class CleanConfig:
    """What is taken out of a set before it is split. Passages of a public set stay as they are by default.

    Length and language are asked of passages only: in cross-lingual sets a query's language is another one by intent.
    """

    duplicates: Literal["auto", "keep", "exact", "near"] = "auto"
    """Passages that say the same become one, and answer what any of them answered. auto: near for kind documents,
    else keep."""
    near_threshold: float = 0.8
    """Jaccard similarity of word sets from which two passages with the same numbers in them are near-duplicates."""
    min_words: int = 0
    """Passages of fewer words are left out."""
    max_words: int | None = None
    """Passages of more words are left out."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes, such as en, of the languages that stay; none named: all."""


@dataclass(frozen=True)
class SourceConfig:
    """Where one retrieval set comes from. Missing dev or test splits are cut from train, by seed."""

    kind: Literal["beir", "flagembedding", "dataset", "documents", "harvest"] = "beir"
    """beir: a folder; flagembedding: JSONL with query, pos, neg; dataset: for `datasets`; documents: files to cut into
    passages (txt, md, html, pdf, csv, tsv, jsonl, parquet, py); harvest: installed code."""
    path: str = ""
    """The folder, the JSONL file, or the Hub id / parquet / csv / json file."""
    columns: dict[str, str] = field(default_factory=dict)
    """kinds dataset and documents: our name -> the table's, for query, positive, and optionally negative, title, id,
    text, group."""
    subset: str | None = None
    """kind dataset: the configuration name on the Hub."""
    split: str = "train"
    """kind dataset: the split to read."""
    packages: tuple[str, ...] = ("stdlib",)
    """kind harvest: `stdlib`, or names of installed packages."""
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    """kind documents: how they are cut."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """What is taken out."""
    max_pairs: int | None = None
    """Keep at most this many pairs (the first by hash, so the choice is stable)."""
    dev_share: float = 0.1
    """Share of the train queries that become dev where the source has none."""
    test_share: float = 0.2
    """Share of the train queries that become test where the source has none."""
    split_by: Literal["query", "document", "group"] = "query"
    """What is never torn apart by the cut: near-equal queries and those that share a passage; also all of a document;
    also all passages with the same `group` in their metadata."""
    seed: int = 0
    """Decides the cut."""


@dataclass(frozen=True)
class DataConfig:
    """The domain to adapt to, and the sets that must not get worse."""

    name: str = "domain"
    """Name of the domain in reports."""
    domain: SourceConfig = field(default_factory=SourceConfig)
    """Trained on (train), chosen on (dev), measured on (test)."""
    guards: dict[str, SourceConfig] = field(default_factory=dict)
    """Name -> source. Measured on (test) only; training never sees them."""
    public: dict[str, str] = field(default_factory=dict)
    """Name -> BEIR folder of a public benchmark whose test queries must not be among the domain's train or dev ones."""
    leakage: Leakage = "error"
    """When a train or dev query is known from what is measured with (dev, test, a guard, a public set): stop; leave it
    out of its split; or only say so."""


@dataclass(frozen=True)
class FewShot:
    """One example for the prompt: a passage and a query that it answers."""

    passage: str = ""
    """The passage."""
    query: str = ""
    """The query."""


@dataclass(frozen=True)
class SynthesizeConfig:
    """Queries for a corpus without any, written by a language model behind an OpenAI-compatible endpoint."""

    url: str | None = None
    """Base URL, such as http://localhost:8000/v1 (vLLM, llama.cpp, Ollama, a hosted one); null: off."""
    model: str = ""
    """The model's name there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never written anywhere."""
    prompt: str = (
        "Write {count} different search queries that a user might type and that the passage below answers. "
        "Each must be understandable without the passage. Answer with a JSON list of strings and nothing else."
        "{examples}\n\nPassage:\n{passage}"
    )
    """What is asked. {passage}, {count} and {examples} are filled in; make it your domain's."""
    examples: tuple[FewShot, ...] = ()
    """Passages with good queries, shown to the model in {examples}."""
    queries_per_passage: int = 2
    """How many are asked for."""
    max_passages: int | None = None
    """Passages asked about (the first by hash); null: all that have no query."""
    temperature: float = 0.7
    """The model's sampling temperature."""
    max_tokens: int = 256
    """Most tokens of an answer."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout: float = 120.0
    """Seconds after which a request is given up and tried again."""
    retries: int = 5
    """Tries after the first for a request that failed (429, 5xx, time-out, broken answer), each after a longer wait."""
    max_failures: float = 0.1
    """Share of passages that may stay without an answer before the stage stops."""
    round_trip_rank: int | None = 20
    """Keep a query only when the base model's dense search finds its passage within this rank; null: off."""
    seed: int = 0
    """Sent with each request, and decides the choice of passages."""


@dataclass(frozen=True)
class TeacherConfig:
    """Scores of query and passage by something slower and better than the model under training."""

    kind: Literal["none", "cross_encoder", "hybrid"] = "none"
    """cross_encoder: a reranker; hybrid: the model's own heads together."""
    name_or_path: str = "BAAI/bge-reranker-v2-m3"
    """kind cross_encoder: a folder or Hub id."""
    library: Literal["FlagEmbedding", "sentence-transformers"] = "sentence-transformers"
    """kind cross_encoder: what runs it."""
    max_length: int = 512
    """Tokens a pair is cut to."""
    batch_size: int = 32
    """Pairs scored at once."""
    max_share_of_positive: float | None = None
    """Drop candidates that the teacher scores above this share of what it gives the positive; null: no filter, and only
    the chosen negatives are scored."""
    margin: float | None = None
    """Drop candidates that the teacher scores above the positive's score less this; null: off. Suits teachers that give
    logits."""
    candidates: int = 30
    """With a filter: how many of a query's candidates are scored, the first ones by rank."""


@dataclass(frozen=True)
class MineConfig:
    """Hard negatives: passages that rank high and are not known to answer the query."""

    method: Literal["search", "given", "none"] = "search"
    """search: with the signals in `sources`; given: the negatives in the data; none: in-batch negatives only."""
    sources: dict[Signal, float] = field(default_factory=lambda: {"dense": 1.0})
    """Signal -> share of the negatives that it finds: dense, sparse, multi_vector, bm25, hybrid, random."""
    negatives_per_query: int = 7
    """How many to keep for each query, of all sources together."""
    rank_first: int = 1
    """First rank of the window they are taken from (1 is the nearest passage)."""
    rank_last: int = 100
    """Last rank of the window."""
    max_share_of_positive: float | None = 0.95
    """Drop what scores above this share of the positive's score (NV-Retriever's rule); null: off."""
    margin: float | None = None
    """Drop what scores above the positive's score less this; null: off."""
    max_score: float | None = None
    """Drop what scores above this; null: off."""
    near_duplicate: float | None = 0.8
    """Drop what shares this much of its words (Jaccard) with a positive; null: off."""
    agreement: tuple[Signal, ...] = ()
    """Two signals: drop what both of them rank above the best positive, whatever its score."""
    sampling: Literal["top", "weighted", "random"] = "top"
    """top: the first ranks of the window; weighted: sample it by seed, higher scores more often; random: sample it by
    seed, with fewer false negatives and less to learn from (docs/benchmarks.md, "Sources and filters")."""
    index: str = "auto"
    """FAISS factory string of the dense index, such as Flat, IVF4096,Flat, HNSW32, IVF4096,PQ48x8. auto: Flat (exact),
    IVF or IVF with PQ by the size of the corpus and the memory."""
    index_recall: float = 0.95
    """nprobe or efSearch is raised until so much of exact search's window is found, on a held sample of queries."""
    index_device: Literal["cpu", "gpu"] = "cpu"
    """Where FAISS searches. A GPU index is compared with exact search before it is trusted; without a GPU it is an
    error."""
    memory_gb: float = 4.0
    """Memory that a process's indexes may take; larger corpora are searched part by part."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Teacher scores, to filter with and to distil from."""
    seed: int = 0
    """Decides the sample."""
