"""The page's looks: system fonts, light and dark, one column on a telephone."""

CSS = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0;
  --pos: #1f6fc5; --neg: #c2570c; --bar: #7a8591; --look: #a04000; --fine: #1a6b34; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --ink: #e6e9ed; --soft: #a3acb6;
  --line: #363d45; --pos: #62a8f2; --neg: #f0934a; --bar: #8b96a2; --look: #f2a65a; --fine: #6cc98a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 8px; }
h4 { font-size: .85rem; margin: 12px 0 4px; color: var(--soft); }
p { margin: 0 0 8px; max-width: 75ch; }
a { color: inherit; }
.verdict { font-size: 1.2rem; font-weight: 600; margin-top: 16px; }
.soft, .meta, figcaption, caption { color: var(--soft); font-size: .875rem; }
.remarks { list-style: none; padding: 0; margin: 0 0 16px; }
.remarks li { display: flex; gap: 10px; padding: 6px 0; max-width: 90ch; }
.kind { flex: none; width: 5.2em; font-weight: 600; font-size: .875rem; padding-top: 2px; }
.look .kind { color: var(--look); } .fine .kind { color: var(--fine); } .unknown .kind { color: var(--soft); }
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
.bars { width: 100%; max-width: 820px; }
.bars thead th:first-child { width: 50%; }
.bar { display: block; height: 8px; margin: 3px 0; background: var(--bar); border-radius: 0 3px 3px 0; min-width: 1px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 20px; }
figure { margin: 0; padding: 12px; background: var(--card); border-radius: 8px; max-width: 560px; min-width: 0; }
figcaption { margin-bottom: 8px; } figcaption strong { color: var(--ink); font-size: 1rem; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .name { fill: var(--ink); font-size: 12px;
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.grid { stroke: var(--line); stroke-width: 1; } .floor { stroke: var(--soft); stroke-width: 1; }
.median { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 3 3; fill: none; }
rect.positives { fill: var(--pos); } rect.negatives { fill: var(--neg); }
article { background: var(--card); border-radius: 8px; padding: 14px 16px; margin: 0 0 16px; }
article h3 { font-size: 1.05rem; white-space: pre-line; }
.passages { list-style: none; padding: 0; margin: 0; }
.passages li { border-left: 4px solid var(--neg); padding: 2px 0 2px 12px; margin: 0 0 10px; }
.passages.positives li { border-left-color: var(--pos); border-left-style: double; border-left-width: 6px; }
.meta { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 0; }
.passages details { margin: 0; }
.flag { color: var(--look); font-weight: 600; }
.passage { white-space: pre-line; margin: 0; max-width: 90ch; }
details { margin: 0 0 8px; } summary { cursor: pointer; padding: 2px 0; max-width: 90ch; }
details[open] > summary .lead { display: none; }
details:not([open]) > summary .less { display: none; }
.more { color: var(--soft); font-size: .875rem; white-space: nowrap; }
@media (max-width: 600px) { main { padding: 16px 12px 48px; } th, td { padding-right: 12px; }
  .remarks li { flex-direction: column; gap: 0; } h2 { margin-top: 28px; } }
"""
