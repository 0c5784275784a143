// What happens now: rates, times by stage, how complete answers are, how the worker does.

import { api } from "./api.js";
import { h, number, percent, put, svg } from "./dom.js";
import { t } from "./words.js";

const EVERY_MS = 2000;

function sparkline(values) {
  const most = Math.max(...values, 1), width = 1200, height = 150, step = width / values.length;
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height + 16}`, role: "img", "aria-label": t("rate") },
    values.map((value, place) => svg("rect", { x: place * step + 1, width: step - 2, rx: 1.5,
      y: height - (value / most) * height, height: Math.max((value / most) * height, value ? 2 : 0) })),
    svg("line", { x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 }),
    svg("text", { x: 2, y: 12 }, `${most}/s`), svg("text", { x: 0, y: height + 13 }, "−60 s"),
    svg("text", { x: width, y: height + 13, "text-anchor": "end" }, "0"));
}

function stageTable(stages) {
  const longest = Math.max(...Object.values(stages).map((stage) => stage.p99), 1);
  return h("div", { class: "scroll" }, h("table", { class: "stages" }, h("thead", null, h("tr", null, h("th", { scope: "col" }, t("stage")),
    ["p50", "p95", "p99"].map((name) => h("th", { scope: "col", class: "right" }, name)), h("th", { scope: "col", class: "half" }, ""))),
  h("tbody", null, Object.entries(stages).map(([name, stage]) => h("tr", null, h("td", null, name),
    ["p50", "p95", "p99"].map((key) => h("td", { class: "right" }, number(stage[key], 1))),
    h("td", null, h("div", { class: "quantiles" }, ["p99", "p95", "p50"].map((key) =>
      h("i", { class: key, style: { "--part": stage[key] / longest } })))))))));
}

const figure = (label, value, tone) => h("div", { class: `card figure ${tone ?? ""}` }, h("span", { class: "muted small" }, label), h("b", null, value));

function page(told) {
  const { traffic, worker, state, limits } = told;
  return [
    h("div", { class: "row" }, h("h1", null, t("live")), h("span", { class: `badge ${told.ready ? "good" : "warn"}` }, t(told.ready ? "ready" : "not_ready")),
      told.reasons.map((reason) => h("span", { class: "badge warn" }, reason)), h("span", { class: "muted small push" }, t("refresh"))),
    h("div", { class: "figures" },
      figure(t("requests"), `${told.inflight} ${t("of")} ${Math.floor(limits.inflight_limit)}`),
      worker && figure(t("rows"), `${worker.rows} · ${worker.batch_rows} ${t("batch_rows")}`),
      figure(t("share_degraded"), percent(traffic.degraded_share), traffic.degraded_share > 0.05 ? "warn" : ""),
      figure(t("fill"), percent(traffic.fill_ratio), traffic.fill_ratio < 0.9 ? "warn" : ""),
      figure(t("stored"), `${state.users.toLocaleString()} ${t("users")} · ${state.events.toLocaleString()} ${t("events")}`)),
    h("section", { class: "card" }, h("h2", null, t("rate")), sparkline(traffic.per_second)),
    h("div", { class: "two" },
      h("section", { class: "card" }, h("h2", null, t("stages")),
        traffic.answers ? stageTable(traffic.stages_ms) : h("p", { class: "muted" }, t("nothing"))),
      h("section", { class: "card" }, h("h2", null, t("worker")), worker ? h("dl", null,
        h("dt", null, t("state")), h("dd", null, h("span", { class: `badge ${worker.state === "ready" ? "good" : "warn"}` }, worker.state), ` ${worker.device ?? ""}`),
        h("dt", null, t("silence")), h("dd", null, number(worker.silence_s, 2)),
        h("dt", null, t("base")), h("dd", null, `${number(worker.base_ms, 2)} ms`),
        h("dt", null, t("per_row")), h("dd", null, `${number(worker.row_ms * 1000, 1)} µs`),
        h("dt", null, t("restarts")), h("dd", null, worker.restarts)) : h("p", { class: "muted" }, t("none")))),
    h("section", { class: "card" }, h("h2", null, t("slowest")), traffic.slowest.length
      ? h("ul", { class: "slow" }, traffic.slowest.map((slow) => h("li", null, h("a", { href: `#/explore?request=${encodeURIComponent(slow.request_id)}` },
        h("code", null, slow.request_id)), h("b", null, `${number(slow.total_ms, 1)} ms`))))
      : h("p", { class: "muted" }, t("nothing"))),
  ];
}

export function live(main) {
  let timer, over = false;
  async function look() {
    try { const told = await api.health(); if (!over) put(main, page(told)); }
    catch (error) { if (!over) put(main, h("div", { class: "card error" }, error.message)); }
    if (!over) timer = setTimeout(look, EVERY_MS);
  }
  look();
  return () => { over = true; clearTimeout(timer); };
}
