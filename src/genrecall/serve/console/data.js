// What the import found, what the items' columns hold, and how events spread over items.

import { api } from "./api.js";
import { count, h, number, percent, svg } from "./dom.js";
import { command, empty, figure, meter, page, table } from "./widgets.js";
import { said, t, tell } from "./words.js";

function curve({ curve: shares }) {
  const width = 320, height = 200, points = shares.map((share, place) => `${((place / (shares.length - 1)) * width).toFixed(1)},${((1 - share) * height).toFixed(1)}`);
  return h("figure", { class: "curve" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": tell("curve_told", { ten: percent(shares[10], 0), half: percent(shares[50], 0) }), preserveAspectRatio: "none" },
      [0.25, 0.5, 0.75].map((part) => svg("line", { x1: 0, x2: width, y1: part * height, y2: part * height })),
      svg("polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}` }), svg("polyline", { points: points.join(" ") })),
    h("figcaption", { class: "muted small" }, h("span", null, t("popular_first")), h("span", null, t("all_items"))));
}

const finding = (it) => h("li", { class: "finding" },
  h("div", { class: "row" }, h("b", null, count(it.count)), h("span", null, said("finding", it.name) === it.name ? it.what : said("finding", it.name)),
    h("span", { class: "badge" }, said("action", it.name) === it.name ? it.action : said("action", it.name))),
  it.examples.length > 0 && h("p", { class: "small muted examples" }, it.examples.map((text) => h("code", null, text))));

function findings(report, problem, title) {
  const chosen = report.findings.filter((it) => it.problem === problem);
  return h("section", { class: "card" }, h("div", { class: "row" }, h("h2", null, title), h("span", { class: `badge ${problem && chosen.length ? "warn" : "good"}` }, chosen.length || t("none"))),
    chosen.length ? h("ul", { class: "plain findings" }, chosen.map(finding)) : h("p", { class: "muted" }, t(problem ? "no_problems" : "no_notes")));
}

export function data(main) {
  return page(main, api.data, (told) => {
    const { report, concentration: spread } = told;
    return [
      h("div", { class: "row" }, h("h1", null, t("data")), h("code", { class: "muted small push", title: told.catalog }, `${t("catalog")} ${told.catalog.slice(7, 19)}`)),
      h("div", { class: "figures" },
        figure(t("items_all"), count(told.items), { note: tell("without_events", { n: count(spread.without) }) }),
        report && figure(t("users"), count(report.counts.users ?? 0)), report && figure(t("events"), count(report.counts.events ?? 0), { note: tell("training_events", { n: count(spread.events) }) }),
        figure(t("half_of_events"), count(spread.half), { note: tell("half_note", { share: percent(spread.half / Math.max(told.items, 1)) }) }),
        figure(t("title_words"), number(told.title_words.p50, 0), { note: tell("title_note", { low: number(told.title_words.p5, 0), high: number(told.title_words.p95, 0) }) })),
      report ? h("div", { class: "two even" }, findings(report, true, t("problems")), findings(report, false, t("notes")))
        : h("section", { class: "card" }, empty(t("no_report"), t("no_report_hint")), h("div", { class: "narrow centre" }, command("genrecall data validate --items items.parquet --events events.parquet"))),
      h("div", { class: "two even" },
        h("section", { class: "card" }, h("h2", null, t("columns")), table(t("columns"), [[t("column")], [t("type")], [t("filled_cells"), "right"], ["", "half wide"]], told.columns.map((it) => h("tr", null,
          h("td", null, h("code", null, it.name)), h("td", { class: "muted" }, it.type), h("td", { class: "right" }, percent(it.filled)), h("td", { class: "wide" }, meter(it.filled, it.filled < 0.5 ? "warn" : "")))))),
        h("section", { class: "card" }, h("h2", null, t("concentration")), h("p", { class: "muted hint" }, t("concentration_hint")), curve(spread))),
      report && h("section", { class: "card" }, h("h2", null, t("rows_read")), h("dl", { class: "counts wide-counts" }, Object.entries(report.counts).map(([name, n]) => [h("dt", null, said("count", name)), h("dd", null, count(n))])),
        h("p", { class: "muted small" }, `${report.source}: ${Object.entries(report.files).map(([role, file]) => `${role} ${file}`).join(" · ")}`)),
    ];
  });
}
