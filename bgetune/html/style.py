"""Colours and looks that every page shares: system fonts, light and dark, one column on a telephone."""

from __future__ import annotations

TOKENS: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#14171b"),
    "surface": ("#f5f6f8", "#1d2126"),
    "ink": ("#1b1f24", "#e6e9ed"),
    "soft": ("#57606a", "#a3acb6"),
    "line": ("#d5dae0", "#363d45"),
    "control": ("#7a8591", "#7d8894"),
    "good": ("#1a6b34", "#6cc98a"),
    "bad": ("#b3330a", "#f59a76"),
    "mark": ("#ffe28a", "#5c4a0c"),
    "series-1": ("#1f6fc5", "#62a8f2"),
    "series-2": ("#c2570c", "#f0934a"),
    "series-3": ("#0f7a6a", "#4cc2ad"),
    "series-4": ("#8a3fc0", "#c59bf0"),
    "series-5": ("#b3266b", "#f283b4"),
    "series-6": ("#66661a", "#c9c25a"),
}
"""Custom property -> its colour in light and in dark. Text is ink, soft, good or bad on page or surface (4.5:1 and
more, WCAG AA); control and series are seen beside them (3:1)."""


def _tokens(which: int) -> str:
    return " ".join(f"--{name}: {both[which]};" for name, both in TOKENS.items())


_COLOURS = f"""
:root {{ color-scheme: light; {_tokens(0)} }}
@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ color-scheme: dark; {_tokens(1)} }} }}
:root[data-theme="dark"] {{ color-scheme: dark; {_tokens(1)} }}
@media print {{ :root, :root:not([data-theme="light"]), :root[data-theme] {{ color-scheme: light; {_tokens(0)} }} }}
"""

CSS = (
    _COLOURS
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 8px; max-width: 75ch; }
a { color: inherit; }
:focus-visible { outline: 2px solid var(--series-1); outline-offset: 2px; }
.verdict { font-size: 1.2rem; font-weight: 600; margin-top: 16px; }
.soft, .meta, figcaption, caption { color: var(--soft); font-size: .875rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; padding: 0; margin: 0; font-size: .875rem; }
nav a { display: inline-block; padding: 5px 0; }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 4px; }
th, td { text-align: left; vertical-align: top; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
th { font-weight: 600; } tbody th { font-weight: 400; }
.n { text-align: right; white-space: nowrap; }
thead .n { white-space: normal; vertical-align: bottom; }
.text td, .text tbody th, .settings td { overflow-wrap: anywhere; }
.text tbody th { min-width: 6em; }
.settings th, .settings td { padding-top: 2px; padding-bottom: 2px; }
figure { margin: 0; padding: 12px; background: var(--surface); border-radius: 8px; min-width: 0; }
figcaption { margin-bottom: 8px; } figcaption strong { color: var(--ink); font-size: 1rem; }
.meta { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 0; }
.passage { white-space: pre-line; margin: 0; max-width: 90ch; }
details { margin: 0 0 8px; } summary { cursor: pointer; padding: 2px 0; max-width: 90ch; }
details[open] > summary .lead { display: none; }
details:not([open]) > summary .less { display: none; }
.more { color: var(--soft); font-size: .875rem; white-space: nowrap; }
@media (max-width: 600px) { main { padding: 16px 12px 48px; } th, td { padding-right: 12px; } h2 { margin-top: 28px; } }
"""
)
