"""Steps to compare, and the program that torchrun starts to do them on several ranks.

torchrun --standalone --nproc_per_node 2 -m tests.rank_worker MODEL_FOLDER OUT.safetensors
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from bgetune.config import HEADS, Head, HeadConfig, ModelConfig, TrainConfig
from bgetune.encoder import Encoder
from bgetune.errors import UserError
from bgetune.representations import Representations, SparseRows, TokenVectors, offsets_of, take
from train.dataset import Batch
from train.encoding import Precision, StepEncoding
from train.model import set_up
from train.objective import Temperatures
from train.ranks import gather, rank, shares, world_size
from train.step import Learner, loss_and_gradients

# High enough that no softmax saturates: where 1 - p is rounding, so is the gradient. Sparse scores have no bound.
CONFIG = TrainConfig(temperature=0.5, sparse=HeadConfig(loss_weight=0.1, ensemble_weight=0.3, temperature=8.0))
ONE_GRAPH, SOME_CACHE = 10**6, 450


def load(folder: Path, dtype: torch.dtype = torch.float64) -> Encoder:
    lengths = {"query_max_length": 512, "passage_max_length": 512}
    return Encoder.load(ModelConfig(name_or_path=str(folder), **lengths)).to(dtype)  # type: ignore[arg-type]


def batch_of(queries: Sequence[str], groups: Sequence[Sequence[str]], false_negatives: Any = ()) -> Batch:
    """Each query's group is its positive and its hard negatives; the teacher's scores are made up."""
    passages = [text for group in groups for text in group]
    owner = [query for query, group in enumerate(groups) for _ in group]
    target = [sum(map(len, groups[:query])) for query in range(len(groups))]
    teacher = [(37 * place % 11) / 4 - 1 for place in range(len(passages))]
    return Batch(list(queries), passages, target, owner, list(false_negatives), teacher)


MIXED = batch_of(
    # a text twice, one word, unknown words only: no lexical weights, so no overlap either
    ["heart pain", "what does the lung cure", "bone", "unheard of", "heart pain"],
    [
        ["heart risk " * 6, "liver drug sign help", "brain"],
        ["lung", "the skin care test what does"],
        ["bone " * 20],
        ["nothing known", "kidney blood", "liver drug sign help"],
        ["heart pain 3 4 and the risk", "unheard of"],
    ],
    # passages 0 and 9 answer both queries with the same text; the last is the fourth query's own text
    [(0, 9), (4, 0), (3, 10)],
)
UNEQUAL = batch_of(
    ["heart " * 400, "bone", "lung", "skin"],
    [["heart"], ["bone care " * 200, "lung"], ["lung"], ["skin and the " * 20, "liver"]],
)
TOO_FEW = batch_of(["heart"], [["heart pain", "bone"]])


@dataclass(frozen=True)
class Found:
    """What a step found: loss terms and health by name, gradients by parameter, whether it was cached."""

    figures: dict[str, Tensor]
    gradients: dict[str, Tensor]
    encoding: StepEncoding


def run_step(
    encoder: Encoder,
    batch: Batch,
    config: TrainConfig,
    heads: Sequence[Head] = HEADS,
    micro_batch_tokens: int = ONE_GRAPH,
    seed: int = 0,
    precision: Precision = contextlib.nullcontext,
) -> Found:
    encoder.zero_grad(set_to_none=True)
    temperatures = Temperatures(heads, config).to(next(encoder.parameters()).dtype)
    optimizer = torch.optim.SGD([*encoder.parameters(), *temperatures.parameters()], lr=0.0)
    learner = Learner(encoder, tuple(heads), temperatures, optimizer, precision, micro_batch_tokens)
    figures, encoding, _ = loss_and_gradients(learner, batch, config, 0, seed)
    return Found(figures, gradients_of(encoder, temperatures), encoding)


def gradients_of(encoder: Encoder, temperatures: Temperatures) -> dict[str, Tensor]:
    whole = nn.ModuleDict({"encoder": encoder, "temperatures": temperatures})
    return {name: p.grad.clone() for name, p in whole.named_parameters() if p.grad is not None}


@dataclass(frozen=True)
class Case:
    """A step that any number of ranks must do alike."""

    heads: tuple[Head, ...] = HEADS
    options: dict[str, Any] = field(default_factory=dict)
    micro_batch_tokens: int = ONE_GRAPH
    batch: Batch = MIXED

    def run(self, folder: Path) -> Found:
        encoder, config = load(folder).train(), replace(CONFIG, heads=self.heads, **self.options)
        # as some architectures have; it must stay without a gradient
        encoder.backbone.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
        set_up(encoder, config)
        return run_step(encoder, self.batch, config, self.heads, self.micro_batch_tokens)


_EVERYTHING = {"matryoshka_dims": (4, 8), "teacher": "kl_div", "learn_temperature": True, "triplet_weight": 0.5}
_MORE = {"teacher": "m3_kd_loss", "false_negative_margin": 0.1, "matryoshka_dims": (8,)}
CASES = {
    **{f"{'+'.join(heads)}": Case(heads) for heads in (*((head,) for head in HEADS), HEADS)},
    **{f"{'+'.join(heads)} cached": Case(heads, {}, 16) for heads in (*((head,) for head in HEADS), HEADS)},
    "everything": Case(options=_EVERYTHING),
    "everything cached": Case(options=_EVERYTHING, micro_batch_tokens=16),
    "m3_kd_loss, margin": Case(options=_MORE),
    "query negatives, no distillation": Case(options={"query_negatives": True, "self_distillation": False}),
    "own negatives only": Case(options={"in_batch_negatives": False}),
    "heads only": Case(options={"freeze": "encoder", "learn_temperature": True}, micro_batch_tokens=16),
    "one head only": Case(("sparse",), {"freeze": "encoder"}),
    "frozen embeddings": Case(("dense", "multi_vector"), {"freeze": "embeddings"}, 16),
    "unequal lengths": Case(batch=UNEQUAL),
    # some ranks have more tokens than this, others less
    "unequal lengths, some ranks cached": Case(batch=UNEQUAL, micro_batch_tokens=SOME_CACHE),
    "unequal lengths, heads only": Case(HEADS, {"freeze": "encoder"}, SOME_CACHE, UNEQUAL),
}


def made_up(lengths: Sequence[int]) -> Representations:
    """Of texts with so many tokens, every number different."""
    offsets = offsets_of(lengths)
    tokens = torch.arange(int(offsets[-1]), dtype=torch.float64)
    return Representations(
        torch.arange(2.0 * len(lengths)).view(-1, 2),
        SparseRows(tokens.long() * 3, tokens / 7, offsets),
        TokenVectors(torch.stack([tokens, -tokens], dim=1), offsets),
    )


def flat(found: Representations) -> list[Any]:
    assert found.sparse is not None
    assert found.multi_vector is not None
    return [found.dense, *vars(found.sparse).values(), *vars(found.multi_vector).values()]


def check_gather() -> None:
    for lengths in ([0, 3, 1, 0, 7, 2, 2], [0] * 5):
        dealt, whole = shares(lengths, world_size()), made_up(lengths)
        found = gather(take(whole, dealt[rank()]), dealt)
        torch.testing.assert_close(flat(found), flat(whole), rtol=0, atol=0)


def check_all_ranks_agree(tensors: dict[str, Tensor]) -> None:
    """To the last bit: weights that each rank moves by itself must stay the same."""
    own = torch.cat([tensor.double().flatten() for tensor in tensors.values()])
    first = own.clone()
    dist.broadcast(first, src=0)
    assert torch.equal(own, first), "ranks differ"


def error_of(case: Case, folder: Path) -> str:
    try:
        case.run(folder)
    except UserError as error:
        return str(error)
    return "no error"


def run_all(folder: Path, out: Path) -> None:
    """Every case, by all ranks of the process group; rank 0 saves what they found."""
    check_gather()
    saved: dict[str, Tensor] = {}
    for name, case in CASES.items():
        found = case.run(folder)
        tensors = {f"{name}: {key}": value.clone() for key, value in {**found.figures, **found.gradients}.items()}
        check_all_ranks_agree(tensors)
        caching = torch.tensor([int(found.encoding.cached)])
        dist.all_reduce(caching)
        saved |= {**tensors, f"{name}: caching": caching}
    message = error_of(Case(batch=TOO_FEW), folder)
    if rank() == 0:
        save_file(saved, out, {"too_few": message})


def main(folder: Path, out: Path) -> None:
    dist.init_process_group("gloo")
    assert world_size() == 4
    pair, place = divmod(rank(), 2)
    run_all(folder, out / "4.safetensors")
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.FileStore(str(out / f"pair{pair}"), 2), rank=place, world_size=2)
    run_all(folder, out / f"2-{pair}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
