"""Values of `export` and `hub` that have the right type and no sense."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from bgetune.config import ExportConfig, HubConfig, JobConfig, LoraConfig, MergeConfig, ModelConfig, TrainConfig
from bgetune.config_check import check
from bgetune.errors import UserError


def checked(**sections: Any) -> JobConfig:
    return check(JobConfig(output="runs/x", **sections), is_job=False)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"export": ExportConfig(verify_texts=0)}, "export.verify_texts: 0 will not do; use at least 1"),
        ({"export": ExportConfig(license=" ")}, "export.license: ' ' will not do; name one as the Hub does, or auto"),
        ({"export": ExportConfig(language="")}, "export.language: '' will not do; write a code such as en"),
        (
            {"export": ExportConfig(forms=("adapter",))},
            "export.forms: 'adapter' will not do; nothing trains one; set train.lora.rank",
        ),
        (
            {"export": ExportConfig(forms=("sparse_encoder", "sparse_encoder"))},
            r"export.forms: ['sparse_encoder', 'sparse_encoder'] will not do; name each once, or auto",
        ),
        (
            {"export": ExportConfig(forms=("sparse_encoder",)), "model": ModelConfig(heads=("dense",))},
            "export.forms: 'sparse_encoder' will not do; it is made of the sparse head; add that to model.heads",
        ),
        (
            {"export": ExportConfig(forms=("adapter",)), "train": TrainConfig(lora=LoraConfig(rank=4)),
             "merge": MergeConfig(shares=(0.5,))},
            "export.forms: 'adapter' will not do; weights that merge.shares makes are no base and an adapter",
        ),
        ({"export": ExportConfig(onnx=("fp32", "fp32"))}, "export.onnx: ['fp32', 'fp32'] will not do; name each once"),
        ({"hub": HubConfig(repo="bge")}, "hub.repo: "),
        ({"hub": HubConfig(repo="my-org/bge", revision="a b")}, "hub.revision: 'a b' is no name of a branch"),
        (
            {"hub": HubConfig(checkpoints="best")},
            "hub.checkpoints: 'best' will not do; name the repository in hub.repo as well",
        ),
        (
            {"hub": HubConfig(repo="my-org/bge", checkpoints="every", revision="checkpoints")},
            "hub.revision: 'checkpoints' will not do; hub.checkpoints are pushed to that branch; name another",
        ),
    ],
)  # fmt: skip
def test_what_will_not_do(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        checked(**sections)
    assert str(raised.value).startswith(message)


def test_a_token_in_place_of_a_repository_is_not_repeated() -> None:
    token = "hf_" + "a1B2" * 9
    with pytest.raises(UserError) as raised:
        checked(hub=HubConfig(repo=token))
    assert token not in str(raised.value)


def test_packages_for_onnx_are_missed_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"export.onnx: needs onnxscript; run pip install 'bgetune\[onnx\]'"):
        checked(export=ExportConfig(onnx=("int8",)))


def test_what_will_do() -> None:
    checked(export=ExportConfig(forms=("multi_vector_encoder",), onnx=("fp32", "int8"), language="en, de"))
    checked(hub=HubConfig(repo="my-org/bge.v1", revision="v1/rc-2", checkpoints="best"))
    checked(train=TrainConfig(lora=LoraConfig(rank=4)), export=ExportConfig(forms=("adapter",)))
