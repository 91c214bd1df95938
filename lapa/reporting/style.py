"""The report page's style sheet: plain, readable, light and dark."""

STYLE = """
:root { color-scheme: light dark; --bg: #fbfaf7; --card: #ffffff; --ink: #1d1f21; --soft: #62676d; --line: #dedbd3;
  --accent: #1f5fa8; --muted: #b3b0a8; --good: #22763f; --concern: #a15c00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bg: #16181a; --card: #1f2225; --ink: #e6e4df; --soft: #a0a4a8;
  --line: #363a3e; --accent: #79b0ee; --muted: #6b7075; --good: #6cc58a; --concern: #e5a54b; --bad: #f2867e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
header { background: var(--card); border: 1px solid var(--line); border-left: 8px solid var(--soft); border-radius: 8px;
  padding: 18px 26px 14px; }
header.v-trust { border-left-color: var(--good); } header.v-trust h1 { color: var(--good); }
header.v-trust-with-care { border-left-color: var(--concern); } header.v-trust-with-care h1 { color: var(--concern); }
header.v-do-not-trust { border-left-color: var(--bad); } header.v-do-not-trust h1 { color: var(--bad); }
.kicker { margin: 0; color: var(--soft); } h1 { margin: 2px 0 10px; font-size: 34px; line-height: 1.15; }
header ul { list-style: none; margin: 0; padding: 0; } header li { padding: 3px 0 3px 28px; position: relative; }
.mark { position: absolute; left: 2px; width: 18px; text-align: center; font-weight: 700; }
.good .mark, .figure.good { color: var(--good); } .concern .mark { color: var(--concern); }
.bad .mark, .figure.bad { color: var(--bad); }
.facts, .small, figcaption { color: var(--soft); font-size: 14px; } td .small { font-size: 13px; }
section { margin-top: 34px; } h2 { font-size: 22px; margin: 0 0 8px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 17px; margin: 22px 0 6px; } p { margin: 6px 0 10px; max-width: 84ch; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 8px 0 14px; }
th { text-align: left; font-weight: 600; font-size: 14px; color: var(--soft); padding: 4px 18px 4px 0; white-space: nowrap; }
td { padding: 6px 18px 6px 0; border-top: 1px solid var(--line); vertical-align: middle; }
.probe td:first-child { min-width: 190px; line-height: 1.3; } td:not(:first-child) { white-space: nowrap; }
.figure { font-weight: 600; font-variant-numeric: tabular-nums; } .figures td { font-variant-numeric: tabular-nums; }
.range { color: var(--soft); font-size: 14px; font-variant-numeric: tabular-nums; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--accent); }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg.inline { display: block; }
svg.chart { width: 100%; max-width: 720px; height: auto; display: block; margin: 10px 0; }
.bar.plain { fill: var(--muted); } .bar.strong { fill: var(--accent); } .axis { stroke: var(--soft); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.4; fill: none; } .grid { stroke: var(--line); }
.even { stroke: var(--soft); stroke-dasharray: 4 3; }
.curve { fill: none; stroke-width: 2; stroke: var(--soft); } .thin { stroke-width: 1; opacity: .6; } .dot { fill: var(--soft); }
.c-latent { stroke: var(--accent); } .dot.c-latent { fill: var(--accent); } svg .t-latent { fill: var(--accent); font-weight: 700; }
.c-quantized { stroke: #7d5bbe; } .dot.c-quantized { fill: #7d5bbe; } svg .t-quantized { fill: #8e6fd0; }
.c-first_frame { stroke: #8d8d86; } .dot.c-first_frame { fill: #8d8d86; }
.c-untrained { stroke: #2f9180; } .dot.c-untrained { fill: #2f9180; } svg .t-untrained { fill: #2f9180; }
.c-pca { stroke: #c46a1c; } .dot.c-pca { fill: #c46a1c; } svg .t-pca { fill: #c46a1c; }
.dot { stroke: none; }
img { max-width: 100%; height: auto; display: block; }
div.grid { display: flex; flex-wrap: wrap; gap: 12px 26px; } figure { margin: 0; } figure.row { margin: 14px 0; }
figcaption { margin: 3px 0 4px; overflow-wrap: anywhere; } figcaption b { color: var(--ink); font-size: 16px; margin-right: 6px; }
""".strip()
