"""The style and the script of the report's page; constants, so that `html` is about content."""

from typing import Final

STYLE: Final = """
:root { --ink: #1f2430; --muted: #68707d; --grid: #e2e5ea; --paper: #fefefe; --back: #f4f5f7; --accent: #0072b2;
  --warm: #b87800; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --muted: #9aa3b0; --grid: #363c47; --paper: #191d24;
  --back: #101319; --accent: #56b4e9; --warm: #e69f00; } }
@media print { :root { --ink: #1f2430; --muted: #68707d; --grid: #e2e5ea; --paper: #fff; --back: #fff;
  --accent: #0072b2;
  --warm: #b87800; } section, .tiles > div { break-inside: avoid; } .tall { max-height: none !important; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 var(--font); }
main { max-width: 1000px; margin: 0 auto; padding: 28px 16px 60px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; overflow-wrap: anywhere;
  text-wrap: balance; }
.quiet { margin: 0; } .whole { white-space: nowrap; }
h2 { font-size: 1.1rem; margin: 0 0 8px; } h2.over { font-size: 0.85rem; font-weight: 500; color: var(--muted);
  margin: 0 0 4px; }
.facts, figcaption, .key, small { color: var(--muted); overflow-wrap: anywhere; }
.facts { margin: 0 0 10px; } .facts b { color: var(--ink); font-weight: 600; }
section { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 18px 20px;
  margin: 16px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 10px; margin: 18px 0; }
.tiles > div { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 12px 14px; }
dt { color: var(--muted); font-size: 0.8rem; overflow-wrap: anywhere; }
dd { margin: 0; font-size: 1.4rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
dd.aside { font-size: 0.8rem; font-weight: 400; color: var(--muted); }
figure { margin: 0; } figcaption { font-size: 0.85rem; margin-top: 4px; }
.picture { display: block; width: 100%; height: auto; min-width: 0; }
.scroll { overflow-x: auto; } .tall { max-height: 620px; overflow-y: auto; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--grid); }
thead th { color: var(--muted); font-weight: 500; } tbody th { font-weight: 500; }
tfoot th, tfoot td { border-bottom: 0; font-weight: 650; }
.config td:not(.range), .config th { white-space: normal; overflow-wrap: anywhere; }
.config .changed { font-weight: 650; color: var(--accent); }
.track { stroke: var(--grid); stroke-width: 3; stroke-linecap: round; }
.best { fill: var(--accent); color: var(--accent); } .default { fill: var(--warm); color: var(--warm); }
.key { font-size: 0.85rem; margin: 8px 0 0; }
.books { display: flex; flex-wrap: wrap; gap: 12px 48px; }
caption { text-align: left; font-weight: 650; padding-bottom: 4px; }
.account td, .account thead th + th { text-align: right; }
.account i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px; }
.sortable thead th { position: sticky; top: 0; background: var(--paper); padding-bottom: 6px; }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
.sortable [aria-sort=ascending] button::after { content: " ↑"; }
  .sortable [aria-sort=descending] button::after { content: " ↓"; }
.sortable td { max-width: 260px; overflow: hidden; text-overflow: ellipsis; } .top { font-weight: 650; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
details { border-top: 1px solid var(--grid); padding: 7px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: var(--back); border-radius: 8px; padding: 10px 12px; max-height: 320px; overflow: auto;
  font-size: 0.8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 700px) { section { padding: 14px 12px; } figure { overflow-x: auto; }
  .picture { min-width: 620px; } .range { display: none; } }
"""

SCRIPT: Final = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent;
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const none = value => value === "" || value === "–";
    const order = (a, b) => {
      const x = key(a, i), y = key(b, i);
      if (none(x) || none(y)) return none(x) - none(y);
      const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? difference : -difference;
    };
    body.append(...[...body.rows].sort(order));
  }));
}
"""
