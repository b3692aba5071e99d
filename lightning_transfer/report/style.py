"""The style sheet of pages, and the script that sorts their tables."""

from lightning_transfer.report.palette import variables

STYLE = (
    variables()
    + """
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; } h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; }
p, ul { max-width: 60rem; overflow-wrap: anywhere; }
h1 + p, .headline { font-size: 1.3rem; line-height: 1.35; margin: 0.6rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
thead th { vertical-align: bottom; } tbody th { font-weight: inherit; }
th:first-child, td:first-child { text-align: left; }
.results th { white-space: normal; min-width: 4.5rem; } .results td { min-width: 3rem; }
.results td .muted { white-space: nowrap; }
.results th:first-child { position: sticky; left: 0; background: var(--paper); min-width: 5.5rem; max-width: 40vw; }
@media (max-width: 40rem) { .results th:first-child { overflow-wrap: anywhere; } }
td.text { white-space: normal; text-align: left; min-width: 18rem; } td.name, th.name { text-align: left; }
th button { all: unset; cursor: pointer; } th button::after { content: "\\00a0↕"; color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0.5rem 2rem; }
figure { margin: 0.8rem 0; min-width: 0; } figure svg { width: 100%; max-width: 60rem; height: auto; }
.charts figure svg { max-width: 34rem; }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { font-size: 0.9rem; margin-bottom: 0.3rem; }
.legend { display: block; color: var(--muted); font-size: 0.85em; }
.key { margin-right: 0.9em; white-space: nowrap; }
figure .key svg { width: 24px; height: 12px; vertical-align: -1px; margin-right: 0.3em; }
.wide { overflow-x: auto; } .wide svg { min-width: 34rem; }
summary { cursor: pointer; font-size: 1.25rem; font-weight: 600; margin: 1.5rem 0 0.5rem; overflow-wrap: anywhere; }
.numbers { font-size: 0.8rem; color: var(--muted); margin-top: 0.2rem; } .numbers table { font-size: 1em; }
.numbers summary, .run details summary { font-size: 0.85rem; font-weight: 400; margin: 0.2rem 0; }
summary .muted { font-weight: 400; font-size: 0.8em; }
code { font-size: 0.9em; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 0.8rem; border: 1px solid var(--grid); border-radius: 6px; padding: 0.6rem; }
.tokens { line-height: 1.9; font-size: 0.9rem; } .tokens span { border-radius: 3px; padding: 0.1em 0.15em; }
.muted { color: var(--muted); }
@media print { html { font-size: 11px; } body { margin: 0; max-width: none; font-size: 1rem; }
  th button::after { content: ""; } .scroll, .wide { overflow: visible; }
  .numbers { display: none; } .results th:first-child { position: static; }
  .scroll th, .scroll td { white-space: normal; padding: 0.3rem 0.5rem; }
  figure, tr { break-inside: avoid; } details::details-content { content-visibility: visible; display: block; }
  pre { white-space: pre-wrap; } .charts { grid-template-columns: 1fr 1fr; } }
"""
)

# Sorts a table by the column whose head is pressed, and opens all runs for printing. The rest works without it.
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
