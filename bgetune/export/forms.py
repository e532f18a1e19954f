"""Folders beside the export: sentence-transformers' MultiVectorEncoder and SparseEncoder, and the adapter by itself.

Their weights are the export's own files, hard-linked. What they are read with is written here; nothing is trained,
and no number is changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from bgetune.config import Head, JobConfig
from bgetune.config_export import FORM_FOLDERS, ExportConfig, Form
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.export.forms_card import form_card
from bgetune.files import link_or_copy, read_json, write_json, write_text
from bgetune.head_files import HEADS_FILE

ADAPTER = "adapter"
"""The folder of peft's files in a checkpoint that was trained through adapters."""
LEXICAL_CODE = "lexical_weights.py"
"""The name of `forms_lexical.py` in a model's folder."""
_HEADS: dict[Form, Head] = {"multi_vector_encoder": "multi_vector", "sparse_encoder": "sparse"}
_SETTINGS = "config_sentence_transformers.json"
# of the main folder alone: its readers' settings, its heads, its card
_OF_MAIN = {"modules.json", "sentence_bert_config.json", _SETTINGS, HEADS_FILE, "README.md", "bgetune.json"}
_OF_MAIN |= {"sparse_linear.pt", "colbert_linear.pt", "gains.svg"}


def forms_of(config: ExportConfig, encoder: Encoder, model: Path) -> tuple[Form, ...]:
    """The forms to write, in the order of `FORM_FOLDERS`.

    Args:
        model: the checkpoint that is exported; merged weights have no adapter.

    Raises:
        UserError: export.forms names one that this model cannot have.
    """
    adapted = (model / ADAPTER).is_dir()
    if config.forms == "auto":
        here = {form for form, head in _HEADS.items() if head in encoder.heads and encoder.layers.has(head)}
        return tuple(form for form in FORM_FOLDERS if form in here or (form == "adapter" and adapted))
    for form, head in _HEADS.items():
        if form in config.forms and not encoder.layers.has(head):
            raise UserError(
                f"export.forms: {form} is made of the {head} head, and this model has none; leave it out, "
                f"or train one: add {head} to model.heads"
            )
    if "adapter" in config.forms and not adapted:
        raise UserError(
            "export.forms: adapter, but these weights are not a base model and an adapter; leave it out, "
            "or train with train.lora.rank above 0 and without merge.shares"
        )
    return tuple(form for form in FORM_FOLDERS if form in config.forms)


def write_form(form: Form, folder: Path, main: Path, encoder: Encoder, config: JobConfig, model: Path) -> None:
    """Write one form into `folder`, which is empty.

    Args:
        main: the export that it stands beside, complete with its README.md, whose licence is passed on.
        encoder: of the same weights.
        model: the checkpoint that is exported, for its adapter.
    """
    if form == "adapter":
        _write_adapter(folder, encoder, config, model)
    else:
        _share(main, folder)
        write = _write_multi_vector if form == "multi_vector_encoder" else _write_sparse
        write(folder, main, encoder)
    write_text(folder / "README.md", form_card(form, main, encoder, config))


def _share(main: Path, folder: Path) -> None:
    """Everything of the transformer and its tokenizer: weights as the same files, the small rest as copies."""
    for path in sorted(main.iterdir()):
        if path.is_file() and path.name not in _OF_MAIN and not path.name.startswith("."):
            if path.suffix in (".safetensors", ".bin"):
                link_or_copy(path, folder / path.name)
            else:
                shutil.copyfile(path, folder / path.name)


