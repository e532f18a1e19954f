"""How to use the model: a snippet for each reader of it. Every one that is Python is run by tests/test_card.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bgetune.config import HEADS, Head, JobConfig
from bgetune.config_export import FORM_FOLDERS, Form, OnnxPrecision, branch_of
from bgetune.encoder import Encoder
from bgetune.export.card_metadata import served_elsewhere
from bgetune.export.card_named import PATH_OR_ID
from bgetune.export.forms_card import POOLED, SCORES
from bgetune.export.forms_card import usage as form_usage
from bgetune.export.onnx import usage as onnx_usage
from bgetune.export.onnx_read import ONNX_FILES
from bgetune.export.readers import flag_model_reads, m3_heads, m3_settings
from bgetune.head_files import HEADS_FILE
from bgetune.layout import EncoderSpec, flag_model_settings

WORDS: dict[str, str] = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector"}
"""Heads as they are called in sentences."""
_LAYERS = {"sparse": "sparse_linear", "multi_vector": "colbert_linear"}


def usage(config: JobConfig, encoder: Encoder, forms: Sequence[Form] = ()) -> list[str]:
    """Headings and snippets: the folder in every library that reads it, then the folders beside it."""
    parts = ["### sentence-transformers", _sentence_transformers()]
    flag = [_flag_model(encoder.spec)] if flag_model_reads(encoder) else []
    if flag := [*flag, *_heads(config, encoder)]:
        parts += ["### FlagEmbedding", *flag]
    parts += ["### transformers", _transformers(encoder.spec)]
    if config.export.onnx:
        parts += _onnx(config.export.onnx, encoder)
    for form in forms:
        parts += _form(form, config, encoder)
    if served_elsewhere(encoder):
        parts += ["### Servers", _servers(encoder.spec)]
    return parts


def _onnx(precisions: Sequence[OnnxPrecision], encoder: Encoder) -> list[str]:
    graphs = " and ".join(f"`onnx/{ONNX_FILES[precision]}` ({precision})" for precision in precisions)
    held = f"One graph for all heads, pooling included: {graphs}."
    if (snippet := onnx_usage(encoder)) is None:
        return ["### onnxruntime", held]
    if "fp32" not in precisions:
        snippet = snippet.replace(ONNX_FILES["fp32"], ONNX_FILES["int8"])
    return ["### onnxruntime", f"{held} `hf download {PATH_OR_ID} --local-dir PATH` fetches the folder.", snippet]


def _form(form: Form, config: JobConfig, encoder: Encoder) -> list[str]:
    folder = FORM_FOLDERS[form]
    place = f"the folder `{folder}` beside this one; on the Hub, the branch `{branch_of(folder)}`"
    if form == "adapter":
        return ["### peft", f"The LoRA adapter by itself is in {place}."]
    title = {"multi_vector_encoder": "MultiVectorEncoder", "sparse_encoder": "SparseEncoder"}[form]
    head = {"multi_vector_encoder": "multi-vector", "sparse_encoder": "sparse"}[form]
    return [
        f"### sentence-transformers' {title}",
        f"The {head} head, in {place}.",
        form_usage(form, encoder, config, f"{PATH_OR_ID}-{branch_of(folder)}"),
    ]


def hybrid(config: JobConfig, heads: Sequence[Head]) -> str:
    """The weighted sum of the heads' scores."""
    return " + ".join(f"{getattr(config.train, head).ensemble_weight:g} * {head}" for head in heads)


def heads_in_words(heads: Sequence[Head]) -> str:
    """
    >>> heads_in_words(["sparse"]), heads_in_words(["sparse", "multi_vector"])
    ('sparse head', 'sparse and multi-vector heads')
    """
    return " and ".join(WORDS[head] for head in heads) + (" head" if len(heads) == 1 else " heads")


def _sentence_transformers() -> str:
    # the instructions are in config_sentence_transformers.json, as the prompts of the two methods
    return f"""```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{PATH_OR_ID}")
queries = model.encode_query(["a question"])
passages = model.encode_document(["a passage"])
print(model.similarity(queries, passages))
```"""


def _flag_model(spec: EncoderSpec) -> str:
    return f"""```python
{_numpy(spec)}from FlagEmbedding import FlagModel

model = FlagModel(
    "{PATH_OR_ID}",
{_arguments(flag_model_settings(spec))})
query = model.encode_queries(["a question"])[0]
passage = model.encode_corpus(["a passage"])[0]
print({_similarity(spec, "query", "passage")})
```"""


