"""How the page of a report looks. Knows none of its figures."""

STYLE = """
:root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1c1c1a;--soft:#62615c;--rule:#e2e1db;--blue:#2268ad;
--fill:#2268ad33;--p0:#8d8b84;--p1:#d08a1f;--p2:#2268ad;--p3:#4f8a4b;--good:#2e7d32;--open:#8a5a00;--bad:#c62828}
@media (prefers-color-scheme:dark){:root{--paper:#161614;--card:#1f1f1c;--ink:#ecebe6;--soft:#a3a199;--rule:#383732;
--blue:#6aaced;--fill:#6aaced33;--p0:#7d7b74;--p1:#dd9b35;--p2:#6aaced;--p3:#79b474;--good:#81c784;--open:#e0b050;
--bad:#ef8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:56rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.35rem;line-height:1.25;margin:.4rem 0;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .6rem}
header p{margin:.2rem 0;color:var(--soft);overflow-wrap:anywhere}
header .outcome{display:inline-block;margin:0;padding:.1rem .6rem;border:1px solid;border-radius:1rem;font-weight:600}
header .good{color:var(--good)}header .open{color:var(--open)}header .bad{color:var(--bad)}
header .error{color:var(--ink);border-left:3px solid var(--bad);padding-left:.7rem;margin:.7rem 0}
p{margin:.5rem 0;max-width:46rem}
.note{color:var(--soft);border-left:3px solid var(--rule);padding-left:.7rem}
section,.tiles>div{background:var(--card);border:1px solid var(--rule);border-radius:.5rem}
section{padding:1rem;margin:1rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.6rem;margin:1rem 0}
.tiles>div{padding:.6rem .7rem;display:flex;flex-direction:column-reverse;justify-content:flex-end}
.tiles dd{margin:0;font-size:1.25rem;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.tiles dd.none{font-size:1rem;font-weight:400;color:var(--soft);padding:.25rem 0}
.tiles dt{color:var(--soft);font-size:.8rem}
.unit{color:var(--soft);font-size:.8rem;margin-bottom:.4rem}
.plot{display:grid;grid-template:11rem 1.4rem/3rem 1fr;font-size:.75rem;color:var(--soft);margin-right:1rem}
.plot svg,.parts svg{display:block;width:100%;height:100%}
.y,.x{position:relative;font-variant-numeric:tabular-nums}
.y span{position:absolute;right:.5rem;transform:translateY(50%)}
.x{grid-column:2}
.x span{position:absolute;top:.25rem;transform:translateX(-50%);white-space:nowrap}
.x span:first-child{transform:none}
.grid{stroke:var(--rule);stroke-width:1;vector-effect:non-scaling-stroke}
.area{fill:var(--fill)}
.line{fill:none;stroke:var(--blue);stroke-width:2;vector-effect:non-scaling-stroke}
.bar{fill:var(--blue)}
.limit{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3;vector-effect:non-scaling-stroke}
.over{fill:transparent}.over:hover{fill:var(--fill)}
.parts{height:1.6rem;border-radius:.3rem;overflow:hidden;margin:.8rem 0 .5rem}
.parts rect{stroke:var(--card);stroke-width:2;vector-effect:non-scaling-stroke}
.part0{fill:var(--p0);background:var(--p0)}.part1{fill:var(--p1);background:var(--p1)}
.part2{fill:var(--p2);background:var(--p2)}.part3{fill:var(--p3);background:var(--p3)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:0 0 .8rem;padding:0}
.legend i{color:var(--soft);font-style:normal}
.key{display:inline-block;width:.7rem;height:.7rem;border-radius:.15rem;margin-right:.35rem}
.list{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;margin:.5rem 0}
.list dt{color:var(--soft)}.list dd{margin:0;overflow-wrap:anywhere}
code{font:.85rem ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem 1.1rem .25rem 0;border-bottom:1px solid var(--rule);max-width:24rem;overflow-wrap:break-word}
td[style*="text-align:right"]{white-space:nowrap!important}
th{color:var(--soft);font-weight:500;white-space:nowrap!important}
summary{cursor:pointer;color:var(--blue);margin-top:.6rem}
footer{color:var(--soft);font-size:.8rem;margin-top:1.5rem}
@media (max-width:30rem){main{padding:1rem .6rem 2rem}section{padding:.8rem .7rem}
.tiles{grid-template-columns:1fr 1fr}.list{grid-template-columns:1fr;gap:0}.list dd{margin-bottom:.5rem}
.plot{grid-template-columns:2.6rem 1fr}th,td{padding-right:.8rem}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
