// The fused list, who found what, and how complete the answer is.

import { h, ms, number, sid } from "./dom.js";
import { openItem } from "./drawer.js";
import { empty } from "./widgets.js";
import { said, t, tell } from "./words.js";

const ORDER = ["generative", "item_cf", "transition", "transition_undirected", "basket", "linear", "lexical", "dense", "popularity"];

export const channelName = (name) => said("channel", name);
const rankOf = (name) => { const place = ORDER.indexOf(name); return place < 0 ? ORDER.length : place; };
export const inOrder = (names) => [...names].sort((a, b) => rankOf(a) - rankOf(b) || a.localeCompare(b));
export const channelBadge = (name, ...more) => h("span", { class: `ch ch-${rankOf(name)}` }, channelName(name), more);

// "shed: generative" in the reader's words.
export function reason(text) {
  const [what, name] = text.split(": ");
  return name ? `${said("why", what)}: ${channelName(name)}` : said("why", text);
}

function badges(item) {
  return inOrder(Object.keys(item.channels)).map((name) => h("span", { class: `ch ch-${rankOf(name)}`,
    title: `${channelName(name)}: ${t("score")} ${number(item.channels[name].score, 4)}` }, channelName(name), h("b", null, item.channels[name].rank)));
}

export const itemButton = (item, more) => h("button", { type: "button", class: "link title", onclick: () => openItem(item.item_id, more) }, item.title || item.item_id);

export function resultTable(answer, { add }) {
  if (!answer.items.length) return empty(t("no_items"), t("no_items_hint"));
  const several = Object.values(answer.coverage.channels).filter((lane) => lane.items > 0).length > 1;
  const best = Math.max(...answer.items.map((item) => item.score), 1e-9);
  return h("div", { class: "scroll" }, h("table", { class: "results" },
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "#"), h("th", { scope: "col" }, t("item")),
      h("th", { scope: "col", class: "wide" }, t("sid")), h("th", { scope: "col" }, t("found_by")),
      h("th", { scope: "col", class: "right" }, t("score")))),
    h("tbody", null, answer.items.map((item) => h("tr", { class: item.fallback ? "fallback" : null },
      h("td", { class: "rank" }, item.rank),
      h("td", null, itemButton(item, { add }), h("code", { class: "muted small" }, item.item_id)),
      h("td", { class: "wide" }, sid(item.sid), item.sequence_score !== undefined &&
        h("span", { class: "muted small logp", title: t("logp_hint") }, `Σ log p ${number(item.sequence_score)}`)),
      h("td", { class: "badges" }, item.fallback ? h("span", { class: "badge" }, t("fallback")) : badges(item),
        several && !item.fallback && Object.keys(item.channels).length === 1 && h("span", { class: "badge only" }, t("only"))),
      h("td", { class: "right" }, h("span", { class: "bar", "aria-hidden": "true", style: { "--part": Math.max(item.score, 0) / best } }),
        h("span", { class: "small" }, item.fallback ? "–" : number(item.score, 4))))))));
}

export function coverageStrip(answer) {
  const coverage = answer.coverage, { total, channels } = answer.timing_ms;
  const names = inOrder(Object.keys(coverage.channels));
  const longest = Math.max(...names.map((name) => coverage.channels[name].ms), 1);
  const fact = (label, value, note) => h("span", null, `${label} `, h("b", null, value), note && h("span", { class: "muted" }, note));
  return h("section", { class: "coverage card", "aria-label": t("coverage") },
    h("div", { class: "coverage-head" },
      h("span", { class: `badge ${coverage.degraded ? "warn" : "good"}` }, t(coverage.degraded ? "degraded" : "complete")),
      fact(t("took"), ms(total), ` (${t("of_which")} ${ms(channels)})`),
      coverage.beam > 0 && fact(t("beam_used"), coverage.beam, coverage.beam < coverage.beam_asked && ` / ${coverage.beam_asked}`),
      coverage.filled > 0 && fact(t("filled"), coverage.filled),
      coverage.reasons.map((text) => h("span", { class: "badge warn" }, reason(text))),
      Object.entries(answer.versions.arms ?? {}).map(([layer, arm]) => h("span", { class: "badge", title: t("arm_hint") }, `${t("experiment")} ${layer}: ${arm}`)),
      h("span", { class: "digest" }, h("code", { class: "muted small", title: answer.versions.bundle }, answer.versions.bundle.slice(7, 15)),
        h("span", { class: "badge" }, t(answer.versions.release)), h("span", { class: "muted small" }, answer.versions.fusion))),
    h("div", { class: "lanes" }, names.map((name) => {
      const lane = coverage.channels[name];
      return [channelBadge(name), h("span", { class: "track", "aria-hidden": "true" }, h("i", { class: lane.outcome, style: { "--part": lane.ms / longest } })),
        h("span", { class: `small ${lane.outcome === "ok" ? "" : "muted"}`, title: said("detail", lane.why ?? "") }, lane.outcome === "ok" ? tell("n_items", { n: lane.items }) : said("outcome", lane.outcome)),
        h("span", { class: "small muted right" }, ms(lane.ms))];
    })));
}

export function sideBySide(explained, { add }) {
  const names = inOrder(Object.keys(explained.lists));
  const often = {};
  for (const name of names) for (const item of explained.lists[name].slice(0, 20)) often[item.item_id] = (often[item.item_id] ?? 0) + 1;
  const answered = new Map(explained.answer.items.map((item) => [item.item_id, item.rank]));
  return h("div", null, h("p", { class: "muted hint" }, t("lists_hint")), h("div", { class: "lists" }, names.map((name) => h("section", { class: "card" },
    h("h3", null, channelBadge(name)),
    explained.lists[name].length === 0 && h("p", { class: "muted small" }, t("empty_list")),
    h("ol", null, explained.lists[name].slice(0, 20).map((item, place) => h("li", {
      class: [answered.has(item.item_id) ? "answered" : "", often[item.item_id] === 1 ? "unique" : ""].join(" "),
    }, h("span", null, place + 1), h("button", { type: "button", class: "link", onclick: () => openItem(item.item_id, { add }) }, item.title || item.item_id),
    answered.has(item.item_id) && h("b", { class: "small", title: t("rank_hint") }, `→ ${answered.get(item.item_id)}`))))))));
}
