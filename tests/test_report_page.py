"""The report as a page: its words, its safety, its size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from bgetune.html.style import TOKENS
from eval.page.page import page, write_page
from tests.html_check import Checker
from tests.report_example import PARTS, example_report

NASTY = [
    "<script>alert(1)</script><b onmouseover='x()'>&amp;</b>",
    '"><img src=x onerror=alert(1)> \x00\x1b\ud800 line\r\nbreak',
    "</style></title></script>\u202eשלום עולם، مرحبا",
    "word " * 60,
]
GONE = {
    "slices": "Slices", "matrix": "By language pair", "examples": "Won: 1 shown", "explained": "Why: scores",
    "hybrid_weights": "Weights of hybrid_tuned", "merging": "share of tuned", "indexes": "Production indexes",
    "compression": "Cheaper vectors", "probes": "Probes", "training": "Training", "rounds": "Rounds of mining",
    "failed": "Failed:",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> str:
    return page(example_report())


@pytest.fixture(scope="module")
def seen(whole: str) -> Checker:
    return Checker(whole)


def words_of(html: str) -> str:
    return re.sub(r"\s+", " ", Checker(html).text)


# --- what it says ---


def test_the_page_says_what_the_report_says(seen: Checker) -> None:
    report = example_report()
    text = re.sub(r"\s+", " ", seen.text)
    gain = report["sets"]["xquad"]["gains"]["hybrid"]["merged"]["ndcg@10"]
    for words in (
        report["title"],
        "Failed: 1 limit is broken" + report["failed"][0],
        "▼ worsemerged on xquad",
        f"{gain['abs']:+.3f} ({gain['ci95'][0]:+.3f} to {gain['ci95'][1]:+.3f}; p ".replace("-", "−"),
        "Each query's difference",
        "passage length",
        "tuned less base",
        "Score of each head",
        "Multi-vector: each query token's nearest passage token",
        "model's gain over base, exactindex's loss",
        "chosen",
        "loses too much",
        "binary 384",
        "spearman",
        report["config_hash"],
        report["sets"]["scifact"]["data_hash"],
        report["systems"]["merged"]["weights"],
        "2.13.0",
        report["notes"][0],
    ):
        assert words in text, words
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_sections_come_in_order_with_the_verdict_first(seen: Checker) -> None:
    ids = [attrs["id"] for attrs in seen.named("section")]
    sets = [f"set-{at}" for at in range(1, 6)]
    rest = ["rounds", "training", "merging", "indexes", "compression", "probes", "made"]
    assert ids == ["verdict", "gains", *sets, *rest]
    assert [attrs["href"] for attrs in seen.named("a") if "skip" not in str(attrs.get("class"))][-len(ids) + 1 :] == [
        f"#{name}" for name in ids[1:]
    ]


@pytest.mark.parametrize("part", PARTS)
def test_what_the_report_lacks_the_page_leaves_out(part: str, seen: Checker) -> None:
    few = Checker(page(example_report(sets=2, systems=2, examples=1, tokens=2, without=[part])))
    assert GONE[part] not in few.text
    assert GONE[part] in seen.text.replace("Won: 5", "Won: 1")


@pytest.mark.parametrize("how", [{"heads": ["dense"]}, {"systems": 1}, {"sets": 1, "examples": 1}, {"tokens": 0}])
def test_a_small_report_is_a_page_too(how: dict[str, object]) -> None:
    small = {"systems": 2, "sets": 2, **how}
    assert "How it was made" in words_of(page(example_report(**small, without=PARTS if how == {"systems": 1} else ())))


def test_an_absent_part_is_as_an_empty_one() -> None:
    report = example_report(sets=1, systems=2, without=[part for part in PARTS if part != "examples"])
    lean = {key: value for key, value in report.items() if value != []}
    assert page(lean) == page(report)


# --- what it is made of ---


def test_the_page_needs_nothing_but_itself(whole: str, seen: Checker) -> None:
    assert len(seen.named("script")) == 1
    assert not [tag for tag, attrs in seen.tags if tag in ("link", "img", "iframe", "object") or "src" in attrs]
    assert not re.search(r"https?:|url\(|@import", whole)
    policy = next(attrs["content"] for attrs in seen.named("meta") if "http-equiv" in attrs)
    script = re.search(r"<script>(.*?)</script>", whole, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("text", NASTY)
def test_hostile_texts_stay_texts(text: str, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", example_report(systems=2, sets=2, examples=2, tokens=3, text=text))
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Checker(html)
    assert len(found.named("script")) == len(found.named("style")) == 1
    assert not found.named("img")
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert not re.search(r"[\x00\x1b]", html)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_names_headings_and_tables_are_in_order(seen: Checker) -> None:
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for attrs in seen.named("a")}
    assert targets | {attrs["aria-labelledby"] for _, attrs in seen.tags if "aria-labelledby" in attrs} <= set(ids)
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert len(seen.named("caption")) == len(seen.named("table")) > 20
    assert all(attrs.get("scope") in ("row", "col") for attrs in seen.named("th"))
    assert {"header", "main", "nav", "footer"} <= {tag for tag, _ in seen.tags}


def test_the_same_report_gives_the_same_bytes(whole: str) -> None:
    assert page(json.loads(json.dumps(example_report()))) == whole


def test_many_long_examples_stay_below_five_megabytes() -> None:
    report = example_report(tokens=64)
    for measured in report["sets"].values():
        for row in (row for sides in measured["examples"].values() for rows in sides.values() for row in rows):
            for owner, key in (
                (row, "query"),
                (row, "positive"),
                *((top, "text") for top in row["top"].values() if top),
            ):
                owner[key] += " <long> & 𝕏" * 1000
    whole = page(report)
    assert len(whole.encode()) < 5_000_000
    assert re.search(r"the first \d+ of 64", whole)
    assert re.search(r"Cut at [\d,]+ of 11,", whole)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_told_apart(theme: int) -> None:
    found = {name: both[theme] for name, both in TOKENS.items()}
    grounds = [found["page"], found["surface"]]
    for text in ("ink", "soft", "good", "bad"):
        assert min(contrast(found[text], ground) for ground in grounds) >= 4.5, text
    assert min(contrast(found["ink"], found[ground]) for ground in ("mark", "line")) >= 4.5
    for name in (name for name in found if name.startswith("series-") or name == "control"):
        assert min(contrast(found[name], ground) for ground in grounds) >= 3, name