def _transformers(spec: EncoderSpec) -> str:
    pooled = POOLED[spec.pooling_elsewhere]
    mask = '    mask = batch["attention_mask"].unsqueeze(-1)\n' if "mask" in pooled else ""
    normalized = f"torch.nn.functional.normalize({pooled}, dim=1)" if spec.normalize else pooled
    return f"""```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{PATH_OR_ID}")
model = AutoModel.from_pretrained("{PATH_OR_ID}").eval()


def embed(texts, max_length, instruction=""):
    texts = [instruction + text for text in texts]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state.float()
{mask}    return {normalized}


queries = embed(["a question"], {spec.query_max_length}{_instruction(spec.query_instruction)})
passages = embed(["a passage"], {spec.passage_max_length}{_instruction(spec.passage_instruction)})
print({SCORES[spec.compared_by]})
```"""


def _instruction(text: str) -> str:
    return f", instruction={text!r}" if text else ""


def _servers(spec: EncoderSpec) -> str:
    told = {"query": spec.query_instruction, "passage": spec.passage_instruction}
    before = [f"`{text}` before every {role}" for role, text in told.items() if text]
    put = f" Put {' and '.join(before)} yourself." if before else ""
    image = "ghcr.io/huggingface/text-embeddings-inference:cpu-latest"
    return f"""The dense vectors alone; these commands were not run.{put}

```bash
docker run -p 8080:80 -v "$PWD:/data" {image} --model-id {PATH_OR_ID}
vllm serve {PATH_OR_ID} --runner pooling
```"""


def _heads(config: JobConfig, encoder: Encoder) -> list[str]:
    """The sparse and multi-vector heads: FlagEmbedding's M3 reader where it can, and else why it cannot."""
    held: list[Head] = [head for head in HEADS if head != "dense" and encoder.layers.has(head)]
    asked = [head for head in held if head in encoder.heads]
    readable = m3_heads(encoder)
    parts = []
    if asked and readable:
        parts.append(_m3_model(config, encoder, [head for head in encoder.heads if head in readable]))
        if "dense" not in readable:
            parts.append("FlagEmbedding has no pooling by max, and so not this model's dense vectors.")
    elif asked:
        names = " and ".join(f"`{_LAYERS[head]}`" for head in asked)
        why = "it needs a CLS token" if len(held) == 2 else "without both heads' files it takes random weights for both"
        parts.append(
            f"The {heads_in_words(asked)} {'is' if len(asked) == 1 else 'are'} in `{HEADS_FILE}`, as weight and bias "
            f"of {names}: a linear layer on the last hidden states. FlagEmbedding's `BGEM3FlagModel` cannot read this "
            f"folder: {why}."
        )
    if carried := [head for head in held if head not in encoder.heads]:
        parts.append(f"The base model's {heads_in_words(carried)} came along, neither trained nor measured.")
    return parts


def _m3_model(config: JobConfig, encoder: Encoder, heads: Sequence[Head]) -> str:
    scores = {
        "dense": _similarity(encoder.spec, 'query["dense_vecs"][0]', 'passage["dense_vecs"][0]'),
        "sparse": 'model.compute_lexical_matching_score(query["lexical_weights"][0], passage["lexical_weights"][0])',
        "multi_vector": 'float(model.colbert_score(query["colbert_vecs"][0], passage["colbert_vecs"][0]))',
    }
    lines = "".join(f"{head} = {scores[head]}\n" for head in heads)
    whole = set(heads) == set(encoder.heads)
    together = f"print({hybrid(config, heads)})  # hybrid\n" if whole else ""
    return f"""```python
{_numpy(encoder.spec)}from FlagEmbedding import BGEM3FlagModel

model = BGEM3FlagModel(
    "{PATH_OR_ID}",
{_arguments(m3_settings(encoder, heads))})
query = model.encode_queries(["a question"])
passage = model.encode_corpus(["a passage"])
{lines}print({", ".join(heads)})
{together}```"""


def _arguments(settings: dict[str, Any]) -> str:
    return "".join(f"    {key}={value!r},\n" for key, value in settings.items())


def _numpy(spec: EncoderSpec) -> str:
    return "import numpy as np\n" if spec.compared_by != "product" else ""


def _similarity(spec: EncoderSpec, query: str, passage: str) -> str:
    """Python that scores two vectors as the model's similarity has it.

    >>> _similarity(EncoderSpec("cls", True, "cosine", "", "", 64, 256), "q", "p")  # of length 1
    'q @ p'
    >>> _similarity(EncoderSpec("cls", False, "cosine", "", "", 64, 256), "q", "p")
    'q @ p / (np.linalg.norm(q) * np.linalg.norm(p))'
    """
    return {
        "product": f"{query} @ {passage}",
        "cosine": f"{query} @ {passage} / (np.linalg.norm({query}) * np.linalg.norm({passage}))",
        "euclidean": f"-np.linalg.norm({query} - {passage})",
    }[spec.compared_by]
