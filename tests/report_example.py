"""A made-up report.json tree, plausible and seeded: what the report's page, Markdown and terminal are tested with."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from math import erfc, sqrt
from random import Random
from typing import Any

from tests.report_extras import compression, indexes, merging, probe, rounds, training, verdict_of

NAMES = ("base", "tuned", "merged", "other", "last")
SETS = ("medquad", "scifact", "nfcorpus", "xquad", "cmedqa", "fiqa", "arguana", "trec-covid")
HEADS = ("dense", "sparse", "multi_vector")
METRICS = ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")
RETRIEVERS = (*HEADS, "multi_vector_full", "dense+sparse", "hybrid", "hybrid_tuned", "hybrid_rrf")
PARTS = (
    "slices", "matrix", "examples", "explained", "hybrid_weights", "merging", "indexes", "compression", "probes",
    "training", "rounds", "failed",
)  # fmt: skip
"""What a report may lack."""
_WORDS = (
    *("what are the symptoms of", "a rare disorder glaucoma can", "damage optic nerve and lead to loss vision"),
    *("treatment for children with fever", "doctors may test blood pressure insulin helps", "sugar reach cells how"),
    *("many people risk family history", "diagnosis gene mutation protein", "café naïve 血糖 für über"),
)
_VOCABULARY = [word for words in _WORDS for word in words.split()]
_GUARD_LIMIT = "Guard scifact lost 0.031 (at least 0.012 by its interval); the limit eval.max_guard_loss is 0.01."


def example_report(
    systems: int = 3,
    sets: int = 5,
    examples: int = 5,
    tokens: int = 16,
    heads: Sequence[str] = HEADS,
    without: Collection[str] = (),
    text: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """A tree of format 2.

    Args:
        systems, sets: how many of NAMES and of SETS; the first system is the reference, the first set the domain.
        examples: queries won, and as many lost, of each set and system.
        tokens: query tokens of each alignment.
        heads: what the systems have; dense alone leaves out the other retrievers.
        without: any of PARTS.
        text: stands in every text that a user writes, so that a hostile one is met everywhere.
    """
    assert set(without) <= set(PARTS), sorted(set(without) - set(PARTS))
    return _Example(NAMES[:systems], heads, without, examples, tokens, text, Random(seed)).report(SETS[:sets])


class _Example:
    def __init__(
        self, systems: Sequence[str], heads: Sequence[str], without: Collection[str], examples: int, tokens: int,
        text: str, random: Random,
    ) -> None:  # fmt: skip
        self.systems, self.others, self.heads, self.without = systems, systems[1:], heads, without
        self.examples, self.tokens, self.text, self.random = examples, tokens, text, random.random
        fused = RETRIEVERS[len(HEADS) :] if len(heads) > 1 else ()
        self.retrievers = ("bm25", *(r for r in RETRIEVERS if r in heads or r in fused))
        self.decider = "hybrid" if fused else "dense"

    def report(self, sets: Sequence[str]) -> dict[str, Any]:
        measured = {
            name + self.text: self._set(name, "guard" if at else "domain", 0.05 - 0.03 * at)
            for at, name in enumerate(sets)
        }
        parts: dict[str, Any] = {
            "rounds": list(rounds()),
            "training": training(self.heads, self.text, self.random),
            "merging": merging(sets[1:], self.random),
            "indexes": list(indexes(sets, self.systems, self.random)),
            "compression": list(compression(sets[0], self.systems, self.heads, self.random)),
            "probes": list(self._probes()),
            "hybrid_weights": {name: {head: round(self.random(), 2) for head in self.heads} for name in self.systems},
            "failed": [_GUARD_LIMIT + self.text] if len(sets) > 1 else [],
        }
        lists = {"rounds", "indexes", "compression", "probes", "failed"}
        kept = {
            name: part if name not in self.without else []
            for name, part in parts.items()
            if name not in self.without or name in lists
        }
        return {
            "format": 2,
            "title": f"all-MiniLM-L6-v2{self.text}: {' against '.join(self.systems)}",
            "headline": [
                f"{of['role'].capitalize()} {name}: {system} {verdict}, -0.012 to +0.034 on {of['n_queries']} queries."
                for name, of in measured.items()
                for system, verdict in of["verdicts"].items()
            ],
            "reference": self.systems[0],
            "systems": {name: self._system(name) for name in self.systems},
            "metric": "ndcg@10",
            "metrics": list(METRICS),
            "sets": measured,
            **kept,
            "settings": {"index": "Flat", "depth": 100, "metrics": list(METRICS), "probes": {"sts" + self.text: "x"}},
            "config_hash": _hash("config"),
            "versions": {"python": "3.10.16", "torch": "2.13.0", "numpy": "2.2.6"},
            "notes": ["nDCG has trec_eval's linear gain.", "p is that of a paired randomisation test." + self.text],
        }

    def _system(self, name: str) -> dict[str, Any]:
        return {
            "model": f"sentence-transformers/all-MiniLM-L6-v2-{name}{self.text}",
            "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41" if name == "base" else None,
            "weights": _hash(name),
            "heads": list(self.heads),
            "parameters": 22_713_216,
            "device": "cpu",
            "precision": "fp32",
        }

    def _set(self, name: str, role: str, lift: float) -> dict[str, Any]:
        queries, seen = 150 + int(250 * self.random()), {}
        verdicts, differences = {}, {}
        retrievers: dict[str, Any] = {"bm25": {"any": {m: round(0.3 + 0.2 * self.random(), 4) for m in METRICS}}}
        gains: dict[str, Any] = {}
        for retriever in self.retrievers[1:]:
            start = {metric: 0.45 + 0.2 * self.random() for metric in METRICS}
            retrievers[retriever] = {self.systems[0]: start}
            gains[retriever] = {}
            for other in self.others:
                found = {metric: self._gain(lift, value, queries) for metric, value in start.items()}
                retrievers[retriever][other] = {m: start[m] + found[m]["abs"] for m in METRICS}
                gains[retriever][other] = found
        for other in self.others:
            decided = gains[self.decider][other]["ndcg@10"]
            verdicts[other] = verdict_of(decided["ci95"])
            differences[other] = changes = self._differences(lift, queries)
            won, lost = sum(value > 0 for value in changes), sum(value < 0 for value in changes)
            decided.update(won=won, lost=lost, tied=queries - won - lost)
            seen[other] = {"won": self._side(other, 1), "lost": self._side(other, -1)}
        measured = {
            "role": role, "n_queries": queries, "n_docs": 5000 + int(9000 * self.random()), "data_hash": _hash(name),
            "decided_by": self.decider, "verdicts": verdicts, "retrievers": retrievers, "gains": gains,
            "differences": differences,
            "slices": [] if "slices" in self.without else list(self._slices(lift, queries)),
            "examples": {o: {"won": [], "lost": []} for o in self.others} if "examples" in self.without else seen,
        }  # fmt: skip
        if role == "domain" and "matrix" not in self.without:
            measured["matrix"] = self._matrix()
        return measured

    def _gain(self, lift: float, value: float, queries: int) -> dict[str, Any]:
        gain = lift + 0.02 * (self.random() - 0.5)
        half = 0.012 + 0.01 * self.random()
        p = max(1e-4, erfc(abs(gain) / half * 1.96 / sqrt(2)))
        won, lost = int(queries * 0.3 * self.random()), int(queries * 0.2 * self.random())
        return {
            "abs": gain, "rel": gain / value, "ci95": [gain - half, gain + half], "p": p, "p_holm": min(1.0, 5 * p),
            "p_t": p, "effect_size": gain / 0.2, "won": won, "lost": lost, "tied": queries - won - lost,
        }  # fmt: skip

    def _short_gain(self, lift: float) -> dict[str, Any]:
        gain = self._gain(lift, 0.5, 99)
        return {"abs": gain["abs"], "ci95": gain["ci95"]}

    def _differences(self, lift: float, queries: int) -> list[float]:
        drawn = [0.0 if self.random() < 0.5 else (self.random() - 0.5 + lift) for _ in range(queries)]
        return sorted((round(max(-1.0, min(1.0, value)), 4) for value in drawn), reverse=True)

    def _slices(self, lift: float, queries: int) -> Iterator[dict[str, Any]]:
        for name, unit, labels in (
            ("passage length", "words", ("up to 60", "61 to 140", "over 140")),
            ("query length", "words", ("up to 6", "7 to 12", "over 12")),
            ("rare words", "", ("none", "some", "half and more")),
        ):
            groups = [
                {
                    "label": label, "n_queries": queries // 3,
                    "values": {system: 0.5 + 0.2 * self.random() for system in self.systems},
                    "gain": {o: self._short_gain(lift) for o in self.others},
                }
                for label in labels
            ]  # fmt: skip
            yield {"name": name + self.text, "unit": unit, "groups": groups}

    def _matrix(self) -> dict[str, Any]:
        langs = ["de", "en", "zh"]
        holes = {(0, 2)}
        return {
            "name": "language pair", "rows": langs, "columns": langs,
            "n": [[0 if (i, j) in holes else 20 + 10 * i + j for j in range(3)] for i in range(3)],
            "values": {
                system: [[None if (i, j) in holes else 0.4 + 0.5 * self.random() for j in range(3)] for i in range(3)]
                for system in self.systems
            },
        }  # fmt: skip

    def _words(self, count: int) -> str:
        return " ".join(_VOCABULARY[int(self.random() * len(_VOCABULARY))] for _ in range(count)) + self.text

    def _side(self, system: str, sign: int) -> list[dict[str, Any]]:
        return [self._example(at, system, sign) for at in range(self.examples)]

    def _example(self, at: int, system: str, sign: int) -> dict[str, Any]:
        both = (self.systems[0], system)
        low, high = 0.3 * self.random(), 0.6 + 0.4 * self.random()
        good, bad = 1 + int(3 * self.random()), 12 + int(60 * self.random())
        row: dict[str, Any] = {
            "query_id": f"q{at}{self.text}", "query": self._words(9) + "?", "positive_id": f"d{at}",
            "positive": self._words(45), "n_positives": 1 + at % 3,
            "value": dict(zip(both, (low, high) if sign > 0 else (high, low), strict=True)),
            "rank": dict(zip(both, (bad, good) if sign > 0 else (good, None if at == 1 else bad), strict=True)),
            "top": {which: {"id": f"d{at + 7}", "text": self._words(45)} for which in both},
        }  # fmt: skip
        if at == 1 and sign < 0:
            row["top"][system] = None
        if "explained" not in self.without and len(self.heads) > 1:
            row["explained"] = {
                which: {
                    "positive": self._explained(row["query"], row["positive"]),
                    "top": row["top"][which] and self._explained(row["query"], row["top"][which]["text"]),
                }
                for which in both
            }
        return row

    def _explained(self, query: str, passage: str) -> dict[str, Any]:
        asked, said = query.split() or ["?"], passage.split() or ["."]
        found: dict[str, Any] = {"scores": {head: 0.2 + 0.7 * self.random() for head in self.heads}}
        if "sparse" in self.heads:
            pairs = [(word, 0.3 * self.random(), 0.4 * self.random()) for word in sorted(set(asked) & set(said))]
            found["matches"] = [
                {"token": word, "query": q, "passage": p, "product": q * p}
                for word, q, p in sorted(pairs, key=lambda pair: -pair[1] * pair[2])
            ][:12]
        if "multi_vector" in self.heads:
            places = [int(self.random() * len(said)) for _ in range(self.tokens)]
            found["alignment"] = [
                {
                    "query": asked[at % len(asked)], "passage": said[place], "score": 0.3 + 0.7 * self.random(),
                    "context": " ".join(said[max(0, place - 3) : place + 4]),
                }
                for at, place in enumerate(places)
            ]  # fmt: skip
        return found

    def _probes(self) -> Iterator[dict[str, Any]]:
        for name, kind, metric in (("sts", "similarity", "spearman"), ("topics", "classification", "accuracy")):
            gains = {other: self._short_gain(-0.01) for other in self.others}
            values = {system: 0.8 + gains.get(system, {"abs": 0.0})["abs"] for system in self.systems}
            yield probe(name + self.text, kind, metric, values, gains)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
