// Which bundle answers whom, what another one would change, and what was done so far. Changing it is left to the machine's owner.

import { api } from "./api.js";
import { count, h, moment, ms, percent } from "./dom.js";
import { openItem } from "./drawer.js";
import { channelBadge, inOrder } from "./results.js";
import { command, empty, meter, page } from "./widgets.js";
import { said, t, tell } from "./words.js";

const short = (digest) => digest.slice(7, 19);

function card(role, release, told) {
  const seen = told.traffic[role];
  if (!release) return h("section", { class: "card release absent" }, h("h2", null, t(role)), h("p", { class: "muted" }, t(`no_${role}`)));
  return h("section", { class: `card release ${role}` },
    h("div", { class: "row spread" }, h("h2", null, t(role)), role === "candidate" && h("span", { class: "badge" }, `${t("canary")} ${percent(told.canary_percent / 100, 0)}`)),
    h("code", { class: "digest", title: release.digest }, short(release.digest)),
    role === "candidate" && meter(told.canary_percent / 100),
    h("dl", null,
      h("dt", null, t("items_all")), h("dd", null, count(release.items)),
      h("dt", null, t("beam")), h("dd", null, release.beam),
      h("dt", null, t("worker")), h("dd", null, release.worker ? h("span", { class: `badge ${release.worker === "ready" ? "good" : "warn"}` }, said("worker", release.worker)) : t("none"),
        release.restarts ? ` ${tell("n_restarts", { n: release.restarts })}` : ""),
      h("dt", null, t("channels")), h("dd", { class: "badges" }, inOrder(release.channels).map((name) => channelBadge(name)))),
    h("h3", null, t("last_minute")), seen ? h("dl", null,
      h("dt", null, t("answers")), h("dd", null, count(seen.answers)),
      h("dt", null, "p50 · p99"), h("dd", null, seen.p50 === undefined ? "–" : `${ms(seen.p50)} · ${ms(seen.p99)}`),
      h("dt", null, t("degraded_short")), h("dd", null, percent(seen.degraded_share)),
      h("dt", null, t("fill_short")), h("dd", null, percent(seen.fill))) : h("p", { class: "muted small" }, t("nobody_asked")));
}

function examples(title, n, items) {
  if (!n) return null;
  return h("details", null, h("summary", null, `${title} `, h("b", null, count(n))), h("ul", { class: "plain" }, items.map((item) => h("li", null,
    h("button", { type: "button", class: "link", onclick: () => openItem(item.item_id) }, item.title || item.item_id), h("code", { class: "muted small" }, ` ${item.item_id}`)))));
}

function changes(d, staged) {
  const titles = staged ? ["active", "candidate"] : ["previous", "active"];
  const pair = (label, one, other) => [h("dt", null, label), h("dd", null, one === other ? one : [`${one} → `, h("b", null, other)])];
  const same = d.before === d.after;
  return h("section", { class: "card" }, h("h2", null, tell("diff", { from: t(titles[0]), to: t(titles[1]) })),
    same && h("p", { class: "muted" }, t("same_bundle")),
    h("div", { class: "pair" }, h("dl", null, pair(t("digest"), short(d.before), short(d.after)), pair(t("items_all"), count(d.items.before), count(d.items.after)),
      pair(t("sid_space"), d.sids.space_before.join(" × "), d.sids.space_after.join(" × ")), pair(t("beam"), d.beam.before, d.beam.after),
      (d.channels.added.length > 0 || d.channels.removed.length > 0) && [h("dt", null, t("channels")), h("dd", { class: "badges" },
        d.channels.added.map((name) => h("span", null, "+ ", channelBadge(name))), d.channels.removed.map((name) => h("span", null, "− ", channelBadge(name))))]),
    h("div", { class: "stack tight" }, h("p", { class: "muted small" }, tell("sids_kept", { n: count(d.sids.common - d.sids.changed_count), all: count(d.sids.common) })), examples(t("items_added"), d.items.added_count, d.items.added), examples(t("items_removed"), d.items.removed_count, d.items.removed),
      examples(t("items_changed"), d.items.changed_count, d.items.changed), examples(t("sids_changed"), d.sids.changed_count, d.sids.changed),
      staged && h("p", null, h("a", { href: "#/explore?tab=compare" }, t("compare_answers"))))));
}

// What can be done next, given where things stand.
function steps(told) {
  const staged = told.candidate !== null, list = [[t("step_stage"), "stage BUNDLE"]];
  if (staged) list.push([t("step_canary"), "canary 5"], [t("step_activate"), "activate"], [t("step_drop"), "rollback"]);
  else if (told.previous) list.push([t("step_rollback"), "rollback"]);
  list.push([t("step_delist"), "delist ITEM …"]);
  return h("section", { class: "card" }, h("h2", null, t("how")), h("p", { class: "muted hint" }, t("how_hint")),
    list.map(([words, verb]) => h("div", { class: "step" }, h("span", null, words), command(`genrecall release ${verb} --state STATE`))));
}

function trail(entries) {
  return h("section", { class: "card" }, h("h2", null, t("trail")), entries.length === 0 ? empty(t("none"), "") : h("ol", { class: "trail" }, entries.map((entry) => h("li", null,
    h("span", { class: "muted small" }, moment(entry.time)), h("b", null, `${t(`did_${entry.what}`)}${entry.what === "canaried" ? ` ${percent(entry.percent / 100, 0)}` : ""}`),
    h("code", { class: "muted small", title: entry.digest }, short(entry.digest))))));
}

export function releases(main) {
  return page(main, api.releases, (told) => [
    h("div", { class: "row" }, h("h1", null, t("releases")), h("span", { class: "muted small push" }, tell("n_delisted", { n: count(told.delisted) }))),
    h("div", { class: "three" }, card("active", told.active, told), card("candidate", told.candidate, told), card("previous", told.previous, told)),
    told.differences && changes(told.differences, told.candidate !== null),
    h("div", { class: "two even" }, steps(told), trail(told.trail)),
  ]);
}
