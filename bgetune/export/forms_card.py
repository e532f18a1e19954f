"""README.md of each form beside the export, and the snippet that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from bgetune.config import JobConfig
from bgetune.config_export import Form
from bgetune.encoder import Encoder
from bgetune.export.card_licence import front_matter, is_hub_id
from bgetune.export.card_metadata import title_of
from bgetune.layout import EncoderSpec

_TAGS: dict[Form, list[str]] = {
    "multi_vector_encoder": ["sentence-transformers", "multi-vector", "late-interaction", "colbert"],
    "sparse_encoder": ["sentence-transformers", "sparse-encoder", "sparse"],
    "adapter": ["peft", "lora", "feature-extraction"],
}
_TITLES: dict[Form, str] = {
    "multi_vector_encoder": "the multi-vector head, for sentence-transformers' MultiVectorEncoder",
    "sparse_encoder": "the sparse head, for sentence-transformers' SparseEncoder",
    "adapter": "the adapter by itself",
}
# what the card of the main folder says of them holds for each form
_PASSED_ON = ("license", "license_name", "license_link", "language", "base_model", "base_model_relation")
POOLED = {
    "cls": "states[:, 0]",
    "mean": "(states * mask).sum(1) / mask.sum(1)",
    "max": "states.masked_fill(mask == 0, -torch.inf).amax(1)",
}
"""Pooling -> Python that makes dense vectors [N, D] of `states` [N, L, D] and `mask` [N, L, 1]."""
SCORES = {
    "product": "queries @ passages.T",
    "cosine": "torch.nn.functional.cosine_similarity(queries[:, None], passages[None], dim=2)",
    "euclidean": "-torch.cdist(queries, passages)",
}
_MCLS = (
    "Texts of over 256 tokens were measured with more than one CLS token (`model.pooling: mcls`), which this reader "
    "does not insert: it gives something else for them."
)


def usage(form: Form, encoder: Encoder, config: JobConfig, path: str = "PATH") -> str:
    """Markdown with Python that loads a form and scores a question and a passage.

    Args:
        path: of the form's folder.
    """
    place = f'"{path}"'
    snippets: dict[Form, Callable[[], str]] = {
        "multi_vector_encoder": lambda: _sentence_transformers("MultiVectorEncoder", place),
        "sparse_encoder": lambda: _sentence_transformers("SparseEncoder", f"{place}, trust_remote_code=True"),
        "adapter": lambda: _peft(encoder.spec, config, place),
    }
    return f"```python\n{snippets[form]()}```"


def _sentence_transformers(name: str, place: str) -> str:
    words = "print(model.decode(queries))\n" if name == "SparseEncoder" else ""
    return f"""from sentence_transformers import {name}

model = {name}({place})
queries = model.encode_query(["a question"])
passages = model.encode_document(["a passage"])
print(model.similarity(queries, passages))
{words}"""


def _peft(spec: EncoderSpec, config: JobConfig, place: str) -> str:
    base = json.dumps(config.model.name_or_path, ensure_ascii=False)
    base += f', revision="{config.model.revision}"' if config.model.revision else ""
    length = "vectors = torch.nn.functional.normalize(vectors, dim=-1)\n    " if spec.normalize else ""
    texts = [f"{spec.query_instruction}a question", f"{spec.passage_instruction}a passage"]
    return f"""import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(AutoModel.from_pretrained({base}), {place}).eval()


def encode(texts, max_length):
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = {POOLED[spec.pooling_elsewhere]}
    {length}return vectors


queries = encode([{texts[0]!r}], {spec.query_max_length})
passages = encode([{texts[1]!r}], {spec.passage_max_length})
print({SCORES[spec.compared_by]})
"""


def form_card(form: Form, main: Path, encoder: Encoder, config: JobConfig) -> str:
    """README.md of a form, with the Hub's metadata on top; licence and language are what the main card says.

    Args:
        main: the export that the form stands beside.
    """
    library = "peft" if form == "adapter" else "sentence-transformers"
    values = {key: value for key, value in front_matter(main / "README.md").items() if key in _PASSED_ON}
    values |= {"library_name": library, "pipeline_tag": "feature-extraction", "tags": [*_TAGS[form], "bgetune"]}
    if form == "adapter" and "base_model" in values:
        values["base_model_relation"] = "adapter"
    about: dict[Form, Callable[[Encoder, JobConfig], list[str]]] = {
        "multi_vector_encoder": _about_multi_vector,
        "sparse_encoder": _about_sparse,
        "adapter": _about_adapter,
    }
    parts = [
        f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---",
        f"# {title_of(config)}: {_TITLES[form]}",
        "What was measured, how it was made and all its heads: the folder `export` beside this one; on the Hub, the "
        "branch `main`.",
        usage(form, encoder, config),
        *about[form](encoder, config),
    ]
    return "\n\n".join(parts) + "\n"


def _about_multi_vector(encoder: Encoder, config: JobConfig) -> list[str]:
    spec = encoder.spec
    length = "vectors of length 1" if spec.normalize else "vectors that are not scaled"
    return [
        "Needs sentence-transformers 6.0 or later, and no code from this repository. Every token but CLS and padding "
        f"has a vector ({length}); no [MASK] is added to queries and no punctuation is left out.",
        "`model.similarity` is `meanmaxsim`, BGE-M3's score: MaxSim divided by the number of the query's tokens. "
        'sentence-transformers\' default is the sum: `model.similarity_fn_name = "maxsim"`. For one query both rank '
        "alike.",
        _limits(spec),
    ]


def _about_sparse(encoder: Encoder, config: JobConfig) -> list[str]:
    spec = encoder.spec
    parts = [
        "Needs sentence-transformers 5.0 or later. `trust_remote_code=True` runs `lexical_weights.py` of this folder, "
        "a short file: read it first. sentence-transformers has no module of its own for a weight that each token of "
        "a text gets, ReLU(w h + b), the largest where a token is repeated.",
        _limits(spec),
    ]
    if spec.query_max_length != spec.passage_max_length:
        longest = max(spec.query_max_length, spec.passage_max_length)
        parts.append(f"sentence-transformers before 6.0 has one limit for both, {longest} tokens.")
    return parts


def _about_adapter(encoder: Encoder, config: JobConfig) -> list[str]:
    lora, base = config.train.lora, config.model.name_or_path
    parts = [
        f"LoRA of rank {lora.rank} and alpha {lora.alpha:g}, in the precision of training. The base model is `{base}`; "
        "the weights of the main folder are both together."
    ]
    if not is_hub_id(base):
        parts.append(f"`{base}` is no model on the Hub: put the folder of that model in place of this name.")
    if held := [name for name, layer in encoder.layers.named_children() if layer is not None]:
        names = " and ".join(f"`{name}`" for name in held)
        parts.append(f"`heads.safetensors` holds {names}: linear layers on the last hidden states.")
    return parts + ([_MCLS] if encoder.spec.pooling == "mcls" else [])


def _limits(spec: EncoderSpec) -> str:
    told = (
        f"`encode_query` cuts at {spec.query_max_length} tokens and `encode_document` at {spec.passage_max_length}, as "
        "they were measured."
    )
    return f"{told} {_MCLS}" if spec.pooling == "mcls" else told
