"""Backbone and heads: loads any encoder, turns token ids into representations, saves a folder every reader takes."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bgetune.config import HEADS, Head, ModelConfig
from bgetune.device import this_device
from bgetune.errors import UserError
from bgetune.files import read_json, write_json
from bgetune.head_files import heads_state, read_heads, write_heads
from bgetune.heads import MCLS_EVERY, HeadLayers, TokenPlan, plan_tokens
from bgetune.layout import EncoderSpec, read_spec, write_layout
from bgetune.models import model_folder
from bgetune.representations import Representations

# how a configuration was stored, not what it describes
_NOT_OF_THE_MODEL = ("transformers_version", "dtype", "torch_dtype", "architectures")
_NOT_OF_THE_TOKENIZER = ("backend", "is_local", "local_files_only")
_BROKEN_WEIGHTS = (SafetensorError, pickle.UnpicklingError)


class Encoder(nn.Module):
    """A transformer encoder with its tokenizer, its heads, and the spec of how a text is read."""

    def __init__(
        self, backbone: Any, tokenizer: Any, spec: EncoderSpec, layers: HeadLayers, heads: Sequence[Head]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.spec = spec
        self.layers = layers
        """Every head the checkpoint brought, asked for or not, so that none is lost on the way."""
        self.heads: tuple[Head, ...] = tuple(head for head in HEADS if head in heads)
        """What it represents a text with, unless told otherwise."""
        self.reported: set[tuple[Path, str]] = set()
        """Files and roles whose overlong texts have been reported."""

    @classmethod
    def load(cls, config: ModelConfig, heads_from: Path | None = None) -> Encoder:
        """Load by folder, Hub id or PyPI package, in float32.

        Args:
            heads_from: a folder with heads that the model itself lacks.

        Raises:
            UserError: the model is not there, needs code of its own, or is shorter than the maximum lengths.
        """
        return cls.load_folder(model_folder(config), config, heads_from)

    @classmethod
    def load_folder(cls, folder: Path, config: ModelConfig, heads_from: Path | None = None) -> Encoder:
        """Load a local folder; `config` gives everything besides the weights."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        trust = config.trust_remote_code
        try:
            architecture = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
            backbone = _load_backbone(AutoModel, folder, architecture, trust)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, *_BROKEN_WEIGHTS) as error:
            reason = " ".join(str(error).split())
            if "trust_remote_code" in reason:
                reason = "it brings Python code of its own; read that code, then set model.trust_remote_code: true"
            elif isinstance(error, pickle.UnpicklingError):
                reason = "its pickled weights hold more than tensors, which could run any code; convert to safetensors"
            raise UserError(f"model.name_or_path: {folder} cannot be loaded: {reason[:300]}") from None
        layers = read_heads(folder, architecture.hidden_size)
        if heads_from is not None:
            layers.fill_in(read_heads(heads_from, architecture.hidden_size))
        heads = [head for head in HEADS if layers.has(head)] if config.heads == "auto" else config.heads
        encoder = cls(backbone.to(torch.float32), tokenizer, read_spec(folder, config), layers, heads)
        encoder._refuse_what_cannot_be(config)
        return encoder.to(this_device())

    def _refuse_what_cannot_be(self, config: ModelConfig) -> None:
        if len(self.tokenizer) <= len(self.tokenizer.all_special_ids):
            # transformers makes an empty one where the folder has none, and says nothing
            raise UserError(f"model.name_or_path: {self.tokenizer.name_or_path} holds no tokenizer; copy its files too")
        if self.spec.pooling == "mcls" and self.tokenizer.cls_token_id is None:
            raise UserError("model.pooling: mcls needs a tokenizer with a CLS token, and this one has none")
        wanted, layer = config.multi_vector_dim, self.layers.colbert_linear
        if wanted is not None and layer is not None and layer.out_features != wanted:
            raise UserError(
                f"model.multi_vector_dim: {wanted}, but the checkpoint's multi-vector head gives {layer.out_features} "
                "numbers a token; leave the option out"
            )
        limit = self.longest_input
        for role in ("query", "passage"):
            wanted = self.spec.max_length(role)
            if limit is not None and wanted > limit:
                raise UserError(f"model.{role}_max_length: {wanted} is more than the {limit} tokens the model takes")

    @property
    def longest_input(self) -> int | None:
        """Tokens the position embeddings allow; None where positions have no table."""
        limit = getattr(self.backbone.config, "max_position_embeddings", None)
        offset = getattr(getattr(self.backbone, "embeddings", None), "padding_idx", None)
        # RoBERTa's and XLM-R's positions start behind the padding id: 514 rows for 512 tokens
        return limit if limit is None or offset is None else limit - offset - 1

    @property
    def width(self) -> int:
        """D, the length of a dense vector."""
        return self.backbone.config.hidden_size

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def absent_heads(self) -> tuple[Head, ...]:
        """Heads that are asked for and have no weights yet."""
        return tuple(head for head in self.heads if not self.layers.has(head))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        heads: Sequence[Head] | None = None,
        embedded: Tensor | None = None,
        plan: TokenPlan | None = None,
    ) -> Representations:
        """Token ids and mask, both [N, L], to what the heads make of the N texts.

        Args:
            heads: which; None: all of the encoder's.
            embedded: float [N, L, H], the input embeddings of `input_ids`, where they were looked up before.
            plan: of these ids, where it was made before.
        """
        tokens = {"input_ids": input_ids} if embedded is None else {"inputs_embeds": embedded}
        states = self.backbone(attention_mask=attention_mask, **tokens).last_hidden_state
        wanted = self.heads if heads is None else heads
        # the dense head alone needs no plan, and making one takes time
        if plan is None and (tuple(wanted) != ("dense",) or self.spec.pooling == "mcls"):
            plan = self.plan(input_ids.cpu(), attention_mask.cpu())
        return self.layers.represent(states, attention_mask, plan, wanted, self.spec.pooling, self.spec.normalize)

    def plan(self, input_ids: Tensor, attention_mask: Tensor) -> TokenPlan:
        """Which tokens of a padded batch count; special tokens are those of the tokenizer's own list."""
        special = torch.tensor(sorted(self.tokenizer.all_special_ids), dtype=torch.int64)
        return plan_tokens(input_ids, attention_mask, special, self.tokenizer.cls_token_id)

    def tokenize(self, texts: Sequence[str], role: str) -> tuple[list[list[int]], list[int]]:
        """Token ids of each text, instruction before it, cut to the role's maximum; and which texts were cut."""
        instruction = self.spec.instruction(role)
        limit = self.spec.max_length(role)
        mcls = self.spec.pooling == "mcls"
        batch = self.tokenizer(
            [instruction + text for text in texts],
            truncation=True,
            # with mcls, room for the CLS tokens that will be inserted
            max_length=limit - (limit - 1) // (MCLS_EVERY + 1) if mcls else limit,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        cut = [i for i, encoding in enumerate(batch.encodings or []) if encoding.overflowing]
        return [self._with_cls(ids) for ids in batch["input_ids"]] if mcls else batch["input_ids"], cut

    def _with_cls(self, token_ids: list[int]) -> list[int]:
        """A CLS before every 256 tokens; the first is there already."""
        body = token_ids[1:]
        blocks = [body[at : at + MCLS_EVERY] for at in range(0, max(len(body), 1), MCLS_EVERY)]
        return [token for block in blocks for token in (self.tokenizer.cls_token_id, *block)]

    def pad(self, token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids of N texts to `input_ids` and `attention_mask`, both [N, L] with L the longest of them."""
        longest = max(len(ids) for ids in token_ids)
        pad_id = self.tokenizer.pad_token_id or 0
        ids = torch.full((len(token_ids), longest), pad_id, dtype=torch.long)
        mask = torch.zeros((len(token_ids), longest), dtype=torch.long)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[row, : len(tokens)] = 1
        return ids, mask

    @property
    def has_adapters(self) -> bool:
        """Whether the backbone is wrapped by peft."""
        return hasattr(self.backbone, "merge_and_unload")

    @property
    def attention(self) -> str:
        """transformers' implementation of attention in use."""
        return str(self.backbone.config._attn_implementation)

    def use_attention(self, name: str) -> None:
        """Change to another implementation, `sdpa` or `eager`; the result is the same but for rounding."""
        if name != self.attention:
            self.backbone.set_attn_implementation(name)

    def weights_hash(self) -> str:
        """SHA-256 of what decides a text's vector: spec, architecture, tokenizer, every parameter by its name."""
        settings = [asdict(self.spec), self._architecture(), self._tokenization()]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted({**self.backbone.state_dict(), **heads_state(self.layers)}.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _architecture(self) -> dict[str, Any]:
        told = self.backbone.config.to_dict()
        return {k: str(v) for k, v in told.items() if not k.startswith("_") and k not in _NOT_OF_THE_MODEL}

    def _tokenization(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return str(sorted(self.tokenizer.get_vocab().items()))
        rules = json.loads(backend.to_str())
        return json.dumps({key: value for key, value in rules.items() if key not in ("truncation", "padding")})

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write weights (safetensors), configuration, tokenizer and sentence-transformers' files into `folder`."""
        # LoRA's adapters are merged, so that the folder is a plain model
        plain = copy.deepcopy(self.backbone).merge_and_unload() if self.has_adapters else self.backbone
        state = {
            name: t.detach().cpu().to(dtype) if t.is_floating_point() else t for name, t in plain.state_dict().items()
        }
        plain.save_pretrained(folder, state_dict=state, safe_serialization=True)
        _say_dtype(folder / "config.json", dtype)
        write_heads(folder, self.layers, dtype)
        if self.layers.has("sparse") and self.tokenizer.eos_token is None:
            # FlagEmbedding leaves out the lexical weight of EOS; BERT's tokenizers have one only by the name of SEP
            self.tokenizer.eos_token = self.tokenizer.sep_token
        # a fast tokenizer remembers its last call; a reader of the raw file would cut passages as queries
        if (backend := getattr(self.tokenizer, "backend_tokenizer", None)) is not None:
            backend.no_truncation()
            backend.no_padding()
        self.tokenizer.model_max_length = max(self.spec.query_max_length, self.spec.passage_max_length)
        self.tokenizer.save_pretrained(folder)
        _tidy_tokenizer_settings(folder / "tokenizer_config.json")
        write_layout(folder, self.spec, self.width)


def _say_dtype(path: Path, dtype: torch.dtype) -> None:
    """transformers writes down what the model in memory is in, not what the weights are stored in."""
    told = read_json(path)
    key = "torch_dtype" if "torch_dtype" in told else "dtype"
    write_json(path, {**told, key: str(dtype).removeprefix("torch.")})


def _tidy_tokenizer_settings(path: Path) -> None:
    """Without how the tokenizer came here, which transformers 5 notes too: offline, the same model gave other bytes.

    It also has a name of its own for a tokenizer without a class, which 4 does not know; both know the other.
    """
    told = {key: value for key, value in read_json(path).items() if key not in _NOT_OF_THE_TOKENIZER}
    if told.get("tokenizer_class") == "TokenizersBackend":
        told["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, told)


def _load_backbone(auto_model: Any, folder: Path, architecture: Any, trust: bool) -> Any:
    """Without the pooler where the class allows: BGE never uses it, and one that is absent would be random."""
    extra = {"add_pooling_layer": False} if _has_pooler(auto_model, architecture) else {}
    backbone, found = auto_model.from_pretrained(
        folder, config=architecture, trust_remote_code=trust, output_loading_info=True, **extra
    )
    absent = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(f"its weights lack {absent[0]}{more}, which would be random")
    return backbone


def _has_pooler(auto_model: Any, architecture: Any) -> bool:
    import inspect

    if type(architecture) not in auto_model._model_mapping:
        return False
    model_class = auto_model._model_mapping[type(architecture)]
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
