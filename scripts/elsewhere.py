"""An export as a GGUF file in llama.cpp: are its vectors ours? The last answers are in docs/elsewhere.md.

    pip download --no-deps --no-binary :all: llama-cpp-python       # its source holds llama.cpp's
    tar xzf llama_cpp_python-*.tar.gz --one-top-level=llama --strip-components=1
    cmake -S llama/vendor/llama.cpp -B llama/build -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_COMMON=OFF
    cmake --build llama/build --target llama -j 4
    pip install diskcache jinja2
    python scripts/elsewhere.py --export runs/job/export --source llama

Prints a row a precision: bytes, smallest cosine with our dense vectors, largest difference.
Texts are a BEIR corpus's; each is encoded by itself, as a passage without instruction.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from bgetune.config import ModelConfig
from bgetune.data import read_texts
from bgetune.encoder import Encoder
from bgetune.files import read_json

PRECISIONS = ("f32", "f16", "q8_0")


def config_of(export: Path) -> ModelConfig:
    """The export as it is, without instructions, texts cut where sentence-transformers cuts them."""
    longest = read_json(export / "sentence_bert_config.json")["max_seq_length"]
    return ModelConfig(name_or_path=str(export), query_max_length=longest, passage_max_length=longest)


def our_vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """float32 [N, D]."""
    encoder.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids, mask = encoder.pad(encoder.tokenize([text], "passage")[0])
            dense = encoder(ids, mask, ["dense"]).dense
            assert dense is not None
            rows.append(dense[0].numpy())
    return np.stack(rows)


def fitting(encoder: Encoder, texts: list[str]) -> list[str]:
    """The texts that are not cut: llama.cpp refuses what is longer than the model takes."""
    cut = set(encoder.tokenize(texts, "passage")[1])
    return [text for at, text in enumerate(texts) if at not in cut]


def gguf(export: Path, source: Path, precision: str, folder: Path) -> Path:
    """Convert with llama.cpp's own script. Raises CalledProcessError with what it said on the terminal."""
    path = folder / f"{precision}.gguf"
    script = source / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(export), "--outfile", str(path), "--outtype", precision]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return path


def gguf_vectors(path: Path, source: Path, texts: list[str], context: int) -> np.ndarray:
    """float32 [N, D] by llama.cpp in one thread, pooled as the file says, of length 1."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(source / "build" / "bin")
    sys.path.insert(0, str(source))
    from llama_cpp import Llama

    sizes = {"n_ctx": context, "n_batch": context, "n_ubatch": context, "n_threads": 1, "n_threads_batch": 1}
    model = Llama(str(path), embedding=True, verbose=False, **sizes)
    return np.array([model.embed(text, normalize=True) for text in texts], dtype=np.float32)


def row(precision: str, export: Path, source: Path, texts: list[str], ours: np.ndarray, context: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = gguf(export, source, precision, Path(folder))
        size = path.stat().st_size
        theirs = gguf_vectors(path, source, texts, context)
    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    cosine = (unit * theirs).sum(axis=1).min()
    difference = np.abs(unit - theirs).max()
    return f"| {precision} | {size / 1e6:,.1f} | {cosine:.6f} | {difference:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="the export's folder")
    parser.add_argument(
        "--source", type=Path, required=True, help="unpacked source of llama-cpp-python, built in build/"
    )
    parser.add_argument("--corpus", type=Path, default=Path("../shared/data/medquad/corpus.jsonl"))
    parser.add_argument("--texts", type=int, default=200, help="the first so many that are not too long (default 200)")
    options = parser.parse_args()
    encoder = Encoder.load(config_of(options.export))
    texts = fitting(encoder, read_texts(options.corpus, with_titles=True).full_texts()[: 3 * options.texts])
    texts = texts[: options.texts]
    ours = our_vectors(encoder, texts)
    print(f"| GGUF ({len(texts)} texts) | MB | smallest cosine | largest difference |")
    print("|---|---:|---:|---:|")
    for precision in PRECISIONS:
        print(row(precision, options.export, options.source, texts, ours, encoder.spec.passage_max_length), flush=True)


if __name__ == "__main__":
    main()
