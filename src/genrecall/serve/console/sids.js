// The codebooks' health: how often each code is used, where prefixes gather, which SIDs several items own.

import { api } from "./api.js";
import { codesOf, count, h, hue, number, percent, put, sid, svg } from "./dom.js";
import { openItem } from "./drawer.js";
import { neighbours } from "./near.js";
import { failed, figure, page, waiting } from "./widgets.js";
import { windowed } from "./window.js";
import { t, tell } from "./words.js";

const ROW = 44, TALL = 480, FEW_DEAD = 60, THINNEST = 0.006;

function bars(level, place) {
  const most = Math.max(...level.counts, 1), width = 1000, height = 64, step = width / level.counts.length;
  return svg("svg", { class: "codes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": tell("codes_told", { level: place, most, used: level.used, all: level.counts.length }), style: { "--hue": hue(place) } },
  level.counts.map((n, code) => svg("rect", { x: code * step, width: Math.max(step - (step > 4 ? 1 : 0), 0.4),
    y: height - (n / most) * height, height: (n / most) * height }, svg("title", null, `${level.name}_${code}: ${n}`))));
}

function level(it, place) {
  const dead = it.counts.flatMap((n, code) => (n === 0 ? [`${it.name}_${code}`] : []));
  return h("div", { class: "code-level" }, h("div", { class: "row" },
    h("span", { class: "code", style: { "--hue": hue(place) } }, `${t("level")} ${place}`),
    h("span", null, h("b", null, `${count(it.used)} / ${count(it.counts.length)}`), ` ${t("used")}`),
    h("span", null, h("b", null, number(it.perplexity, 1)), ` ${t("perplexity")} (${percent(it.perplexity / it.counts.length, 0)})`),
    dead.length === 0 && h("span", { class: "badge good" }, t("no_dead"))), bars(it, place),
  dead.length > 0 && h("details", null, h("summary", null, h("span", { class: "badge warn" }, tell("n_dead", { n: dead.length }))),
    h("p", { class: "small muted dead" }, dead.slice(0, FEW_DEAD).join(" · "), dead.length > FEW_DEAD && ` … +${dead.length - FEW_DEAD}`)));
}

function arc(inner, outer, from, to) {
  const at = (radius, turn) => [250 + radius * Math.sin(turn), 250 - radius * Math.cos(turn)].map((v) => v.toFixed(2)).join(" ");
  const wide = to - from > Math.PI ? 1 : 0, end = Math.min(to, from + 2 * Math.PI - 1e-4);
  return `M${at(outer, from)}A${outer} ${outer} 0 ${wide} 1 ${at(outer, end)}L${at(inner, end)}A${inner} ${inner} 0 ${wide} 0 ${at(inner, from)}Z`;
}

// For the pointer; the keyboard has the list of codes beside it.
function sunburst(prefixes, total, choose) {
  const turn = (n) => (n / total) * 2 * Math.PI, paths = [];
  let begin = 0;
  prefixes.forEach((first, index) => {
    const shade = 220 + (index / prefixes.length) * 320;
    const piece = (inner, outer, from, to, entry, light) => paths.push(svg("path", { d: arc(inner, outer, from, to), class: to - from > 0.03 ? "wide-arc" : null,
      "data-prefix": entry.prefix, style: { "--hue": shade % 360, "--light": light }, onclick: () => choose(entry.prefix) },
    svg("title", null, `${codesOf(entry.prefix).join("")} · ${entry.count}\n${entry.example.title}`)));
    piece(80, 158, begin, begin + turn(first.count), first, 0);
    let inside = begin, rest = turn(first.count);
    first.below.filter((second) => turn(second.count) > THINNEST).forEach((second, place) => {
      piece(162, 240, inside, inside + turn(second.count), second, 1 + (place % 3));
      inside += turn(second.count); rest -= turn(second.count);
    });
    if (rest > 1e-6) piece(162, 240, inside, inside + rest, first, 5); // too thin to be told apart: the list has them
    begin += turn(first.count);
  });
  return svg("svg", { class: "sunburst", viewBox: "0 0 500 500", role: "img", "aria-label": tell("sunburst_told", { n: prefixes.length, items: total }) }, paths,
    svg("text", { x: 250, y: 247, "text-anchor": "middle", class: "big" }, count(total)),
    svg("text", { x: 250, y: 270, "text-anchor": "middle" }, t("items")));
}

