// The beam, level by level, as a tree: columns of surviving prefixes, lines from what they came from.

import { codesOf as codes, h, hue, number, percent, put, svg } from "./dom.js";
import { reason } from "./results.js";
import { empty } from "./widgets.js";
import { t, tell } from "./words.js";

const SHOWN = 16;
const parentOf = (text) => codes(text).slice(0, -1).join("");

// A beam is shown if it is among the best of its level, or the ancestor of one that is.
function kept(levels) {
  const shown = levels.map((level) => new Set(level.slice(0, SHOWN).map((beam) => beam.sid)));
  for (let level = levels.length - 1; level > 0; level -= 1) {
    for (const text of shown[level]) shown[level - 1].add(parentOf(text));
  }
  return levels.map((level, place) => level.filter((beam) => shown[place].has(beam.sid)));
}

// Children stand in the order of their parents, so that lines cross little.
function ordered(levels) {
  const sorted = [levels[0]];
  for (let level = 1; level < levels.length; level += 1) {
    const place = new Map(sorted[level - 1].map((beam, index) => [beam.sid, index]));
    sorted.push([...levels[level]].sort((a, b) =>
      (place.get(parentOf(a.sid)) ?? 0) - (place.get(parentOf(b.sid)) ?? 0) || b.score - a.score));
  }
  return sorted;
}

function card(beam, level, best, last) {
  const probability = Math.exp(beam.score), own = codes(beam.sid).at(-1).slice(1, -1);
  const told = probability < 0.0005 ? `e^${number(beam.score, 1)}` : percent(probability, probability < 0.1 ? 2 : 1);
  const after = `${tell("n_children", { n: beam.children })}${beam.pruned > 0 ? ` · ${tell("n_pruned", { n: beam.pruned })}` : ""}`;
  return h("button", { type: "button", class: `beam ${last ? "leaf" : ""}`, "data-sid": beam.sid, style: { "--hue": hue(level), "--part": probability / best },
    title: beam.titles.join("\n"), "aria-label": `${beam.sid} ${told} ${last ? beam.titles[0] ?? "" : after}` },
  h("span", { class: "beam-line" }, h("span", { class: "code", style: { "--hue": hue(level) } }, own), h("b", null, told)),
  h("span", { class: "beam-words" }, last ? beam.titles[0] ?? "" : after),
  !last && beam.titles.length > 0 && h("span", { class: "beam-words muted" }, beam.titles.slice(0, 2).join(" · ")));
}

function draw(board, lines) {
  const origin = board.getBoundingClientRect();
  lines.setAttribute("width", board.scrollWidth);
  lines.setAttribute("height", board.scrollHeight);
  const cards = new Map([...board.querySelectorAll(".beam")].map((element) => [element.dataset.sid, element]));
  const paths = [];
  for (const [text, element] of cards) {
    const parent = cards.get(parentOf(text));
    if (!parent) continue;
    const from = parent.getBoundingClientRect(), to = element.getBoundingClientRect();
    const x1 = from.right - origin.left, y1 = from.top + from.height / 2 - origin.top;
    const x2 = to.left - origin.left, y2 = to.top + to.height / 2 - origin.top, bend = (x2 - x1) / 2;
    paths.push(svg("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, "data-sid": text,
      style: { "--part": element.style.getPropertyValue("--part"), "--hue": element.style.getPropertyValue("--hue") } }));
  }
  put(lines, paths);
}

function light(board, text) {
  for (const element of board.querySelectorAll("[data-sid]")) {
    const other = element.dataset.sid;
    const related = text !== null && (text.startsWith(other) || other.startsWith(text));
    element.classList.toggle("lit", related);
    element.classList.toggle("dim", text !== null && !related);
  }
}

// Why there is no beam: the channel was not among those asked, or what became of it.
function without(explained, { known, ask }) {
  const { coverage, versions } = explained.answer, lane = coverage.channels.generative;
  if (lane) return empty(t("no_beams"), lane.outcome === "ok" ? t("no_trace") : coverage.reasons.map(reason).join(" · ") || t("cold_beams"));
  const arms = Object.entries(versions.arms ?? {}).map(([layer, arm]) => `${layer}: ${arm}`).join(", ");
  return empty(t("no_beams"), arms ? tell("no_beams_arm", { arms }) : t("no_beams_asked"),
    known.includes("generative") && h("button", { type: "button", class: "primary", onclick: ask }, t("ask_generative")));
}

export function beamTree(explained, why) {
  if (!explained.levels?.length) return without(explained, why);
  const all = explained.levels, levels = ordered(kept(all)), lines = svg("svg", { class: "beam-links", "aria-hidden": "true" });
  const columns = levels.map((level, place) => {
    const best = Math.max(...level.map((beam) => Math.exp(beam.score))), pruned = all[place].reduce((sum, beam) => sum + beam.pruned, 0);
    return h("section", { class: "level", "aria-label": `${t("level")} ${place}` },
      h("h3", null, `${t("level")} ${place}`, h("span", { class: "muted small" }, ` ${tell("n_survivors", { n: explained.survivors[place] })}${pruned ? ` · ${tell("n_pruned", { n: pruned })}` : ""}`)),
      h("div", { class: "level-cards" }, level.map((beam) => card(beam, place, best, place === levels.length - 1))));
  });
  const board = h("div", { class: "board" }, lines, columns);
  for (const element of board.querySelectorAll(".beam")) {
    element.addEventListener("pointerenter", () => light(board, element.dataset.sid));
    element.addEventListener("focus", () => light(board, element.dataset.sid));
    element.addEventListener("pointerleave", () => light(board, null));
    element.addEventListener("blur", () => light(board, null));
  }
  new ResizeObserver(() => draw(board, lines)).observe(board);
  return h("div", null, h("p", { class: "muted hint" }, t("beams_hint")),
    h("div", { class: "scroll card beams", tabindex: 0, role: "region", "aria-label": t("beams") }, board));
}
