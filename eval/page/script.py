"""What the page does when it is touched: sort, filter, choose, change colours. It fetches and keeps nothing."""

SCRIPT = r"""
(() => {
"use strict";
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const shown = (cell) => cell.textContent.trim();

const theme = document.getElementById("theme");
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const nameTheme = () => { theme.textContent = isDark() ? "Light colours" : "Dark colours"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
system.addEventListener("change", nameTheme);
nameTheme();

const words = new Intl.Collator("en", {numeric: true, sensitivity: "base"});
const values = (row, column, numeric) => {
  const cell = row.cells[column];
  return numeric ? ("v" in cell.dataset ? Number(cell.dataset.v) : null) : shown(cell) || null;
};
const before = (a, b, down) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : words.compare(a, b);
  return down ? -order : order;
};

const sortable = (table, heads, rows) => {
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("n");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const button = make("button", {type: "button"}, ...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? first : now === first ? second : "none";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const order = rows.map((row, at) => [values(row, column, numeric), at, row]);
      if (next !== "none") order.sort((a, b) => before(a[0], b[0], next === "descending") || a[1] - b[1]);
      table.tBodies[0].append(...order.map((entry) => entry[2]));
    });
  });
};

const filterable = (table, heads, rows) => {
  const said = make("output", {ariaLive: "polite"});
  const choices = heads.flatMap((head, column) => {
    if (!("choose" in head.dataset)) return [];
    const found = [...new Set(rows.map((row) => shown(row.cells[column])))];
    const select = make("select", {}, new Option("all", ""), ...found.map((name) => new Option(name, "=" + name)));
    select.value = head.dataset.choose && "=" + head.dataset.choose;
    return [{column, select, label: make("label", {}, shown(head), select)}];
  });
  const search = make("input", {type: "search", autocomplete: "off"});
  const texts = rows.map((row) => [...row.cells].map(shown).join(" ").toLowerCase());
  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    rows.forEach((row, at) => {
      const fits = ({column, select}) => !select.value || "=" + shown(row.cells[column]) === select.value;
      row.hidden = !(choices.every(fits) && wanted.every((word) => texts[at].includes(word)));
      seen += !row.hidden;
    });
    choices.filter(({column}) => column > 0).forEach(({column, select}) => {
      const one = Boolean(select.value);
      [heads[column], ...rows.map((row) => row.cells[column])].forEach((cell) => { cell.hidden = one; });
    });
    said.textContent = seen === rows.length ? rows.length + " rows" : seen + " of " + rows.length + " rows";
  };
  choices.forEach(({select}) => select.addEventListener("change", apply));
  search.addEventListener("input", apply);
  const tools = make("div", {className: "tools", role: "group"}, ...choices.map((choice) => choice.label),
    make("label", {}, "filter", search), said);
  tools.setAttribute("aria-label", "Rows of: " + shown(table.caption));
  table.parentElement.before(tools);
  apply();
};

for (const table of document.querySelectorAll("table.grid")) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  if (rows.length > 3) filterable(table, heads, rows);
  if (rows.length > 1) sortable(table, heads, rows);
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
})();
"""
