"""BGE-M3's lexical weights as a module of sentence-transformers' SparseEncoder. Needs torch and sentence-transformers.

From bgetune, Apache-2.0. This file lies in the model's folder as `lexical_weights.py`, and modules.json names it:
sentence-transformers has no module of its own that gives one weight to each token of a text.

Shapes: N texts, L tokens with padding, T tokens of all texts together, H hidden size, V vocabulary.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

try:
    from sentence_transformers.base.modules.module import Module
except ImportError:  # before sentence-transformers 5.4
    from sentence_transformers.models import Module


class LexicalWeights(Module):
    """Token states to a vector over the vocabulary: ReLU(w h + b) at a token's id, the largest where it is repeated.

    Section 3.1 of BGE-M3 (arXiv 2402.03216). Special tokens weigh 0. In float32, whatever the states are in.
    """

    config_keys: ClassVar[list[str]] = ["width", "vocabulary", "special_ids", "query_length", "document_length"]

    def __init__(
        self, width: int, vocabulary: int, special_ids: list[int], query_length: int, document_length: int
    ) -> None:
        super().__init__()
        self.width = width
        self.vocabulary = vocabulary
        self.special_ids = special_ids
        self.query_length = query_length
        """Tokens that a query is cut to; for `encode_query` of sentence-transformers from 6.0 on."""
        self.document_length = document_length
        self.linear = nn.Linear(width, 1)
        self.register_buffer("special", torch.tensor(special_ids, dtype=torch.long), persistent=False)

    def on_model_ready(self, model: Any) -> None:
        """sentence-transformers 6 calls this; the versions before it have one limit for queries and documents."""
        model[0].query_length, model[0].document_length = self.query_length, self.document_length

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """From `token_embeddings` [N, L, H] and `input_ids` [N, L] to `sentence_embedding` [N, V], never [N, L, V]."""
        ids, states = features["input_ids"], features["token_embeddings"]
        counts = ~torch.isin(ids, self.special)
        if "cu_seq_lens_q" in features:  # without padding, for flash attention: all texts in one row, [1, T]
            lengths = features["cu_seq_lens_q"].diff().long()
            texts = len(lengths)
            rows = torch.repeat_interleave(torch.arange(texts, device=ids.device), lengths).unsqueeze(0)
        else:
            texts = len(ids)
            rows = torch.arange(texts, device=ids.device).unsqueeze(1).expand_as(ids)
            counts = counts & features["attention_mask"].bool()
        weights = nn.functional.linear(states.float(), self.linear.weight.float(), self.linear.bias.float())
        weights = torch.relu(weights.squeeze(-1)) * counts
        places = rows * self.vocabulary + ids
        vectors: Tensor = weights.new_zeros(texts * self.vocabulary)
        vectors = vectors.scatter_reduce(0, places.flatten(), weights.flatten(), reduce="amax")
        features["sentence_embedding"] = vectors.view(texts, self.vocabulary)
        return features

    def get_embedding_dimension(self) -> int:
        """V."""
        return self.vocabulary

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 5.4

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and weights; and this file, which is looked for at the top of the model's folder."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        shutil.copy(__file__, Path(output_path).parent / "lexical_weights.py")

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> LexicalWeights:
        """From a folder or from the Hub."""
        where: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **where))
        return cls.load_torch_weights(model_name_or_path, model=module, **where)
