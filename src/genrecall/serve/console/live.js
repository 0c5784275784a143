// What happens now: rates, times by stage and channel, how complete answers are, how the worker does.

import { api, explanation } from "./api.js";
import { count, h, ms, number, percent, put } from "./dom.js";
import { channelBadge, inOrder, reason } from "./results.js";
import { empty, failed, figure, meter, table, waiting } from "./widgets.js";
import { said, t, tell } from "./words.js";

const EVERY_MS = 2000;
const STAGES = ["state", "channels", "rank", "fusion", "total"];
const TIERS = ["cold", "short", "medium", "long", "unseen", "tail", "torso", "head"];

function rates(values) {
  const most = Math.max(...values, 1), peak = values.indexOf(most);
  return h("figure", { class: "rates", "aria-label": tell("rate_told", { n: most, s: values.length - 1 - peak }) },
    h("div", { class: "rates-scale muted small", "aria-hidden": "true" }, h("span", null, tell("per_second", { n: most })), h("span", null, "0")),
    h("div", { class: "rates-bars", "aria-hidden": "true" }, values.map((value, place) => h("i", { style: { "--part": value / most },
      title: `−${values.length - 1 - place} s: ${value}` }))),
    h("figcaption", { class: "muted small" }, h("span", null, `−${values.length} s`), h("span", null, t("now"))));
}

const bars = (stage, longest) => h("div", { class: "quantiles", "aria-hidden": "true" }, ["p99", "p95", "p50"].map((key) =>
  h("i", { class: key, style: { "--part": stage[key] / longest } })));
const times = (stage) => ["p50", "p95", "p99"].map((key) => h("td", { class: "right" }, number(stage[key], 1)));
const quantileColumns = (first) => [[first], ["p50", "right"], ["p95", "right"], ["p99", "right"]];

function stageTable(stages) {
  const names = STAGES.filter((name) => stages[name]), longest = Math.max(...names.map((name) => stages[name].p99), 0.1);
  return table(t("stages"), [...quantileColumns(t("stage")), ["", "half wide"]], names.map((name) => h("tr", { class: name === "total" ? "sum" : null },
    h("td", { title: t(`stage_${name}_hint`) }, t(`stage_${name}`)), times(stages[name]), h("td", { class: "wide" }, bars(stages[name], longest)))));
}

function channelTable({ channels_ms: channels, outcomes }) {
  const names = inOrder(Object.keys(channels)), longest = Math.max(...names.map((name) => channels[name].p99), 0.1);
  return table(t("channels"), [...quantileColumns(t("channel")), ["", "half wide"], [t("outcomes")]], names.map((name) => h("tr", null,
    h("td", null, channelBadge(name)), times(channels[name]), h("td", { class: "wide" }, bars(channels[name], longest)),
    h("td", { class: "small" }, Object.entries(outcomes[name] ?? {}).map(([outcome, n]) =>
      h("span", { class: `badge ${outcome === "ok" ? "good" : outcome === "empty" ? "" : "warn"}` }, `${said("outcome", outcome)} ${count(n)}`))))));
}

function tierTable(tiers) {
  const names = TIERS.filter((name) => tiers[name]);
  return names.length === 0 ? h("p", { class: "muted" }, t("quiet")) : table(t("tiers"), [[t("tier")], [t("answers"), "right"], [t("filled_share"), "right"], ["", "half wide"]],
    names.map((name) => h("tr", null, h("td", null, t(`tier_${name}`)), h("td", { class: "right" }, count(tiers[name].answers)),
      h("td", { class: "right" }, percent(tiers[name].fill)), h("td", { class: "wide" }, meter(tiers[name].fill, tiers[name].fill < 0.9 ? "warn" : "")))));
}

function slowTable(slowest) {
  return slowest.length === 0 ? h("p", { class: "muted" }, t("quiet")) : table(t("slowest"), [[t("request")], [t("total"), "right"], [t("slowest_channel")], [t("when"), "right"]],
    slowest.map((slow) => h("tr", null,
      h("td", null, h("a", { href: `#/explore?request=${encodeURIComponent(slow.request_id)}`, "data-key": `slow-${slow.request_id}` }, h("code", null, slow.request_id)),
        slow.degraded && h("span", { class: "badge warn" }, t("degraded"))),
      h("td", { class: "right" }, ms(slow.total_ms)),
      h("td", null, slow.channel && [channelBadge(slow.channel), h("span", { class: "muted small" }, ` ${ms(slow.channel_ms)}`)]),
      h("td", { class: "right muted" }, tell("ago", { s: number(slow.seconds_ago, 0) })))));
}

