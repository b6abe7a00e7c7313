"""The report's style: one column, light, dark and print, nothing fetched from anywhere."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --card: #ffffff; --ink: #1d1f23; --ink-soft: #5b6069; --line: #e4e2dd; --line-strong: #b9b6ae;
  --accent: #2b5fc4; --good: #1f7a4d; --warn: #a3600b;
  --series-1: #2b5fc4; --series-2: #d1661f; --series-3: #2a8c61; --series-4: #8b55c7; --series-5: #b3437a;
  --series-6: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171b; --card: #1c1f25; --ink: #e8e6e1; --ink-soft: #a3a8b2; --line: #2d3139; --line-strong: #555b66;
    --accent: #86acf5; --good: #6cc898; --warn: #e2a556;
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
h3 { font-size: 1rem; margin: 0; }
p { margin: 0.5rem 0; max-width: 46rem; }
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
.tile dd { margin: 0; font-size: 1.65rem; line-height: 1.3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.4rem 1rem 0.4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--ink-soft); font-weight: 500; font-size: 0.85rem; border-bottom-color: var(--line-strong); }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
.narrow table { width: auto; min-width: min(100%, 26rem); }
.narrow .number { padding-left: 1.5rem; }
.facts { columns: 18rem; column-gap: 2.5rem; }
.facts > div { break-inside: avoid; padding-bottom: 1rem; }
.facts h3 { color: var(--ink-soft); font-size: 0.85rem; font-weight: 500; margin: 0 0 0.2rem; }
.facts th { width: 45%; font-weight: 400; color: var(--ink-soft); }
.facts td { overflow-wrap: anywhere; padding-right: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 0.9rem; }
figure {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem;
  padding: 0.8rem 0.9rem 0.4rem; break-inside: avoid;
}
figure svg { display: block; width: 100%; height: auto; margin-top: 0.3rem; overflow: visible; }
figure svg text { font-family: inherit; }
figcaption { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; align-items: baseline; }
.unit, .key { color: var(--ink-soft); font-size: 0.85rem; }
.key::before {
  content: ""; display: inline-block; width: 0.9rem; height: 0.22rem; border-radius: 0.1rem; margin-right: 0.4rem;
  vertical-align: middle; background: var(--colour);
}
details { margin-top: 1rem; border-top: 1px solid var(--line); padding-top: 0.8rem; }
summary { cursor: pointer; font-weight: 600; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 0.6rem; padding: 1rem; overflow-x: auto;
  font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace; white-space: pre-wrap;
}
.notes li { margin: 0.2rem 0; }
.stage { border-left: 3px solid var(--line); padding-left: 1.25rem; margin-top: 2.5rem; }
footer { margin-top: 3rem; color: var(--ink-soft); font-size: 0.85rem; }
@media print {
  :root {
    color-scheme: light;
    --ground: #ffffff; --card: #ffffff; --ink: #000000; --ink-soft: #444444; --line: #d5d5d5; --line-strong: #999999;
    --accent: #1d458f; --good: #14573a; --warn: #7a4807;
    --series-1: #1d458f; --series-2: #b04d0e; --series-3: #1d6b49; --series-4: #6a3da0; --series-5: #8e2f5e;
    --series-6: #555555;
  }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  .charts { grid-template-columns: 1fr 1fr; }
  pre { border: 0; padding: 0; }
  h2 { break-after: avoid; }
}
""".strip()
