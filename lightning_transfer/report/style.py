"""How the report looks, and how its tables sort."""

from lightning_transfer.report.charts import COLORS

STYLE = """
:root { --frozen: #d6dadf; --accent: #1f6feb; --second: #d95f0e; --good: #1a7f37; --bad: #cf222e;
  --series-0: #1f6feb; --series-1: #d95f0e; --series-2: #1b9e77; --series-3: #b5179e;
  --series-4: #8c6d00; --series-5: #5e60ce; --series-6: #c2185b; --series-7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --frozen: #454c55; --accent: #4d93ff; --second: #ff9a52;
  --good: #56d364; --bad: #ff7b72; --series-0: #4d93ff; --series-1: #ff9a52; --series-2: #3ecfa0; --series-3: #f27ae0;
  --series-4: #e0c040; --series-5: #a5a6ff; --series-6: #ff80ab; --series-7: #aab2bd; } }
body { max-width: 72rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0.5rem 2rem; }
figure { margin: 0.8rem 0; min-width: 0; } figure svg { background: none; max-width: 100%; font-family: inherit; }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { color: var(--ink); margin-bottom: 0.3rem; }
.legend { display: block; color: var(--muted); font-size: 0.85em; }
.key { margin-right: 0.9em; white-space: nowrap; } .key::before { content: "■ "; }
.tick { fill: var(--muted); font-size: 11px; dominant-baseline: central; }
summary { cursor: pointer; font-size: 1.25rem; font-weight: 600; margin: 1.5rem 0 0.5rem; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; } th button::after { content: " ↕"; color: var(--muted); }
td.text { white-space: normal; text-align: left; min-width: 18rem; } td.name, th.name { text-align: left; }
pre { overflow-x: auto; font-size: 0.8rem; border: 1px solid var(--grid); border-radius: 6px; padding: 0.6rem; }
.tokens { line-height: 1.9; font-size: 0.9rem; } .tokens span { border-radius: 3px; padding: 0.1em 0.15em; }
.muted { color: var(--muted); }
@media print { html { font-size: 11px; } body { margin: 0; max-width: none; font-size: 1rem; }
  th button::after { content: ""; } .scroll { overflow: visible; }
  .scroll th, .scroll td { white-space: normal; padding: 0.3rem 0.5rem; }
  figure, tr { break-inside: avoid; } details::details-content { content-visibility: visible; display: block; }
  pre { white-space: pre-wrap; } .charts { grid-template-columns: 1fr 1fr; } }
""" + "".join(f".series-{number}::before {{ color: var(--series-{number}); }}\n" for number in range(COLORS))

# Sorts a table by the column whose head is pressed; everything else on the page works without.
SCRIPT = """
document.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const head = button.parentNode, body = head.closest('table').tBodies[0];
  const column = [...head.parentNode.children].indexOf(head), down = head.ariaSort !== 'descending';
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  [...head.parentNode.children].forEach(other => other.ariaSort = 'none');
  head.ariaSort = down ? 'descending' : 'ascending';
  [...body.rows].sort((a, b) => (down ? -1 : 1) * key(a).localeCompare(key(b), 'en', {numeric: true}))
    .forEach(row => body.append(row));
}));
addEventListener('beforeprint', () => document.querySelectorAll('details.run').forEach(run => run.open = true));
"""