// Walk down the tree of prefixes; the items below stand in a list that draws only what is seen.
function browser(prefixes, drawn) {
  const body = h("div", { class: "stack tight" });
  let asked = 0;
  async function choose(prefix) {
    const number_ = (asked += 1);
    for (const path of drawn()) path.classList.toggle("chosen", path.dataset.prefix === prefix);
    const codes = codesOf(prefix), first = prefixes.find((entry) => entry.prefix === codes[0]);
    const children = codes.length === 0 ? prefixes : codes.length === 1 ? first?.below ?? [] : [];
    const up = codes.slice(0, -1).join(""), list = h("div", null, waiting());
    put(body, h("div", { class: "row" }, codes.length > 0 && h("button", { type: "button", class: "quiet tiny", "data-key": "up", onclick: () => choose(up) }, `← ${t("up")}`),
      codes.length ? sid(prefix) : h("b", null, t("all_prefixes"))),
    children.length > 0 && h("div", { class: "chips", role: "group", tabindex: 0, "aria-label": t("codes_next") }, children.map((entry) => h("button", { type: "button", class: "chip", title: entry.example.title,
      "data-key": `chip-${entry.prefix}`, onclick: () => choose(entry.prefix) }, codesOf(entry.prefix).at(-1).slice(1, -1), h("b", null, count(entry.count))))), list);
    try {
      const told = await api.below(prefix);
      if (number_ !== asked) return;
      put(list, h("p", { class: "muted small" }, told.count > told.items.length ? tell("n_of_items", { n: count(told.items.length), all: count(told.count) }) : tell("n_items", { n: count(told.count) })),
        windowed(told.items, { rowHeight: ROW, height: TALL, label: t("below"), render: (item) => h("button", { type: "button", class: "row-button", onclick: () => openItem(item.item_id) },
          h("span", { class: "title" }, item.title || item.item_id), sid(item.sid)) }));
    } catch (error) { if (number_ === asked) put(list, failed(error, () => choose(prefix))); }
  }
  return { body, choose };
}

function collisions(told) {
  return h("section", { class: "card" }, h("h2", null, t("collisions")),
    h("p", { class: "muted small" }, told.shared_sids ? tell("collisions_told", { n: count(told.shared_sids), most: count(told.largest_group) }) : t("no_collisions")),
    told.groups.length > 0 && windowed(told.groups, { rowHeight: ROW, height: TALL, label: t("collisions"), render: (group) => h("div", { class: "row-line" }, sid(group.sid),
      h("b", { class: "small" }, `${group.count}×`), h("span", { class: "title muted" }, group.items.map((item, place) => [place > 0 && " · ",
        h("button", { type: "button", class: "link", onclick: () => openItem(item.item_id) }, item.title || item.item_id)]))) }));
}

function quality(told) {
  const { quality: q } = told;
  return [
    h("div", { class: "figures" },
      figure(t("items_all"), count(told.items), { note: tell("levels_note", { n: told.levels.length, codes: told.levels.map((it) => it.counts.length).join(" × ") }) }),
      q.collision_rate && figure(t("collision_rate"), percent(q.collision_rate.after), { note: tell("before_note", { share: percent(q.collision_rate.before) }) }),
      q.reconstruction_error && figure(t("unexplained"), percent(q.reconstruction_error.after), { note: t("unexplained_note") }),
      q.neighbours && figure(t("neighbours_kept"), percent(q.neighbours.overlap), { note: tell("neighbours_note", { k: q.neighbours.k, chance: percent(q.neighbours.chance, 2) }) })),
    (q.alarms ?? []).map((line) => h("p", { class: "card warned" }, line)),
  ];
}

export function sids(main, asked) {
  return page(main, api.sids, (told) => {
    const drawn = () => main.querySelectorAll(".sunburst path"), { body, choose } = browser(told.prefixes, drawn);
    choose("");
    return [
      h("h1", null, t("sids")), quality(told),
      h("section", { class: "card" }, h("h2", null, t("codebooks")), h("p", { class: "muted hint" }, t("codes_hint")), told.levels.map(level)),
      h("div", { class: "two even" },
        h("section", { class: "card" }, h("h2", null, t("sunburst")), h("p", { class: "muted hint" }, t("sunburst_hint")), sunburst(told.prefixes, told.items, choose)),
        h("section", { class: "card" }, h("h2", null, t("below")), body)),
      neighbours(asked.get("item"), (told.groups[0]?.items[0] ?? told.prefixes[0]?.example)?.item_id), collisions(told),
    ];
  });
}