def _write_multi_vector(folder: Path, main: Path, encoder: Encoder) -> None:
    """Transformer, a layer on every token, length 1, and a mask without CLS: all are sentence-transformers' own.

    The score is `meanmaxsim`, MaxSim divided by the query's tokens, as BGE-M3's and ours.
    """
    spec, cls_token = encoder.spec, encoder.tokenizer.cls_token
    state = _layer_of(main, "colbert_linear")
    width, hidden = state["linear.weight"].shape
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = {"in_features": hidden, "out_features": width, "bias": True, **tokens}
    # no word is left out, and CLS is, on both sides: it has no vector
    mask = {"skiplist_words": [cls_token] if cls_token else [], "skiplist_tasks": ["query", "document"]}
    modules: list[tuple[str, dict[str, Any]]] = [
        ("base.modules.dense.Dense", {**dense, "activation_function": "torch.nn.modules.linear.Identity"}),
        *([("base.modules.normalize.Normalize", tokens)] if spec.normalize else []),
        ("multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", mask),
    ]
    names = ["base.modules.transformer.Transformer", *(name for name, _ in modules)]
    _write_modules(folder, main, [f"sentence_transformers.{name}" for name in names])
    for place, (_, settings) in zip(_places(names)[1:], modules, strict=True):
        write_json(folder / place / "config.json", settings)
    save_file(state, folder / "1_Dense" / "model.safetensors")
    limits = {"query_length": spec.query_max_length, "document_length": spec.passage_max_length}
    told = read_json(folder / "sentence_bert_config.json")
    write_json(folder / "sentence_bert_config.json", {**told, **limits})
    told = {"model_type": "MultiVectorEncoder", "similarity_fn_name": "meanmaxsim"}
    write_json(folder / _SETTINGS, {**read_json(main / _SETTINGS), **told})


def _write_sparse(folder: Path, main: Path, encoder: Encoder) -> None:
    """Transformer, and a module that lies in the folder: sentence-transformers has none that scatters tokens' weights.

    The names are those that sentence-transformers 5.0 has too.
    """
    state = _layer_of(main, "sparse_linear")
    names = ["sentence_transformers.models.Transformer", f"{LEXICAL_CODE.removesuffix('.py')}.LexicalWeights"]
    _write_modules(folder, main, names)
    settings = {
        "width": state["linear.weight"].shape[1],
        "vocabulary": encoder.backbone.config.vocab_size,
        "special_ids": sorted(encoder.tokenizer.all_special_ids),
        "query_length": encoder.spec.query_max_length,
        "document_length": encoder.spec.passage_max_length,
    }
    write_json(folder / "1_LexicalWeights" / "config.json", settings)
    save_file(state, folder / "1_LexicalWeights" / "model.safetensors")
    shutil.copyfile(Path(__file__).with_name("forms_lexical.py"), folder / LEXICAL_CODE)
    told = {"model_type": "SparseEncoder", "similarity_fn_name": "dot"}
    write_json(folder / _SETTINGS, {**read_json(main / _SETTINGS), **told})


def _layer_of(main: Path, name: str) -> dict[str, Any]:
    """A head's layer as the export stores it, called `linear`."""
    held = load_file(main / HEADS_FILE)
    return {f"linear.{part}": held[f"{name}.{part}"] for part in ("weight", "bias")}


def _places(names: list[str]) -> list[str]:
    """The folders of modules; the first one's files lie on top.

    >>> _places(["base.Transformer", "base.modules.Dense"])
    ['', '1_Dense']
    """
    return ["" if i == 0 else f"{i}_{name.rpartition('.')[2]}" for i, name in enumerate(names)]


def _write_modules(folder: Path, main: Path, names: list[str]) -> None:
    places = zip(_places(names), names, strict=True)
    rows = [{"idx": i, "name": str(i), "path": path, "type": name} for i, (path, name) in enumerate(places)]
    write_json(folder / "modules.json", rows)
    shutil.copyfile(main / "sentence_bert_config.json", folder / "sentence_bert_config.json")


def _write_adapter(folder: Path, encoder: Encoder, config: JobConfig, model: Path) -> None:
    """As peft wrote it, in full precision, with the base model's name in place of the folder it was loaded from."""
    shutil.copytree(model / ADAPTER, folder, dirs_exist_ok=True)
    told = read_json(folder / "adapter_config.json")
    told |= {"base_model_name_or_path": config.model.name_or_path, "revision": config.model.revision}
    if hasattr(encoder.backbone, "pooler"):
        # others load the base model with a pooler, which it had not in training; peft would adapt it too, and warn
        told["exclude_modules"] = ["pooler.dense"]
    write_json(folder / "adapter_config.json", told)
    if (model / HEADS_FILE).is_file():
        shutil.copyfile(model / HEADS_FILE, folder / HEADS_FILE)
