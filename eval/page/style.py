"""The report's own looks, beside those that every page shares."""

from bgetune.html.style import CSS as SHARED

CSS = (
    SHARED
    + """
html { scroll-padding-top: 12px; }
body > header, main, footer { max-width: 1280px; margin: 0 auto; padding: 0 16px; }
body > header { display: flex; justify-content: space-between; align-items: flex-start; gap: 16px; padding-top: 24px; }
main { padding-bottom: 40px; } main:focus { outline: none; } footer { padding-bottom: 32px; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 8px; top: 8px; background: var(--page); padding: 8px; }
h2 .soft { font-weight: 400; } #verdict h2 { border-top: 0; margin-top: 12px; }
h3, h4, h5, h6 { margin: 0; font-size: 1rem; line-height: 1.4; } h4 { margin: 16px 0 4px; }
h6 { font-size: .875rem; margin-bottom: 4px; } h6 .soft { font-weight: 400; }
button, select, input { font: inherit; font-size: .875rem; color: var(--ink); background: var(--page);
  border: 1px solid var(--control); border-radius: 6px; padding: 5px 10px; min-height: 34px; max-width: 100%; }
button { cursor: pointer; } #theme { flex: none; }
.good { color: var(--good); } .bad { color: var(--bad); }
.failed { border: 2px solid var(--bad); border-left-width: 10px; border-radius: 6px; padding: 10px 16px;
  margin: 8px 0 16px; }
.failed h3 { color: var(--bad); font-size: 1.2rem; } .failed ul { margin: 4px 0 0; padding-left: 20px; }
.verdicts { list-style: none; padding: 0; margin: 8px 0 12px; }
.verdicts li { display: grid; grid-template-columns: 12.5em minmax(10em, 1fr) minmax(16em, 2fr); gap: 2px 14px;
  padding: 6px 0;
  border-bottom: 1px solid var(--line); }
.figures { font-variant-numeric: tabular-nums; }
.badge { font-weight: 600; font-size: .875rem; white-space: nowrap; } .badge.same { color: var(--soft); }
.badges { display: flex; flex-wrap: wrap; gap: 2px 18px; max-width: none; }
nav { margin: 16px 0; padding: 8px 0; border-block: 1px solid var(--line); }
.fold { border-top: 1px solid var(--line); margin: 0; } .fold > summary { padding: 9px 0; max-width: none; }
.fold > summary > * { display: inline; } .inside { padding: 2px 0 16px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px;
  align-items: start; margin-bottom: 16px; }
figure { margin-bottom: 12px; } figure:not(:has(.chart-scroll)) { max-width: 566px; }
.charts figure { margin: 0; } figcaption { margin: 8px 0 0; }
.tools { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center; margin: 8px 0 0; font-size: .875rem; }
.tools label { display: flex; gap: 6px; align-items: center; max-width: 100%; } .tools output { color: var(--soft); }
.tools input { width: 14em; } .tools select { min-width: 0; }
.grid { min-width: min(100%, 480px); } .grid code { overflow-wrap: anywhere; }
.grid tbody th, .grid td:not(.n) { min-width: 4.6em; }
.grid th, .grid td { padding: 5px 16px 5px 0; max-width: 34em; }
.grid tr > :first-child { position: sticky; left: 0; background: var(--page); }
.grid thead th { vertical-align: bottom; background: var(--page); }
.grid thead button { border: 0; padding: 4px 0; min-height: 28px; font-weight: 600; font-size: 1em; text-align: inherit;
  background: none; border-radius: 3px; }
.grid thead button::after { content: "\\a0↕"; color: var(--soft); font-weight: 400; }
.grid [aria-sort="ascending"] button::after { content: "\\a0↑"; color: var(--ink); }
.grid [aria-sort="descending"] button::after { content: "\\a0↓"; color: var(--ink); }
.grid tbody tr:hover, .grid tbody tr:hover > :first-child { background: var(--surface); }
article { background: var(--surface); border-radius: 8px; padding: 12px 16px; margin: 0 0 14px; }
article h5 { font-size: 1.05rem; } .meta b { white-space: nowrap; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); gap: 12px 24px;
  margin: 10px 0; }
.sides.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
.sides > div { min-width: 0; } .sides > .answer { border-left: 4px solid var(--good); padding-left: 12px; }
.sides > .other { border-left: 4px double var(--control); padding-left: 12px; }
.passage { font-size: .94rem; } mark { background: var(--mark); color: inherit; border-radius: 2px; }
article .fold { border-top-color: var(--control); } article .fold > summary h6 { color: var(--soft); margin: 0; }
.part { font-weight: 600; margin: 12px 0 0; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; padding: 0; margin: 4px 0 10px;
  font-size: .875rem; }
.chips li { border: 1px solid var(--line); border-radius: 6px; padding: 2px 8px 4px;
  background: linear-gradient(var(--series-1), var(--series-1)) 0 100% / var(--v) 3px no-repeat var(--page); }
.chips span { color: var(--soft); }
.align { width: 100%; } .align th, .align td { padding: 3px 12px 3px 0; } .align td { overflow-wrap: anywhere; }
.align td.n { min-width: 5em; padding-right: 4px;
  background: linear-gradient(var(--line), var(--line)) 100% 4px / var(--v) 1.3em no-repeat; }
.notes { padding-left: 20px; } .notes li { max-width: 90ch; margin-bottom: 4px; }
@media (min-width: 1100px) {
  main { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 0 32px; }
  #verdict { grid-column: 1 / -1; } .content section:first-child h2 { border-top: 0; margin-top: 0; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow: auto; border: 0; margin: 0; }
  nav ul { flex-direction: column; } nav a { padding: 4px 0; }
}
@media (max-width: 700px) { .verdicts li { grid-template-columns: 1fr; gap: 0; padding: 8px 0; }
  nav ul { gap: 2px 16px; } nav a { padding: 8px 0; } article { padding: 12px; }
  button, select, .tools input { min-height: 40px; } .grid thead button { min-height: 36px; }
  .tools input { width: 11em; } }
@media print { #theme, nav, .tools, .skip { display: none; } body { font-size: 11pt; } .wide { overflow: visible; }
  h2, h3, summary { break-after: avoid; } figure, article, tr { break-inside: avoid; }
  .grid thead button::after { content: none; } }
"""
)
