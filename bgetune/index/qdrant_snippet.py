"""A few lines of Python that ask a collection and get bgetune's own ranking, to begin an application with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bgetune.config import HEADS
from bgetune.encoder import Encoder
from bgetune.index.qdrant import KEY, is_local, shown
from bgetune.index.qdrant_search import OVERSAMPLING, factors_of
from bgetune.layout import flag_model_settings

_DENSE = """\
import os
from qdrant_client import QdrantClient{models}
from sentence_transformers import SentenceTransformer

client = {client}
model = SentenceTransformer({model})
{params}

def search(question, limit=10):
    vector = model.encode({prompt}question).tolist()
    return client.query_points({alias}, query=vector, using="dense", limit=limit, with_payload=True{how}).points
"""

_HYBRID = """\
import os
from FlagEmbedding import BGEM3FlagModel
from qdrant_client import QdrantClient, models

client = {client}
model = BGEM3FlagModel({model}, {settings})
exact = models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
{params}

def search(question, limit=10):
    found = model.encode_queries([question], return_dense=True, return_sparse=True, return_colbert_vecs=True)
    words = found["lexical_weights"][0]
    vectors = {{
        "dense": found["dense_vecs"][0].tolist(),
        "sparse": models.SparseVector(indices=[*map(int, words)], values=[*map(float, words.values())]),
        "multi_vector": found["colbert_vecs"][0].tolist(),
    }}
    factors = {{{factors}}}
    # the {candidates} best of dense and of sparse, each of them scored by every head, exactly, and the scores added up
    near = [models.Prefetch(query=vectors[head], using=head, limit={candidates}{how}) for head in ("dense", "sparse")]
    scored = [
        models.Prefetch(prefetch=near, query=vectors[head], using=head, limit={most}, params=exact) for head in factors
    ]
    terms = [models.MultExpression(mult=[factor, f"$score[{{i}}]"]) for i, factor in enumerate(factors.values())]
    total = models.FormulaQuery(formula=models.SumExpression(sum=terms))
    return client.query_points({alias}, prefetch=scored, query=total, limit=limit, with_payload=True).points
"""

_TWO_HEADS = """\
import os
from qdrant_client import QdrantClient
from bgetune.config import JobConfig
from bgetune.data import Texts
from bgetune.encode import encode
from bgetune.index.qdrant_search import search_collection
from bgetune.named_models import named_model

client = {client}
model = named_model({job}, JobConfig(), "--model")
encoder = model.load()


def search(question, limit=10):
    asked = encode(encoder, Texts(["question"], [question]), "query", model.config, "question", encoder.heads)
    weights = {weights}
    (found,) = search_collection(
        client, {alias}, asked, [0], {similarity}, "hybrid", limit, {candidates}, weights{how}
    )
    return found  # passage id -> score
"""

_PARAMS = f"""\
# what the codes find is scored with the whole vectors
rescored = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling={OVERSAMPLING})
)
"""

_USE = """

for point in search({question}):
    print(point.payload["id"], point.score)
"""
_USE_TWO = """

for passage_id, score in search({question}).items():
    print(passage_id, score)
"""


def snippet(
    location: str,
    alias: str,
    encoder: Encoder,
    weights: Mapping[str, float],
    candidates: int,
    export: str,
    job: str,
    question: str,
    quantized: bool = False,
) -> str:
    """Python that asks the alias `question`.

    Args:
        encoder: the model; FlagEmbedding reads three heads or one, and with two bgetune itself encodes the question.
        weights: of each head in the hybrid score.
        candidates: best passages of dense and of sparse that are scored.
        export: the model's exported folder, which needs no bgetune.
        job: what `bgetune index` was given, a job's or a model's folder.
        quantized: dense vectors are also kept in fewer bits.
    """
    spec, heads, local = encoder.spec, encoder.heads, is_local(location)
    folder = str(Path(location).expanduser().absolute())
    place = f"path={_quoted(folder)}" if local else f'{_quoted(shown(location))}, api_key=os.environ.get("{KEY}")'
    fields = {"client": f"QdrantClient({place})", "alias": _quoted(alias), "model": _quoted(export)}
    fields |= dict.fromkeys(("params", "models", "how"), "") | {"candidates": str(candidates)}
    if quantized and not local:
        fields |= {"params": _PARAMS, "models": ", models", "how": ", params=rescored"}
    if set(heads) == set(HEADS):
        factors = _factors(encoder, weights)
        text = _HYBRID.format(**fields, settings=_settings(encoder), factors=factors, most=2 * candidates)
    elif len(heads) == 1:
        prompt = f"{_quoted(spec.query_instruction)} + " if spec.query_instruction else ""
        text = _DENSE.format(**{**fields, "how": fields["how"].replace("params", "search_params")}, prompt=prompt)
    else:
        shares = {head: weights[head] for head in heads}
        told = {"job": _quoted(job), "weights": json.dumps(shares), "similarity": _quoted(spec.similarity)}
        text = _TWO_HEADS.format(**{**fields, "how": ", quantized=True" if fields["how"] else ""}, **told)
    use = _USE_TWO if len(heads) == 2 else _USE
    return text.removeprefix("import os\n" if local else "") + use.format(question=_quoted(question))


def _quoted(text: str) -> str:
    """
    >>> print(_quoted('say "yes"'))
    "say \\"yes\\""
    """
    return json.dumps(text, ensure_ascii=False)


def _settings(encoder: Encoder) -> str:
    """What FlagEmbedding must be told, as arguments."""
    settings = flag_model_settings(encoder.spec)
    settings.pop("passage_instruction_for_retrieval", None)
    width = getattr(encoder.layers.colbert_linear, "out_features", encoder.width)
    if width != encoder.width:
        settings["colbert_dim"] = width
    return ", ".join(f"{option}={value!r}" for option, value in settings.items())


def _factors(encoder: Encoder, weights: Mapping[str, float]) -> str:
    """The heads that count, and what each one's score is multiplied with, as the inside of a dict."""
    heads = [head for head in HEADS if head == "dense" or weights.get(head)]
    factors = factors_of(weights, heads, encoder.spec.similarity, tokens=1)
    mean = {"multi_vector": ' / len(vectors["multi_vector"])'}
    return ", ".join(f'"{head}": {factor!r}{mean.get(head, "")}' for head, factor in factors.items())
