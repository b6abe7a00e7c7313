"""The report's style: one column, light, dark and print, nothing fetched from anywhere."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --card: #ffffff; --ink: #1d1f23; --ink-soft: #5b6069; --line: #e4e2dd; --line-strong: #b9b6ae;
  --accent: #2b5fc4; --good: #1f7a4d; --warn: #a3600b; --bad: #b3261e;
  --right: 43 95 196; --wrong: 193 92 24; --deep: #ffffff;
  --series-1: #2b5fc4; --series-2: #d1661f; --series-3: #2a8c61; --series-4: #8b55c7; --series-5: #b3437a;
  --series-6: #7a818d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171b; --card: #1c1f25; --ink: #e8e6e1; --ink-soft: #a3a8b2; --line: #2d3139; --line-strong: #555b66;
    --accent: #86acf5; --good: #6cc898; --warn: #e2a556; --bad: #f2938c;
    --right: 96 142 235; --wrong: 224 130 70; --deep: #0e1014;
    --series-1: #7ba6f7; --series-2: #f0975a; --series-3: #62c596; --series-4: #bd93ee; --series-5: #ec86b5;
    --series-6: #a3a8b2;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 0.75rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 0.6rem; }
h4 { font-size: 0.95rem; margin: 0; }
p { margin: 0.5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
.head { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; }
.state {
  font-size: 0.85rem; padding: 0.1rem 0.65rem; border: 1px solid currentColor; border-radius: 1rem; color: var(--warn);
}
.state.finished { color: var(--good); }
.lede { font-size: 1.1rem; color: var(--ink-soft); overflow-wrap: anywhere; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.75rem; margin: 1.5rem 0 0;
}
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 0.8rem 1rem; }
.tile dt { color: var(--ink-soft); font-size: 0.85rem; overflow-wrap: anywhere; }
.tile dd { margin: 0; font-size: 1.45rem; line-height: 1.35; }
.tile dd { overflow-wrap: anywhere; }
.verdict {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem;
  align-items: center; background: var(--card); border: 1px solid var(--line); border-radius: 0.8rem;
  padding: 1.25rem 1.5rem; margin-top: 1.5rem; break-inside: avoid;
}
.verdict h2 { margin: 0; font-size: 1rem; font-weight: 500; color: var(--ink-soft); overflow-wrap: anywhere; }
.verdict .value {
  font-size: 3.4rem; line-height: 1.1; margin: 0.1rem 0 0.4rem; font-weight: 600; letter-spacing: -0.02em;
}
.verdict p { margin: 0.25rem 0; }
.verdict figure { border: 0; padding: 0; }
.verdict .compared { padding-left: 0.7rem; border-left: 3px solid var(--line-strong); margin-top: 0.6rem; }
.verdict .compared.good { border-color: var(--good); }
.verdict .compared.bad { border-color: var(--bad); }
.verdicts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0.9rem;
  margin-top: 1.5rem;
}
.verdicts .verdict { grid-template-columns: 1fr; margin: 0; align-items: start; }
.verdicts .value { font-size: 2.2rem; }
.scroll { /* A shadow where more is to be scrolled to. */
  overflow-x: auto; --shade: rgb(0 0 0 / 0.16);
  background: linear-gradient(to right, var(--ground) 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--ground) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 0.6rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.6rem 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: 0.95rem; }
th, td { text-align: left; padding: 0.35rem 1rem 0.35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th {
  color: var(--ink-soft); font-weight: 500; font-size: 0.85rem; border-bottom-color: var(--line-strong);
  vertical-align: bottom;
}
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
th.number, td.number { padding-left: 0.6rem; padding-right: 0.4rem; }
thead th.number { white-space: normal; }
.number + :not(.number) { padding-left: 0.8rem; }
.best { font-weight: 650; }
.soft, .arrow { color: var(--ink-soft); font-weight: 400; }
.note { color: var(--ink-soft); font-size: 0.85rem; max-width: 52rem; }
.narrow table { width: auto; min-width: min(100%, 26rem); }
.narrow .number { padding-left: 1.5rem; }
.facts { columns: 18rem; column-gap: 2.5rem; }
.facts > div { break-inside: avoid; padding-bottom: 1rem; }
.facts h3 { color: var(--ink-soft); font-size: 0.85rem; font-weight: 500; margin: 0 0 0.2rem; }
.facts th { width: 45%; font-weight: 400; color: var(--ink-soft); }
.facts td { overflow-wrap: anywhere; padding-right: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0.9rem; }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem;
  padding: 0.8rem 0.9rem 0.5rem; break-inside: avoid; min-width: 0;
}
figure.wide { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0.3rem auto 0; overflow: visible; }
figure svg text { font-family: inherit; }
figcaption { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; align-items: baseline; }
figcaption h4 { overflow-wrap: anywhere; }
.note + .charts { margin-top: 1rem; }
figure.clip { justify-self: start; width: fit-content; max-width: 100%; }
img.clip { display: block; max-width: 100%; height: auto; margin: 0.5rem auto 0.3rem; border-radius: 0.3rem; }
.unit, .key { color: var(--ink-soft); font-size: 0.85rem; overflow-wrap: anywhere; }
.key::before {
  content: ""; display: inline-block; width: 0.9rem; height: 0.22rem; border-radius: 0.1rem; margin-right: 0.4rem;
  vertical-align: middle; background: var(--colour);
}
.matrix { width: auto; margin-bottom: 1.5rem; border-collapse: separate; border-spacing: 3px; }
.matrix th, .matrix td { border: 0; padding: 0.35rem 0.6rem; text-align: center; vertical-align: middle; }
.matrix tbody th { text-align: right; font-weight: 500; white-space: nowrap; }
.matrix .corner { text-align: right; white-space: nowrap; font-size: 0.75rem; }
.matrix td { min-width: 4.2rem; border-radius: 0.35rem; font-weight: 600; }
.matrix td.right { background: rgb(var(--right) / calc(0.06 + 0.9 * var(--share))); }
.matrix td.wrong { background: rgb(var(--wrong) / calc(0.03 + 0.9 * var(--share))); }
.matrix td.deep { color: var(--deep); }
.matrix td.empty { color: var(--line-strong); font-weight: 400; }
.matrix td small { display: block; font-weight: 400; font-size: 0.75rem; opacity: 0.85; }
.matrix.size-8 td, .matrix.size-9 td, .matrix.size-10 td, .matrix.size-11 td, .matrix.size-12 td {
  min-width: 2.9rem; padding: 0.2rem 0.3rem; font-size: 0.85rem;
}
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr)); gap: 0.9rem; }
.example {
  background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 0.8rem 0.9rem;
  break-inside: avoid; min-width: 0; overflow-wrap: anywhere;
}
.example p { margin: 0; }
.example img {
  width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated; background: var(--ground);
  border: 1px solid var(--line); border-radius: 0.4rem; margin: 0 0.4rem 0.5rem 0;
}
.example .said b { color: var(--bad); }
.example .truth { color: var(--ink-soft); }
.example .truth b { color: var(--ink); }
.example dl { margin: 0.6rem 0 0; font-size: 0.85rem; }
.example dl div {
  display: flex; gap: 0.6rem; justify-content: space-between; border-top: 1px solid var(--line); padding: 0.15rem 0;
}
.example dl div.long { display: block; }
.example .long dd { text-align: left; }
.example dt { color: var(--ink-soft); min-width: 0; }
.example dd { margin: 0; text-align: right; flex: none; }
.example .place { color: var(--ink-soft); font-size: 0.75rem; margin-top: 0.5rem; }
.slices td.bar { width: 8rem; min-width: 5rem; vertical-align: middle; }
.bar span {
  display: block; height: 0.5rem; border-radius: 0.25rem; width: calc(100% * var(--share)); min-width: 2px;
  background: var(--series-1);
}
.use { margin: 0; }
.use dt { color: var(--ink-soft); font-size: 0.85rem; margin-top: 0.6rem; }
.use dd { margin: 0; overflow-x: auto; }
code {
  font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace; overflow-wrap: anywhere;
}
details { margin-top: 1rem; border-top: 1px solid var(--line); padding-top: 0.8rem; }
details > :nth-child(2) { margin-top: 0.8rem; }
summary { cursor: pointer; font-weight: 600; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 1rem; overflow-x: auto;
  font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace; white-space: pre-wrap;
}
.warnings { list-style: none; padding: 0; margin: 0; display: grid; gap: 0.6rem; }
.warnings li {
  border-left: 3px solid var(--warn); background: var(--card); padding: 0.6rem 0.9rem; border-radius: 0 0.4rem 0.4rem 0;
  max-width: 52rem; break-inside: avoid;
}
.warnings strong { font-weight: 600; color: var(--warn); }
.notes { padding-left: 1.2rem; }
.notes li { margin: 0.2rem 0; }
footer { margin-top: 3rem; color: var(--ink-soft); font-size: 0.85rem; }
@media (max-width: 40rem) {
  table { font-size: 0.85rem; }
  figure { padding: 0.7rem 0.55rem 0.4rem; }
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.6rem; }
  .verdict { padding: 1rem; }
  .verdict .value { font-size: 2.6rem; }
  th, td { padding-right: 0.6rem; }
  .matrix td { min-width: 3.2rem; padding: 0.3rem; }
}
@media print {
  :root {
    color-scheme: light;
    --ground: #ffffff; --card: #ffffff; --ink: #000000; --ink-soft: #444444; --line: #d5d5d5; --line-strong: #999999;
    --accent: #1d458f; --good: #14573a; --warn: #7a4807; --bad: #8c1d18;
    --right: 43 95 196; --wrong: 193 92 24; --deep: #ffffff;
    --series-1: #1d458f; --series-2: #b04d0e; --series-3: #1d6b49; --series-4: #6a3da0; --series-5: #8e2f5e;
    --series-6: #555555;
  }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); }
  .scroll { overflow: visible; background: none; }
  table { font-size: 8.5pt; }
  pre { border: 0; padding: 0; }
  .matrix td, .bar span, .key::before { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .matrix, tr { break-inside: avoid; }
  h2, h3, p { break-after: avoid; }
  details.card > summary { list-style: none; }
  details.card::details-content { content-visibility: visible; display: block; }
}
""".strip()
