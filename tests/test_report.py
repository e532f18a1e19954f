"""The report: its JSON contract, its words, and texts that try to break its Markdown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bgetune.config import EvalConfig, JobConfig, ModelConfig
from bgetune.config_data import DataConfig, SourceConfig
from bgetune.data import Texts
from eval.figures import columns, signed
from eval.markdown import escape, to_markdown
from eval.measure import Findings
from eval.report import build_report, metrics_of, to_json, values_of
from eval.sets import EvalSet
from eval.terminal import print_report
from eval.training import training_curves

NASTY = [
    "a | b || c",
    "two\nlines\r\n\n# heading",
    "<script>alert(1)</script> <b>bold</b> &amp; <!-- c",
    "`code` ```fence``` **bold** _it_ ~~no~~ [link](http://x) ![i](y)",
    "$math$ \\| \\",
    "* item\n\n---\n\n| t |\n| - |",
]


def system(weights: str) -> dict[str, Any]:
    told = {"model": "org/base", "revision": None, "weights": weights, "heads": ["dense"], "parameters": 3}
    return {**told, "device": "cpu", "precision": "float32"}


def ranked(positive: str, rank: int, others: list[str]) -> dict[str, float]:
    """A result list with `positive` at `rank`; rank 0: it is not found."""
    ids = [o for o in others if o != positive][:12]
    if rank:
        ids.insert(rank - 1, positive)
    return {passage_id: 1 / place for place, passage_id in enumerate(ids, start=1)}


def make_set(name: str, role: str, ranks: list[tuple[int, int]]) -> EvalSet:
    """Query qi has the positive di, found at `ranks[i]` by (base, tuned)."""
    passages = [f"d{i}" for i in range(max(20, len(ranks)))]
    texts = [NASTY[i % len(NASTY)] for i in range(len(passages))]
    ids = [f"q{i}" for i in range(len(ranks))]
    queries = Texts(ids, [f"question {NASTY[i % len(NASTY)]}" for i in range(len(ranks))])
    found = {
        version: {f"q{i}": ranked(f"d{i}", rank[side], passages) for i, rank in enumerate(ranks)}
        for side, version in enumerate(("base", "tuned"))
    }
    qrels = {query_id: {f"d{i}": 1} for i, query_id in enumerate(ids)}
    return EvalSet(
        name, role, queries, Texts(passages, texts), qrels, "cc", {"bm25": {"any": found["base"]}, "dense": found}
    )


def job(output: str = "runs/x", **evaluation: Any) -> JobConfig:
    data = DataConfig(name="domain", domain=SourceConfig(path="d"), guards={"guard": SourceConfig(path="g")})
    settings = EvalConfig(bootstrap_samples=200, permutations=200, **evaluation)
    return JobConfig(output=output, model=ModelConfig(name_or_path="org/base"), data=data, eval=settings)


def report_of(sets: list[EvalSet], config: JobConfig | None = None) -> dict[str, Any]:
    config = config or job()
    values = [values_of(test, config.eval) for test in sets]
    measured = Findings({"base": system("aa"), "tuned": system("bb")})
    return build_report(config, "org/base: base against tuned", sets, values, measured, "dense")


def make_report(config: JobConfig | None = None) -> dict[str, Any]:
    improved = make_set("domain", "domain", [(3, 1), (0, 2), (1, 1), (12, 11), (5, 1), (9, 4), (2, 3), (8, 1)] * 3)
    mixed = make_set("guard", "guard", [(1, 1), (2, 1), (1, 2), (0, 0)])
    return report_of([improved, mixed], config)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the JSON")

    return json.loads(text, parse_constant=refuse)


def test_contract():
    report = strict(to_json(make_report()))
    assert list(report["sets"]) == ["domain", "guard"]
    for name, measured in report["sets"].items():
        assert measured["role"] == name
        assert measured["n_queries"] == {"domain": 24, "guard": 4}[name]
        assert measured["n_docs"] == {"domain": 24, "guard": 20}[name]
        assert set(measured["examples"]["tuned"]) == {"won", "lost"}
        assert set(measured["retrievers"]) == {"bm25", "dense"}
        assert set(measured["retrievers"]["bm25"]) == {"any"}
        dense = measured["retrievers"]["dense"]
        assert set(dense) == {"base", "tuned"}
        for metric in metrics_of(job().eval):
            gain = measured["gains"]["dense"]["tuned"][metric]
            assert set(gain) == {"abs", "rel", "ci95", "p", "p_holm", "p_t", "effect_size", "won", "lost", "tied"}
            assert gain["p"] <= gain["p_holm"] <= min(1.0, 2 * gain["p"])
            assert gain["abs"] == pytest.approx(dense["tuned"][metric] - dense["base"][metric])
            assert gain["ci95"][0] <= gain["abs"] <= gain["ci95"][1]
            assert gain["won"] + gain["lost"] + gain["tied"] == measured["n_queries"]
    assert {name: told["weights"] for name, told in report["systems"].items()} == {"base": "aa", "tuned": "bb"}
    assert report["reference"] == "base"
    assert report["settings"]["depth"] == 100
    assert "torch" in report["versions"]
    assert any("linear gain" in note for note in report["notes"])


def test_same_bytes_again_wherever_the_job_is_kept():
    assert to_json(make_report(job("runs/x"))) == to_json(make_report(job("runs/y")))
    assert to_json(make_report(job(seed=0))) != to_json(make_report(job(seed=1)))
    path = Path("runs/x/config.yaml")
    assert to_markdown(make_report(), path) == to_markdown(make_report(), path)


def test_headline_claims_only_what_the_interval_shows():
    domain, guard = make_report()["headline"]
    assert domain.startswith("Domain domain: the tuned model is better. dense nDCG@10 from 0.")
    assert guard.startswith("Guard guard: no difference shown. ")
    swapped = report_of([make_set("domain", "domain", [(1, 3)] * 20)])
    assert "the tuned model is worse" in swapped["headline"][0]
    assert swapped["sets"]["domain"]["verdicts"] == {"tuned": "worse"}


def test_one_query_and_none_found():
    report = report_of([make_set("domain", "domain", [(0, 0)])])
    strict(to_json(report))
    assert "no difference shown" in report["headline"][0]
    assert "None." in to_markdown(report, Path("c.yaml"))


@pytest.mark.parametrize("text", NASTY)
def test_escaped_text_is_shown_as_it_is(text: str):
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    flat = " ".join(text.split())
    table = page.parse(f"| a | b |\n| --- | --- |\n| x | {escape(text)} |\n")
    cells = [token for token in table if token.type == "inline"]
    assert len(cells) == 4
    for inline in (cells[3], page.parse(f"Answer: {escape(text)}")[1]):
        children = inline.children or []
        assert {child.type for child in children} <= {"text", "text_special"}
        assert "".join(child.content for child in children).removeprefix("Answer: ") == flat


def test_markdown_keeps_its_structure_whatever_the_texts():
    report = make_report()
    text = to_markdown(report, Path("runs/a b/config.yaml"))
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    part = ["Queries won", "Queries lost"]
    ends = ["How to reproduce", "How it was measured"]
    assert headings == [
        "org/base: base against tuned", "domain (domain)", *part, "guard (guard)", *part, *ends
    ]  # fmt: skip
    types = [token.type for token in tokens]
    assert types.count("table_open") == 2
    assert types.count("td_open") == 2 * 10 * len(columns(report))
    assert not [token for token in tokens if token.type == "html_block"]
    inner = {child.type for token in tokens for child in token.children or []}
    assert not inner & {"html_inline", "link_open", "image"}
    assert "bgetune adapt --config 'runs/a b/config.yaml'" in text
    for line in report["headline"]:
        assert escape(line) in text


def test_signed_shows_small_changes_and_no_minus_zero():
    assert [signed(v) for v in (0.05, -0.0004, 0.0, -0.0, -1e-12)] == ["+0.050", "-0.0004", "0.000", "0.000", "0.000"]


@pytest.mark.parametrize("width", [60, 110])
def test_terminal_table_is_plain_text(width: int):
    out = io.StringIO()
    print_report(make_report(), Console(file=out, width=width, highlight=False))
    shown = out.getvalue()
    assert "[" not in shown
    assert "\x1b" not in shown
    assert make_report()["headline"][0] in shown
    if width == 110:
        assert sum("nDCG@10" in line and "won" not in line for line in shown.splitlines()) >= 4


def test_a_loss_that_begins_later_has_a_curve(tmp_path: Path):
    lines = [{"step": 0, "dev/ndcg@10": 0.5}, {"step": 1, "loss": 2.0, "loss/dense": 2.0}]
    lines += [{"step": 2, "loss": 1.5, "loss/dense": 1.0, "distillation/dense": 0.5}]
    log = tmp_path / "train.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    curves = training_curves(log)
    assert curves == {
        "steps": [1, 2],
        "losses": {"loss": [2.0, 1.5], "loss/dense": [2.0, 1.0], "distillation/dense": [None, 0.5]},
        "dev": [{"step": 0, "ndcg@10": 0.5}],
    }
    assert training_curves(tmp_path / "none") is None
