// Which arms there are, who was answered by them, and what may be concluded.

import { api } from "./api.js";
import { bytes, count, h, ms, number, percent } from "./dom.js";
import { channelBadge } from "./results.js";
import { command, empty, page, table } from "./widgets.js";
import { t, tell } from "./words.js";

const EXAMPLE = "[generative]\nsalt = \"2026-11\"\n\n[generative.arms.without]\nshare = 0.5\nchannels = [\"item_cf\", \"transition\"]\n\n[generative.arms.with]\nshare = 0.5";

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${number(Math.abs(value), 4)}`;

function armTable(layer) {
  const report = layer.report;
  return table(tell("arms_of", { name: layer.name }), [[t("arm")], [t("share"), "right"], [t("users"), "right"], [t("answers"), "right"], ["p99", "right"], [t("degraded_short"), "right"], [t("fill_short"), "right"], [t("changes")]],
    layer.arms.map((arm, place) => {
      const guard = report?.guardrails[arm.name];
      return h("tr", null, h("td", null, h("b", null, arm.name), place === 0 && h("span", { class: "badge" }, t("control"))),
        h("td", { class: "right" }, percent(arm.share, 0)), h("td", { class: "right" }, report ? count(report.users[arm.name]) : "–"),
        h("td", { class: "right" }, guard ? count(guard.answers) : "–"), h("td", { class: "right" }, guard?.answers ? ms(guard.p99_ms) : "–"),
        h("td", { class: "right" }, guard?.answers ? percent(guard.degraded) : "–"), h("td", { class: "right" }, guard?.answers ? percent(guard.fill) : "–"),
        h("td", { class: "badges" }, arm.channels?.map((name) => channelBadge(name)), arm.beam && h("span", { class: "badge" }, `${t("beam")} ${arm.beam}`), !arm.channels && !arm.beam && h("span", { class: "muted small" }, t("nothing_changed"))));
    }));
}

// One line an arm: the wide band is right however often one looks, the thick one if one looks once; zero is marked.
function forest(report) {
  const rows = Object.entries(report.differences);
  const reach = Math.max(...rows.flatMap(([, d]) => [Math.abs(d.always_low), Math.abs(d.always_high)]), 1e-9);
  const at = (value) => (value / reach + 1) / 2;
  return h("div", { class: "forest" }, rows.map(([name, d]) => {
    const sure = d.always_low > 0 ? "better" : d.always_high < 0 ? "worse" : "open";
    return [h("div", { class: "row" }, h("b", null, name), h("span", null, tell("events_a_user", { from: number(d.control, 4), to: number(d.treatment, 4) })),
      h("span", { class: `badge ${{ better: "good", worse: "warn", open: "" }[sure]}` }, t(`sure_${sure}`)), d.reduction > 0 && h("span", { class: "muted small" }, tell("cuped", { share: percent(d.reduction, 0) }))),
    h("div", { class: "interval", role: "img", "aria-label": tell("interval_told", { value: signed(d.value), low: signed(d.always_low), high: signed(d.always_high) }) },
      h("i", { class: "zero" }), h("i", { class: "always", style: { "--from": at(d.always_low), "--to": at(d.always_high) } }),
      h("i", { class: "once", style: { "--from": at(d.low), "--to": at(d.high) } }), h("i", { class: "point", style: { "--from": at(d.value) } })),
    h("p", { class: "small" }, h("b", null, signed(d.value)), h("span", { class: "muted" }, ` · ${t("one_look")} ${signed(d.low)} … ${signed(d.high)} · ${t("any_look")} ${signed(d.always_low)} … ${signed(d.always_high)}`))];
  }));
}

function layerCard(layer, why) {
  const report = layer.report;
  return h("section", { class: "card" },
    h("div", { class: "row" }, h("h2", { class: "large" }, layer.name), h("code", { class: "muted small" }, `${t("salt")} ${layer.salt}`),
      report && h("span", { class: `badge push ${report.sound ? "good" : "warn"}` }, t(report.sound ? "sound" : "unsound")),
      report && h("span", { class: "muted small" }, tell("srm", { p: number(report.srm_p, 3) }))),
    armTable(layer),
    report && !report.sound && h("p", { class: "card warned" }, tell("unsound_hint", { mixed: report.mixed_users })),
    report ? Object.values(report.differences).every((d) => d.control === 0 && d.treatment === 0) && Object.keys(report.differences).length ? h("p", { class: "muted" }, t("no_events_yet"))
      : Object.keys(report.differences).length ? [h("h3", null, tell("against", { arm: report.control })), forest(report)] : h("p", { class: "muted" }, t("too_few"))
      : h("p", { class: "muted" }, t(`report_${why || "empty"}`)));
}

export function experiments(main) {
  return page(main, api.experiments, (told) => [
    h("div", { class: "row" }, h("h1", null, t("experiments")), told.layers.length > 0 && h("span", { class: "muted small push" }, tell("log_note", { size: bytes(told.exposure_bytes), s: number(told.age_s, 0) }))),
    told.layers.length === 0 ? h("section", { class: "card" }, empty(t("no_experiments"), t("no_experiments_hint")),
      h("div", { class: "narrow centre stack" }, h("pre", { class: "json", tabindex: 0, "aria-label": "experiments.toml" }, EXAMPLE), command("genrecall serve BUNDLE --experiments experiments.toml")))
      : [told.layers.map((layer) => layerCard(layer, told.why)),
        h("section", { class: "card" }, h("h2", null, t("whole_report")), h("p", { class: "muted" }, t("whole_report_hint")), command("genrecall ab report experiments.toml --state STATE"))],
  ]);
}
