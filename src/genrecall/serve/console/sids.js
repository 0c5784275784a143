// The codebooks' health: how often each code is used, where prefixes gather, which SIDs several items own.

import { api } from "./api.js";
import { h, hue, number, percent, put, sid, svg } from "./dom.js";
import { openItem } from "./drawer.js";
import { t } from "./words.js";

function bars(level, place) {
  const most = Math.max(...level.counts, 1), width = 1000, height = 70, step = width / level.counts.length;
  return svg("svg", { class: "codes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${t("level")} ${place}`, style: { "--hue": hue(place) } },
  level.counts.map((count, code) => svg("rect", { x: code * step, width: Math.max(step - (step > 4 ? 1 : 0), 0.4),
    y: height - (count / most) * height, height: (count / most) * height }, svg("title", null, `${level.name}_${code}: ${count}`))));
}

function arc(inner, outer, from, to) {
  const at = (radius, turn) => [250 + radius * Math.sin(turn), 250 - radius * Math.cos(turn)].map((v) => v.toFixed(2)).join(" ");
  const wide = to - from > Math.PI ? 1 : 0, end = Math.min(to, from + 2 * Math.PI - 1e-4);
  return `M${at(outer, from)}A${outer} ${outer} 0 ${wide} 1 ${at(outer, end)}L${at(inner, end)}A${inner} ${inner} 0 ${wide} 0 ${at(inner, from)}Z`;
}

function sunburst(prefixes, total, choose) {
  const turn = (count) => (count / total) * 2 * Math.PI;
  const paths = [];
  let begin = 0;
  prefixes.forEach((first, index) => {
    const shade = 220 + (index / prefixes.length) * 320;
    const piece = (inner, outer, from, to, entry, light) => svg("path", { d: arc(inner, outer, from, to), class: to - from > 0.03 ? "wide-arc" : null, tabindex: to - from > 0.05 ? 0 : null, role: "button",
      "aria-label": `${entry.prefix} ${entry.count}`, style: { "--hue": shade % 360, "--light": light },
      onclick: () => choose(entry), onkeydown: (event) => { if (event.key === "Enter") choose(entry); } }, svg("title", null, `${entry.prefix} · ${entry.count}`));
    paths.push(piece(80, 158, begin, begin + turn(first.count), first, 0));
    let inside = begin;
    first.below.forEach((second, place) => { paths.push(piece(162, 240, inside, inside + turn(second.count), second, 1 + (place % 3))); inside += turn(second.count); });
    begin += turn(first.count);
  });
  return svg("svg", { class: "sunburst", viewBox: "0 0 500 500", role: "group", "aria-label": t("sunburst") }, paths,
    svg("text", { x: 250, y: 247, "text-anchor": "middle", class: "big" }, total.toLocaleString()),
    svg("text", { x: 250, y: 270, "text-anchor": "middle" }, t("items")));
}

export function sids(main) {
  const below = h("div", { class: "below", "aria-live": "polite" });
  const choose = (entry) => put(below, h("h3", null, sid(entry.prefix), h("span", { class: "muted" }, ` ${entry.count} ${t("items")}`)),
    h("ul", { class: "plain" }, entry.examples.map((item) => h("li", null,
      h("button", { type: "button", class: "link", onclick: () => openItem(item.item_id) }, item.title || item.item_id)))));
  api.sids().then((told) => {
    put(main, h("h1", null, t("sids")),
      h("section", { class: "card" }, h("p", { class: "muted hint" }, t("codes_hint")),
        told.levels.map((level, place) => h("div", { class: "code-level" }, h("div", { class: "row" },
          h("span", { class: "code", style: { "--hue": hue(place) } }, `${t("level")} ${place}`),
          h("span", null, h("b", null, `${level.used} / ${level.counts.length}`), ` ${t("used")}`),
          h("span", null, h("b", null, number(level.perplexity, 1)), ` ${t("perplexity")} (${percent(level.perplexity / level.counts.length, 0)})`),
          level.used < level.counts.length && h("span", { class: "badge warn" }, `${level.counts.length - level.used} ${t("dead")}`)), bars(level, place)))),
      h("div", { class: "two wide-left" },
        h("section", { class: "card" }, h("h2", null, t("sunburst")), h("p", { class: "muted hint" }, t("sunburst_hint")), sunburst(told.prefixes, told.items, choose)),
        h("section", { class: "card" }, h("h2", null, t("below")), below,
          h("h2", null, t("collisions")), h("p", null, h("b", null, told.shared_sids.toLocaleString()), ` · ${t("largest")} `, h("b", null, told.largest_group)),
          h("ul", { class: "plain" }, told.groups.map((group) => h("li", null, sid(group.sid), h("span", { class: "muted small" }, ` ${group.count}× `),
            group.titles.join(" · ")))))));
    if (told.prefixes.length) choose(told.prefixes[0]);
  }).catch((error) => put(main, h("div", { class: "card error" }, error.message)));
}
