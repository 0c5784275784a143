// The fused list, who found what, and how complete the answer is.

import { h, number, sid } from "./dom.js";
import { openItem } from "./drawer.js";
import { t } from "./words.js";

const ORDER = ["generative", "item_cf", "transition", "transition_undirected", "basket", "lexical", "dense", "popularity"];
const SHORT = { item_cf: "item-CF", transition_undirected: "transition ↔" };

export const channelName = (name) => SHORT[name] ?? name;
const rankOf = (name) => { const place = ORDER.indexOf(name); return place < 0 ? ORDER.length : place; };
export const inOrder = (names) => [...names].sort((a, b) => rankOf(a) - rankOf(b) || a.localeCompare(b));
export const channelClass = (name) => `ch ch-${rankOf(name)}`;

function badges(item) {
  const names = inOrder(Object.keys(item.channels));
  return names.map((name) => h("span", {
    class: channelClass(name), title: `${channelName(name)}: ${t("score")} ${number(item.channels[name].score, 4)}`,
  }, channelName(name), h("b", null, item.channels[name].rank)));
}

export function resultTable(answer, { add }) {
  const several = Object.values(answer.coverage.channels).filter((lane) => lane.items > 0).length > 1;
  const best = Math.max(...answer.items.map((item) => item.score), 1e-9);
  return h("div", { class: "scroll" }, h("table", { class: "results" },
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "#"), h("th", { scope: "col" }, t("item")),
      h("th", { scope: "col", class: "wide" }, t("sid")), h("th", { scope: "col" }, t("found_by")),
      h("th", { scope: "col", class: "right" }, t("score")))),
    h("tbody", null, answer.items.map((item) => h("tr", { class: item.fallback ? "fallback" : null },
      h("td", { class: "rank" }, item.rank),
      h("td", null, h("button", { type: "button", class: "link title", onclick: () => openItem(item.item_id, { add }) },
        item.title || item.item_id), h("code", { class: "muted small" }, item.item_id)),
      h("td", { class: "wide" }, sid(item.sid),
        item.sequence_score !== undefined &&
          h("span", { class: "muted small", title: "Σ log p" }, ` ${number(item.sequence_score)}`)),
      h("td", { class: "badges" }, item.fallback ? h("span", { class: "badge" }, t("fallback")) : badges(item),
        several && !item.fallback && Object.keys(item.channels).length === 1 && h("span", { class: "badge only" }, t("only"))),
      h("td", { class: "right" }, h("div", { class: "bar", style: { "--part": Math.max(item.score, 0) / best } }),
        h("span", { class: "small" }, number(item.score, 4))))))));
}

export function coverageStrip(answer) {
  const coverage = answer.coverage, total = answer.timing_ms.total;
  const names = inOrder(Object.keys(coverage.channels));
  const longest = Math.max(...names.map((name) => coverage.channels[name].ms), 1);
  return h("section", { class: "coverage card", "aria-label": t("coverage") },
    h("div", { class: "coverage-head" },
      h("span", { class: `badge ${coverage.degraded ? "warn" : "good"}` }, t(coverage.degraded ? "degraded" : "complete")),
      h("span", null, `${t("took")} `, h("b", null, `${number(total, 1)} ms`), h("span", { class: "muted" },
        `, ${t("of_which")} ${number(answer.timing_ms.channels, 1)} ms`)),
      coverage.beam > 0 && h("span", null, `${t("beam_used")} `, h("b", null, coverage.beam),
        coverage.beam < coverage.beam_asked && h("span", { class: "muted" }, ` / ${coverage.beam_asked}`)),
      coverage.filled > 0 && h("span", null, `${t("filled")} `, h("b", null, coverage.filled)),
      coverage.reasons.map((reason) => h("span", { class: "badge warn" }, reason)),
      h("code", { class: "muted small digest", title: answer.versions.bundle },
        `${answer.versions.bundle.slice(0, 15)}… · ${answer.versions.fusion} · ${answer.versions.release}`)),
    h("div", { class: "lanes" }, names.map((name) => {
      const lane = coverage.channels[name];
      return [h("span", { class: channelClass(name) }, channelName(name)),
        h("span", { class: "track" }, h("i", { class: lane.outcome, style: { "--part": lane.ms / longest } })),
        h("span", { class: "small" }, lane.outcome === "ok" ? lane.items : lane.outcome),
        h("span", { class: "small muted right" }, `${number(lane.ms, 1)} ms`)];
    })));
}

export function sideBySide(explained, { add }) {
  const names = inOrder(Object.keys(explained.lists));
  const count = {};
  for (const name of names) for (const item of explained.lists[name].slice(0, 20)) count[item.item_id] = (count[item.item_id] ?? 0) + 1;
  const answered = new Map(explained.answer.items.map((item) => [item.item_id, item.rank]));
  return h("div", { class: "lists" }, names.map((name) => h("section", null,
    h("h3", null, h("span", { class: channelClass(name) }, channelName(name))),
    h("ol", null, explained.lists[name].slice(0, 20).map((item, place) => h("li", {
      class: [answered.has(item.item_id) ? "answered" : "", count[item.item_id] === 1 ? "unique" : ""].join(" "),
    }, h("span", null, place + 1), h("button", { type: "button", class: "link", onclick: () => openItem(item.item_id, { add }) }, item.title || item.item_id),
    answered.has(item.item_id) && h("b", { class: "small", title: t("results") }, `→ ${answered.get(item.item_id)}`)))))));
}