function refusals(told) {
  const refused = Object.entries(told.totals.shed).filter(([, n]) => n > 0), reasons = Object.entries(told.traffic.reasons);
  const list = (title, rows) => h("div", { class: "stack tight" }, h("h3", null, title), rows.length
    ? h("dl", { class: "counts" }, rows.map(([name, n]) => [h("dt", null, name), h("dd", null, count(n))])) : h("p", { class: "muted small" }, t("none_so_far")));
  return [list(t("reasons_minute"), reasons.map(([text, n]) => [reason(text), n])), list(t("shed_start"), refused.map(([name, n]) => [said("shed", name), n]))];
}

function worker(told) {
  const { worker: it } = told;
  if (!it) return h("p", { class: "muted" }, t("no_worker"));
  return h("dl", null,
    h("dt", null, t("state")), h("dd", null, h("span", { class: `badge ${it.state === "ready" ? "good" : "warn"}` }, said("worker", it.state)), ` ${it.device ?? ""}`),
    h("dt", null, t("silence")), h("dd", null, `${number(it.silence_s, 2)} s`),
    h("dt", null, t("batch_cost")), h("dd", null, tell("cost", { base: number(it.base_ms, 1), row: number(it.row_ms, 2) })),
    h("dt", null, t("restarts")), h("dd", null, it.restarts),
    h("dt", null, t("loop_lag")), h("dd", null, ms(told.limits.loop_lag_ms)));
}

function content(told) {
  const { traffic, worker: generative, state, limits, totals } = told;
  const shed = Object.entries(totals.shed).filter(([name]) => name !== "narrowed").reduce((sum, [, n]) => sum + n, 0);
  return [
    h("div", { class: "row" }, h("h1", null, t("live")), h("span", { class: `badge ${told.ready ? "good" : "warn"}` }, t(told.ready ? "ready" : "not_ready")),
      told.reasons.map((text) => h("span", { class: "badge warn" }, said("ready", text))),
      h("span", { class: "muted small push" }, tell("stored", { users: count(state.users), events: count(state.events) }))),
    h("div", { class: "figures" },
      figure(t("answers_minute"), count(traffic.answers), { note: tell("per_second", { n: number(traffic.answers / traffic.window_s, 1) }) }),
      figure("p99", traffic.stages_ms.total ? ms(traffic.stages_ms.total.p99) : "–", { note: tell("deadline_note", { n: count(limits.deadline_ms) }),
        tone: traffic.stages_ms.total?.p99 > limits.deadline_ms ? "warn" : "" }),
      figure(t("requests"), count(told.inflight), { note: tell("of_limit", { n: count(Math.floor(limits.inflight_limit)) }) }),
      generative && figure(t("rows"), count(generative.rows), { note: tell("batch_note", { n: generative.batch_rows }) }),
      figure(t("shed_count"), count(shed), { note: t("since_start"), tone: shed > 0 ? "warn" : "" }),
      figure(t("share_degraded"), percent(traffic.degraded_share), { note: tell("narrowed_note", { n: count(traffic.narrowed) }), tone: traffic.degraded_share > 0.05 ? "warn" : "" }),
      figure(t("fill"), percent(traffic.fill_ratio), { note: t("fill_note"), tone: traffic.fill_ratio < 0.9 ? "warn" : "" })),
    h("section", { class: "card" }, h("h2", null, t("rate")), rates(traffic.per_second)),
    traffic.answers === 0 ? h("section", { class: "card" }, empty(t("quiet"), t("quiet_hint"))) : [
      h("div", { class: "two" },
        h("section", { class: "card" }, h("h2", null, t("stages")), stageTable(traffic.stages_ms)),
        h("section", { class: "card" }, h("h2", null, t("tiers")), h("p", { class: "muted small" }, t("tiers_hint")), tierTable(traffic.tiers))),
      h("section", { class: "card" }, h("h2", null, t("by_channel")), channelTable(traffic))],
    h("div", { class: "two" },
      h("section", { class: "card" }, h("h2", null, t("slowest")), slowTable(traffic.slowest)),
      h("div", { class: "stack" }, h("section", { class: "card" }, h("h2", null, t("worker")), worker(told)), h("section", { class: "card" }, h("h2", null, t("less")), refusals(told)))),
  ];
}

export function live(main) {
  const shown = h("div", { class: "stack" }, waiting()), trouble = h("div", { role: "alert" });
  let timer, over = false, ever = false;
  put(main, trouble, shown);
  async function look() {
    if (!document.hidden) {
      try {
        const told = await api.health();
        if (over) return;
        ever = true;
        put(trouble); put(shown, content(told));
      } catch (error) {
        if (over) return;
        if (ever) put(trouble, h("p", { class: "card failed" }, explanation(error))); else put(shown, failed(error, look));
      }
    }
    clearTimeout(timer);
    if (!over) timer = setTimeout(look, EVERY_MS);
  }
  look();
  return () => { over = true; clearTimeout(timer); };
}
