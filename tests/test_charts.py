"""The report's charts: every input draws something that is well-formed, inside its frame, escaped and said in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.page.charts import (
    BarGroup,
    Counts,
    Dot,
    Gain,
    GainRow,
    Mark,
    bars,
    differences,
    gains,
    heatmap,
    less,
    lines,
    scatter,
)
from eval.page.charts.scale import Scale, round_scale, thin, ticks, wide_scale
from eval.page.charts.scatter import pareto
from eval.page.charts.svg import SIZE, fit, width_of

LABEL = "nDCG@10 less base's"
HEAT = {"title": "t", "row_label": "query", "column_label": "passage", "value_label": "nDCG@10"}


def drawn(chart: str) -> ElementTree.Element:
    """The figure as a tree; it has what every chart has."""
    tree = ElementTree.fromstring(chart)
    assert tree.tag == "figure"
    assert tree.attrib["class"] == "chart"
    svg = tree.find(".//svg")
    assert svg is not None
    assert svg.attrib["role"] == "img"
    assert [child.tag for child in svg][:2] == ["title", "desc"]
    assert tree.find("figcaption") is not None
    attributes = [element.attrib for element in tree.iter()]
    written = " ".join(value for known in attributes for name, value in known.items() if name != "aria-label")
    assert not re.search(r"https?:|url\(|#|rgb|nan|inf", written)
    assert not [element for element in tree.iter() if element.tag in ("script", "style", "image", "use", "a")]
    assert set(re.findall(r"var\((.*?)\)", written)) <= {
        *(f"--series-{i}" for i in range(1, 7)),
        *("--ink", "--soft", "--line", "--good", "--bad", "--surface"),
    }
    assert not re.search(r"\.\d{3}|e[+-]\d", written)
    return tree


def texts(tree: ElementTree.Element) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """Every text that lies, with the box it covers."""
    for group in tree.iter():
        for text in group.findall("text"):
            if "transform" in text.attrib:
                continue
            words = text.text or ""
            anchor = text.get("text-anchor", group.get("text-anchor", "start"))
            x, y, wide = float(text.attrib["x"]), float(text.attrib["y"]), width_of(words)
            left = x - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
            yield words, (left, y - SIZE + 3, left + wide, y + 2)


def check_frame(chart: str) -> ElementTree.Element:
    tree = drawn(chart)
    svg = tree.find(".//svg")
    assert svg is not None
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    for words, (left, top, right, bottom) in texts(tree):
        assert -0.1 <= left <= right <= width + 0.1, words
        assert -0.1 <= top <= bottom <= height + 0.1, words
    return tree


def check_apart(chart: str) -> None:
    """No text covers another."""
    found = list(texts(check_frame(chart)))
    for i, (words, a) in enumerate(found):
        for others, b in found[:i]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (words, others)


def described(chart: str) -> str:
    return drawn(chart).findtext(".//desc") or ""


GAINS = [
    GainRow("nfcorpus", "tuned", Gain(0.0412, 0.031, 0.0513), "better"),
    GainRow("scifact", "tuned", Gain(-0.0212, -0.031, -0.0113), "worse"),
    GainRow("scifact", "merged", Gain(-0.0012, -0.0091, 0.0063), "no difference shown"),
    GainRow("a very long name of a set that nobody would ever choose", "merged", Gain(None), "no difference shown"),
    GainRow("alone", "merged", Gain(0.02)),
]
GROUPS = [
    BarGroup("short (up to 40 words)", 1134, {"tuned": Gain(0.031, 0.02, 0.042), "merged": Gain(0.004, -0.01, 0.018)}),
    BarGroup("a label that is much too long for the line that it is printed on", 1, {"tuned": Gain(-0.03)}),
    BarGroup("none", 0, {"tuned": Gain(None)}),
]
DOTS = [
    *(Dot(4096.0 * 2**-k, 0.42 - 0.01 * k, "Matryoshka", f"{1024 // 2**k} dims") for k in range(5)),
    *(Dot(1024.0, 0.415, "int8", "all dims"), Dot(128.0, 0.395, "binary", "all dims"), Dot(None, 0.5, "int8", "lost")),
]
CURVES = {
    "dev": [(k / 10, 0.05 * k / 10) for k in range(11)],
    "guard": [(k / 10, -0.02 * k / 10 if k != 4 else None) for k in range(11)],
}
MARKS = [Mark("allowed loss: 0.010", y=-0.01), Mark("chosen: 0.5", x=0.5), Mark("best", 1.0, 0.05)]
MATRIX = [[0.5, None, 0.7], [0.25, 0.5, 1.0], [0.0, 0.1, 0.2]]

EXAMPLES = {
    "gains": gains(GAINS, title="Gains", x_label=LABEL),
    "bars": bars(GROUPS, title="Passage length", x_label=LABEL),
    "differences": differences(
        {"tuned": [0.5, 0.2, 0, 0, 0, -0.1], "merged": [-1, -1, 0, 0.5]},
        title="By query",
        reference="base",
        metric="nDCG@10",
    ),
    "lines": lines(CURVES, title="Merging", x_label="share of tuned weights", y_label=LABEL, marks=MARKS),
    "scatter": scatter(DOTS, title="Price", x_label="bytes a passage", y_label="nDCG@10"),
    "heatmap": heatmap(["de", "en", "fr"], ["de", "en", "fr"], MATRIX, **HEAT),
    "difference": heatmap(["de", "en", "fr"], ["de", "en", "fr"], MATRIX, diverging=True, **HEAT),
    "wide": heatmap(["de"] * 14, ["language"] * 14, [[-0.01 * i for i in range(14)]] * 14, diverging=True, **HEAT),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_texts_stay_apart_and_inside(name: str) -> None:
    check_apart(EXAMPLES[name])


def test_nothing_says_so() -> None:
    empty = [
        gains([], title="t", x_label="x"),
        bars([], title="t", x_label="x"),
        bars([BarGroup("empty", 0, {})], title="t", x_label="x"),
        differences({}, title="t", reference="base", metric="m"),
        differences({"tuned": [None, float("nan")]}, title="t", reference="base", metric="m"),
        lines({}, title="t", x_label="x", y_label="y"),
        lines({"a": [(1, None)], "b": []}, title="t", x_label="x", y_label="y"),
        scatter([], title="t", x_label="x", y_label="y"),
        scatter([Dot(0.0, 0.5, "a", "b"), Dot(1.0, None, "a", "b")], title="t", x_label="x", y_label="y"),
        heatmap([], [], [], **HEAT),
        heatmap(["de"], ["en"], [[None]], **HEAT),
    ]
    for chart in empty:
        check_frame(chart)
        assert re.match(r"There (is|are) no", described(chart))


def test_data_is_escaped() -> None:
    bad = "<script>alert('x')</script>&\"\x00\u202e\ud800\n"
    matrix = {**HEAT, "row_label": bad, "value_label": bad, "caption": bad}
    charts = [
        gains([GainRow(bad, bad, Gain(0.1, 0.0, 0.2), bad)], title=bad, x_label=bad, caption=bad),
        bars([BarGroup(bad, 3, {bad: Gain(0.1), "b": Gain(0.2)})], title=bad, x_label=bad, caption=bad),
        differences({bad: [0.1]}, title=bad, reference=bad, metric=bad, caption=bad),
        lines({bad: [(1, 2.0)]}, title=bad, x_label=bad, y_label=bad, marks=[Mark(bad, y=1)], caption=bad),
        scatter([Dot(1, 2, bad, bad)], title=bad, x_label=bad, y_label=bad, caption=bad),
        heatmap([bad] * 9, [bad] * 9, [[0.1] * 9] * 9, **matrix),
    ]
    for chart in charts:
        check_frame(chart)
        chart.encode("utf-8")


def test_gains_say_figures_and_verdicts() -> None:
    chart = EXAMPLES["gains"]
    shown = [words for words, _ in texts(drawn(chart))]
    assert "+0.041 [+0.031, +0.051]" in shown
    assert shown.count("no difference shown") == 2
    assert "not known" in shown
    assert "scifact · tuned: −0.021 [−0.031, −0.011], worse." in described(chart)
    one = gains(GAINS[:1], title="t", x_label=LABEL)
    assert "nfcorpus" in [words for words, _ in texts(drawn(one))]  # the only system goes without saying


def test_bars_are_full_only_where_the_interval_leaves_zero_out() -> None:
    chart = EXAMPLES["bars"]
    colours = [re.findall(r"--([\w-]+)\)", rect) for rect in re.findall(r"<rect[^>]*stroke=[^>]*>", chart)]
    assert colours == [["good", "good"], ["surface", "soft"], ["surface", "soft"]]
    assert "1,134 queries" in chart
    assert ">1 query<" in chart
    assert ">0 queries<" in chart
    assert Gain(0.1, 0.0, 0.2).sure is False
    assert Gain(-0.1, -0.2, -0.01).sure is True


def test_differences_are_sorted_and_counted() -> None:
    chart = differences({"tuned": [0, -0.5, 1e-12, 0.25, 1]}, title="t", reference="base", metric="nDCG@10")
    assert "tuned: 2 won, 1 lost, 2 tied, from +1.000 to −0.500." in described(chart)
    tips = [title.text for title in drawn(chart).iterfind(".//rect/title")]
    assert tips[0] == "query 1: +1.000"
    assert tips[-1] == "query 5: −0.500"


def test_differences_of_a_sample_keep_the_exact_counts() -> None:
    values = [1 - k / 200 for k in range(401)]
    exact = Counts(4000, 3999, 1)
    chart = differences({"tuned": values}, title="t", reference="base", metric="m", counts={"tuned": exact})
    assert "tuned: 4,000 won, 3,999 lost, 1 tied" in described(chart)
    tips = [title.text or "" for title in drawn(chart).iterfind(".//rect/title")]
    assert len(tips) <= 40
    assert tips[0].startswith("queries 1 to ")
    assert " to 8,000:" in tips[-1]


def test_long_series_are_thinned_and_keep_their_ends() -> None:
    points = [(step, 1 / (1 + step)) for step in range(10_000)]
    chart = lines({"loss": points}, title="t", x_label="step", y_label="loss")
    path = next(d for d in re.findall(r'd="([^"]*)"', chart) if d.count("L") > 10)
    assert path.count("L") == 299
    assert "from 1.000 at 0 to 0.000 at 10k" in described(chart)
    assert len(chart) < 20_000


def test_a_gap_breaks_the_line_and_a_lone_point_is_marked() -> None:
    points = [(float(k), None if k in (3, 5) else 1.0) for k in range(100)]
    chart = lines({"a": points}, title="t", x_label="x", y_label="y")
    path = next(d for d in re.findall(r'd="([^"]*)"', chart) if d.count("L") > 10)
    assert path.count("M") == 3
    assert "a: 1.000 at x 4" in [title.text for title in drawn(chart).iterfind(".//path/title")]


def test_a_log_axis_leaves_out_what_has_no_place() -> None:
    marks = [Mark("at 0", x=0.0), Mark("nowhere"), Mark("not a number", y=float("nan")), Mark("kept", x=10.0)]
    chart = lines(
        {"a": [(0, 1.0), (10, 2.0), (1000, 3.0)]}, title="t", x_label="x", y_label="y", log_x=True, marks=marks
    )
    said = described(chart)
    assert "Left out, at 0 or below: 1." in said
    assert "Marked: kept." in said
    assert "at 0." not in said
    assert "x (log scale)" in [words for words, _ in texts(check_frame(chart))]


def test_scatter_names_the_best_for_their_price() -> None:
    chart = EXAMPLES["scatter"]
    said = described(chart)
    best = "binary all dims, 0.395 at 128; int8 all dims, 0.415 at 1.02k; Matryoshka 1024 dims, 0.420 at 4.1k."
    assert said.endswith(f"Best for their price: {best} 1 without a value that can be drawn.")
    outlines = [path.attrib["d"] for path in drawn(chart).iter("path") if path.find("title") is not None]
    assert len(outlines) == 7
    assert len({(d.count("L"), d.count("a")) for d in outlines}) == 3  # a circle, a square and a triangle


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_pareto_equals_its_definition(points: list[tuple[int, int]]) -> None:
    best = {points[i] for i in pareto(points)}
    beaten = {a for a in points if any((b[0] <= a[0] and b[1] >= a[1]) and b != a for b in points)}
    assert best == set(points) - beaten


def test_heatmap_prints_every_number_and_a_dash() -> None:
    shown = [words for words, _ in texts(drawn(EXAMPLES["heatmap"]))]
    assert {"0.500", "–", "0.700", "0.250", "1.000", "0.000"} <= set(shown)
    counted = heatmap(["de"], ["en", "fr"], [[0.5, 0.25]], counts=[[1, 20]], **HEAT)
    tips = [title.text for title in drawn(counted).iterfind(".//rect/title")]
    assert tips == ["de, en: 0.5000 (1 query)", "de, fr: 0.2500 (20 queries)"]
    assert "Lowest 0.250 (de, fr), highest 0.500 (de, en)." in described(counted)


def test_heatmap_of_differences_signs_and_colours() -> None:
    values = less([[0.5, 0.25, 0.5, None]], [[0.25, 0.375, 0.5, 0.5]])
    chart = heatmap(["de"], ["a", "b", "c", "d"], values, diverging=True, **HEAT)
    rects = re.findall(r'<rect[^>]*fill="var\(--(\w+)\)" fill-opacity="([\d.]+)"><title>', chart)
    assert rects == [("good", "0.5"), ("bad", "0.25"), ("bad", "0"), ("surface", "0")]
    shown = [words for words, _ in texts(drawn(chart))]
    assert {"+0.250", "−0.125", "0.000", "–"} <= set(shown)


def test_a_wide_heatmap_scrolls_and_a_narrow_one_does_not() -> None:
    scroll = drawn(EXAMPLES["wide"]).find("div")
    assert scroll is not None
    assert scroll.attrib["class"] == "chart-scroll"
    assert scroll.attrib["tabindex"] == "0"
    assert drawn(EXAMPLES["heatmap"]).find("div") is None


some_number = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e-9, 0.1])
some_text = st.text(max_size=60)
some_gain = st.builds(Gain, some_number, some_number, some_number)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.builds(GainRow, some_text, some_text, some_gain, some_text), max_size=5), some_text)
def test_gains_draw_anything(rows: list[GainRow], label: str) -> None:
    assert check_frame(gains(rows, title=label, x_label=label)) is not None
    assert gains(rows, title=label, x_label=label) == gains(rows, title=label, x_label=label)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.builds(BarGroup, some_text, st.integers(0, 10**6), st.dictionaries(some_text, some_gain)), max_size=3)
)
def test_bars_draw_anything(groups: list[BarGroup]) -> None:
    check_frame(bars(groups, title="t", x_label="x"))


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(some_text, st.lists(some_number, max_size=60), max_size=3), some_text)
def test_differences_draw_anything(series: dict[str, list[float | None]], reference: str) -> None:
    check_frame(differences(series, title="t", reference=reference, metric="m"))


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(some_text, st.lists(st.tuples(st.floats(-1e6, 1e6), some_number), max_size=40), max_size=4),
    st.lists(st.builds(Mark, some_text, some_number, some_number), max_size=3),
    st.booleans(),
)
def test_lines_draw_anything(series: dict, marks: list[Mark], log_x: bool) -> None:
    check_frame(lines(series, title="t", x_label="x", y_label="y", marks=marks, log_x=log_x))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.builds(Dot, some_number, some_number, some_text, some_text), max_size=15), st.booleans())
def test_scatter_draws_anything(dots: list[Dot], log_x: bool) -> None:
    check_frame(scatter(dots, title="t", x_label="x", y_label="y", log_x=log_x))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 14), st.integers(1, 2), st.booleans())
def test_heatmap_draws_anything(data: st.DataObject, n: int, m: int, diverging: bool) -> None:
    rows, columns = (data.draw(st.lists(some_text, min_size=k, max_size=k)) for k in (m, n))
    values = data.draw(st.lists(st.lists(some_number, min_size=n, max_size=n), min_size=m, max_size=m))
    check_frame(heatmap(rows, columns, values, diverging=diverging, **HEAT))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), max_size=5), st.integers(2, 8), st.booleans())
def test_round_scales_hold_their_values_between_ticks(values: list[float], most: int, zero: bool) -> None:
    scale = round_scale(values, 0.0, 100.0, most, zero)
    assert scale.low < scale.high
    slack = 1e-6 * max(1.0, *map(abs, (scale.low, scale.high)))
    assert all(scale.low - slack <= value <= scale.high + slack for value in [*values, *([0.0] if zero else [])])
    marks = [value for value, _ in ticks(scale, most)]
    assert (marks[0], marks[-1]) == (scale.low, scale.high)
    assert 2 <= len(marks) <= most + 3
    assert len({text for _, text in ticks(scale, most)}) == len(marks)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.integers(1, 8))
def test_log_ticks_are_few_and_inside(a: float, b: float, most: int) -> None:
    scale = wide_scale([a, b], 0.0, 100.0, log=True)
    marks = [value for value, _ in ticks(scale, most)]
    assert len(marks) <= most
    assert all(-1e-6 <= scale.at(value) <= 100 + 1e-6 for value in marks)


def test_fit_and_thin_at_their_ends() -> None:
    assert fit("", 10) == ""
    assert fit("word", 0) == "…"
    assert thin([], 3) == []
    assert thin(range(5), 5) == [0, 1, 2, 3, 4]
    assert Scale(0.0, 1.0, 10.0, 20.0).at(2.0) == 30.0
