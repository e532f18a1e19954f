"""The audit's own looks, beside those that every page shares."""

from bgetune.html.style import CSS as SHARED

CSS = (
    SHARED
    + """
h4 { font-size: .85rem; margin: 12px 0 4px; color: var(--soft); }
.remarks { list-style: none; padding: 0; margin: 0 0 16px; }
.remarks li { display: flex; gap: 10px; padding: 6px 0; max-width: 90ch; }
.kind { flex: none; width: 5.2em; font-weight: 600; font-size: .875rem; padding-top: 2px; }
.look .kind { color: var(--bad); } .fine .kind { color: var(--good); } .unknown .kind { color: var(--soft); }
.bars { width: 100%; max-width: 820px; }
.bars thead th:first-child { width: 50%; }
.bar { display: block; height: 8px; margin: 3px 0; background: var(--control); border-radius: 0 3px 3px 0;
  min-width: 1px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 20px; }
figure { max-width: 560px; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .name { fill: var(--ink); font-size: 12px;
  paint-order: stroke; stroke: var(--surface); stroke-width: 4px; }
.grid { stroke: var(--line); stroke-width: 1; } .floor { stroke: var(--soft); stroke-width: 1; }
.median { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 3 3; fill: none; }
rect.positives { fill: var(--series-1); } rect.negatives { fill: var(--series-2); }
article { background: var(--surface); border-radius: 8px; padding: 14px 16px; margin: 0 0 16px; }
article h3 { font-size: 1.05rem; white-space: pre-line; }
.passages { list-style: none; padding: 0; margin: 0; }
.passages li { border-left: 4px solid var(--series-2); padding: 2px 0 2px 12px; margin: 0 0 10px; }
.passages.positives li { border-left-color: var(--series-1); border-left-style: double; border-left-width: 6px; }
.passages details { margin: 0; }
.flag { color: var(--bad); font-weight: 600; }
@media (max-width: 600px) { .remarks li { flex-direction: column; gap: 0; } }
"""
)
