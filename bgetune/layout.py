"""The sentence-transformers files of a model folder: how its token states become one vector.

Without `modules.json` sentence-transformers pools by mean and does not normalise, silently, which is
wrong for BGE; so every folder we write has these files, under the module names every version reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bgetune.config import ModelConfig, Similarity
from bgetune.errors import UserError
from bgetune.files import read_json, write_json

Pooling = Literal["cls", "mean", "max", "mcls"]


@dataclass(frozen=True)
class EncoderSpec:
    """Everything besides the weights that decides what vector a text gets."""

    pooling: Pooling
    normalize: bool
    similarity: Similarity
    query_instruction: str
    passage_instruction: str
    query_max_length: int
    passage_max_length: int

    @property
    def pooling_elsewhere(self) -> Pooling:
        """What other readers are told; none of them inserts CLS tokens, and up to 256 tokens it is the same."""
        return "cls" if self.pooling == "mcls" else self.pooling

    @property
    def compared_by(self) -> Literal["product", "cosine", "euclidean"]:
        """What scores two of its dense vectors; the cosine of vectors of length 1 is their product.

        >>> EncoderSpec("cls", True, "cosine", "", "", 64, 256).compared_by
        'product'
        >>> EncoderSpec("cls", False, "cosine", "", "", 64, 256).compared_by
        'cosine'
        """
        if self.similarity == "euclidean":
            return "euclidean"
        return "product" if self.normalize or self.similarity == "dot" else "cosine"

    def instruction(self, role: str) -> str:
        return self.query_instruction if role == "query" else self.passage_instruction

    def max_length(self, role: str) -> int:
        return self.query_max_length if role == "query" else self.passage_max_length


def read_spec(folder: Path, config: ModelConfig) -> EncoderSpec:
    """The configuration's spec; what it leaves to `auto` is read from the folder, else it is BGE's."""
    pooling, normalize = _pooling_in(folder), _normalize_in(folder)
    return EncoderSpec(
        pooling=(pooling or "cls") if config.pooling == "auto" else config.pooling,
        normalize=(True if normalize is None else normalize) if config.normalize == "auto" else config.normalize,
        similarity=config.similarity,
        query_instruction=config.query_instruction,
        passage_instruction=config.passage_instruction,
        query_max_length=config.query_max_length,
        passage_max_length=config.passage_max_length,
    )


def _modules_in(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    modules = read_json(path) if path.is_file() else []
    for module in modules:
        kind = module.get("type", "").rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"model.name_or_path: {path} has a module {kind!r}, which is not supported; it would be lost"
            )
    return modules


def _pooling_in(folder: Path) -> Pooling | None:
    for module in _modules_in(folder):
        path = folder / module.get("path", "") / "config.json"
        if module.get("type", "").endswith("Pooling") and path.is_file():
            return _pooling_mode(read_json(path), path)
    return None


def _pooling_mode(settings: dict[str, Any], path: Path) -> Pooling:
    modes: dict[Pooling, str] = {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
    }
    found = [mode for mode in modes if settings.get(modes[mode]) or settings.get("pooling_mode") == mode]
    if len(found) != 1:
        raise UserError(f"model.pooling: {path} asks for a pooling that is none of cls, mean, max; set model.pooling")
    return found[0]


def _normalize_in(folder: Path) -> bool | None:
    modules = _modules_in(folder)
    return any(module.get("type", "").endswith("Normalize") for module in modules) if modules else None


def flag_model_settings(spec: EncoderSpec) -> dict[str, Any]:
    """What FlagEmbedding's `FlagModel` must be told to give our vectors, since it reads none of it from the folder."""
    settings: dict[str, Any] = {
        "pooling_method": spec.pooling_elsewhere,
        "normalize_embeddings": spec.normalize,
        "query_max_length": spec.query_max_length,
        "passage_max_length": spec.passage_max_length,
        "use_fp16": False,
    }
    if spec.query_instruction:
        settings["query_instruction_for_retrieval"] = spec.query_instruction
    if spec.passage_instruction:
        settings["passage_instruction_for_retrieval"] = spec.passage_instruction
    return settings


def write_layout(folder: Path, spec: EncoderSpec, width: int) -> None:
    """Write modules.json and what it names. `width`: D, the length of a vector."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + (
        [("2_Normalize", "Normalize")] if spec.normalize else []
    )
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", rows)
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": spec.pooling_elsewhere == "cls",
        "pooling_mode_mean_tokens": spec.pooling_elsewhere == "mean",
        "pooling_mode_max_tokens": spec.pooling_elsewhere == "max",
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write_json(folder / "1_Pooling" / "config.json", pooling)
    if spec.normalize:
        # sentence-transformers from 5.0 on reads a config where there is a folder; older ones ignore it
        write_json(folder / "2_Normalize" / "config.json", {})
    longest = max(spec.query_max_length, spec.passage_max_length)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    prompts = {"query": spec.query_instruction, "document": spec.passage_instruction}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": spec.similarity}
    write_json(folder / "config_sentence_transformers.json", settings)
