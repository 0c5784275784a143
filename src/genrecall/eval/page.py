"""The style sheet of report pages: system fonts, light and dark by the reader's preference, readable in print."""

STYLE = """
:root{--bg:#ffffff;--panel:#f6f7f9;--ink:#1b2430;--soft:#5c6773;--rule:#e1e5ea;--accent:#2456d6;--find:#eef3ff;
--c0:#2f62e0;--c1:#c96a12;--c2:#0b857b;--c3:#8a3ccf;--c4:#c22f45;--c5:#5d6b7c;--c6:#7a7a12;--c7:#b0399b}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--panel:#1a2029;--ink:#e6eaf0;--soft:#9aa6b4;--rule:#2b333e;
--accent:#7ea6ff;--find:#18233b;--c0:#6f9bff;--c1:#f0a04b;--c2:#38c2b3;--c3:#bd8bf5;--c4:#f17b8b;--c5:#97a5b8;
--c6:#c6c656;--c7:#e38bd3}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Noto Sans CJK SC",sans-serif}
main{max-width:920px;margin:0 auto;padding:48px 24px 72px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.015em;margin:0 0 10px}
h2{font-size:20px;letter-spacing:-.01em;margin:46px 0 14px;padding-top:18px;border-top:1px solid var(--rule)}
p{margin:0 0 12px;max-width:76ch}
.summary{font-size:17.5px;color:var(--soft)}
.note{font-size:13.5px;line-height:1.5;color:var(--soft);max-width:none}
.finding{background:var(--find);border-left:3px solid var(--accent);padding:12px 16px;border-radius:0 6px 6px 0;
max-width:none}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;margin-top:18px;font-size:14.5px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.scroll{overflow-x:auto;margin:14px 0 8px}
table{border-collapse:collapse;width:100%;font-size:14.5px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);border-bottom:1px solid var(--ink);white-space:nowrap;font-size:13.5px}
th,td{text-align:right;padding:7px 10px}
th:first-child,td:first-child{text-align:left;padding-left:2px}
td{white-space:nowrap}
table.words th,table.words td{text-align:left;vertical-align:top;white-space:normal}
tbody tr+tr td{border-top:1px solid var(--rule)}
td.best{font-weight:700}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:10px;margin:14px 0}
.facts div{background:var(--panel);border-radius:8px;padding:11px 14px;min-width:0}
dt{font-size:12.5px;color:var(--soft)}dd{margin:2px 0 0;font-size:17px;font-weight:600;overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
figure{margin:18px 0 22px}figcaption{font-size:13.5px;color:var(--soft);margin-top:6px}
figure img{max-width:100%;background:#fff;border-radius:6px}
svg.chart{width:100%;height:auto;display:block;overflow:visible;font-size:13px;font-family:inherit}
svg .label{fill:var(--ink)}svg .value{fill:var(--ink);font-weight:600}svg .tick{fill:var(--soft);font-size:12px}
svg .series{font-weight:600}svg .grid{stroke:var(--rule)}
svg .whisker line{stroke:var(--ink);stroke-width:1.4;opacity:.75}
footer{margin-top:48px;padding-top:14px;border-top:1px solid var(--rule);font-size:13px;color:var(--soft);
overflow-wrap:anywhere}
@media print{main{max-width:none;padding:0}nav{display:none}h2{break-after:avoid}figure,table{break-inside:avoid}}
"""
