// The playground: choose a user or make up a history, run, and see everything that led to the answer.

import { api } from "./api.js";
import { beamTree } from "./beams.js";
import { compare } from "./compare.js";
import { controls } from "./controls.js";
import { h, put } from "./dom.js";
import { coverageStrip, resultTable, sideBySide } from "./results.js";
import { copy, empty, failed, tabs, waiting } from "./widgets.js";
import { t } from "./words.js";

const TABS = ["results", "beams", "lists", "compare", "json"];

function stateOf(asked) {
  return {
    mode: asked.get("mode") === "search" ? "search" : "recommend", user: asked.get("user"), query: asked.get("query") ?? "",
    history: [], edited: false, profile: {}, k: Number(asked.get("k") ?? 10), beam: asked.get("beam") ?? "",
    seen: asked.get("seen") !== "0", spread: asked.get("spread") === "1", deadline: asked.get("deadline") ?? "",
    channels: asked.get("channels")?.split(",") ?? null, tab: TABS.includes(asked.get("tab")) ? asked.get("tab") : "results",
    with: asked.get("with") ?? "", explained: null, error: null, known: [], roles: [], busy: false, all: false,
  };
}

export function explore(main, asked) {
  const state = stateOf(asked);
  const left = h("div", { class: "panel" }), right = h("div", { class: "stage" });
  const status = h("p", { class: "unseen", role: "status" });
  let own = location.hash, runs = 0;
  put(main, h("h1", { class: "unseen" }, t("explore")), left, h("div", { class: "stage-frame" }, status, right));

  function permalink() {
    if (location.hash !== own) return; // the reader has gone elsewhere meanwhile
    const words = new URLSearchParams();
    if (state.mode === "search") { words.set("mode", "search"); words.set("query", state.query); }
    if (state.user) words.set("user", state.user);
    if (state.edited) words.set("items", state.history.map((item) => item.item_id).join("|"));
    if (state.k !== 10) words.set("k", state.k);
    for (const name of ["beam", "deadline", "with"]) if (state[name]) words.set(name, state[name]);
    if (!state.seen) words.set("seen", "0");
    if (state.spread) words.set("spread", "1");
    if (state.channels) words.set("channels", state.channels.join(","));
    if (state.tab !== "results") words.set("tab", state.tab);
    history.replaceState(null, "", `#/explore?${words}`);
    own = location.hash;
  }

  function request() {
    const body = { k: state.k, explain: true, exclude_seen: state.mode === "search" ? false : state.seen, scenario: "console" };
    if (state.mode === "search") body.query = state.query;
    if (state.edited || (!state.user && state.history.length)) body.history = state.history.map((item) => item.item_id);
    else if (state.user) body.user_id = state.user;
    if (state.edited && Object.keys(state.profile).length) body.profile = state.profile;
    if (state.beam) body.beam = Number(state.beam);
    if (state.deadline) body.deadline_ms = Number(state.deadline);
    if (state.channels) body.channels = state.channels;
    if (state.spread) body.spread = { levels: 1, most: 2 };
    return body;
  }

  const ask = (more) => (state.mode === "search" ? api.search : api.recommend)({ ...request(), ...more });

  async function run() {
    if (state.mode === "search" && !state.query.trim()) { permalink(); state.explained = null; put(right, outcome()); return; }
    const number = (runs += 1);
    permalink();
    state.busy = true; right.classList.add("busy");
    if (!state.explained) put(right, waiting());
    let explained = null, error = null;
    try { explained = await api.explain((await ask({})).request_id); } catch (caught) { error = caught; }
    if (number !== runs) return; // a newer run is on its way
    state.busy = false; state.error = error;
    if (explained) state.explained = explained;
    right.classList.remove("busy");
    put(status, error ? "" : `${explained.answer.items.length} ${t("items")}`);
    refresh();
  }

  async function pickUser(user) {
    Object.assign(state, { user, edited: false, all: false, error: null, history: [], profile: {} });
    try {
      const page = await api.user(user);
      state.history = page.history; state.profile = page.profile;
    } catch (error) {
      if (error.status !== 404) { state.error = error; refresh(); return; }
      refresh(); // unknown is not wrong: the popular items answer
    }
    left.scrollTop = 0;
    await run();
  }

  const edit = (items) => { state.history = items; state.edited = true; put(left, controls(tools)); run(); };
  const add = (item) => edit([...state.history, { item_id: item.item_id, title: item.title, sid: item.sid }]);

  async function anyUser() {
    const { users } = await api.users(String(Math.floor(Math.random() * 10)));
    const some = users.length ? users : (await api.users("")).users;
    if (some.length) pickUser(some[Math.floor(Math.random() * some.length)]);
  }

  function withGenerative() {
    const answered = Object.keys(state.explained.answer.coverage.channels);
    state.channels = ["generative", ...(state.channels ?? answered).filter((name) => name !== "generative")];
    run();
  }

  // Whoever is typing an id or a title is not interrupted by an answer that comes meanwhile.
  const isTyping = () => left.contains(document.activeElement) && document.activeElement.matches("[role=combobox]") && document.activeElement.value !== "";
  const refresh = () => { if (!isTyping()) put(left, controls(tools)); put(right, outcome()); };
  const tools = { state, run, edit, add, anyUser, pickUser, refresh };

  function outcome() {
    if (state.error) return failed(state.error, run);
    if (!state.explained) {
      return state.mode === "search" ? empty(t("search_empty"), t("search_empty_hint"))
        : empty(t("nothing"), t("nothing_hint"), h("button", { type: "button", class: "primary", onclick: anyUser }, t("random_user")));
    }
    const { answer } = state.explained;
    const pages = {
      results: () => resultTable(answer, { add }),
      beams: () => beamTree(state.explained, { known: state.known, ask: withGenerative }),
      lists: () => sideBySide(state.explained, { add }),
      compare: () => compare(state, { ask, add, changed: permalink }),
      json: () => json(answer),
    };
    const { bar, panel } = tabs(TABS.map((name) => [name, t(name)]), {
      current: state.tab, label: t("answer"), key: "tab", choose: (name) => { state.tab = name; permalink(); put(right, outcome()); },
      extra: h("button", { type: "button", class: "quiet push", "data-key": "link", onclick: (event) => copy(event.target, location.href) }, t("copy_link")),
    });
    put(panel, pages[state.tab]());
    return [coverageStrip(answer), bar, panel];
  }

  function json(answer) {
    const path = state.mode === "search" ? "search" : "recommend", body = JSON.stringify(request()).replaceAll("'", "'\\''");
    const curl = `curl -s ${location.origin}/v1/${path} -H 'content-type: application/json' -d '${body}'`, text = JSON.stringify(answer, null, 2);
    return h("div", { class: "card" },
      h("div", { class: "row" }, h("button", { type: "button", onclick: (event) => copy(event.target, text) }, t("copy_json")),
        h("button", { type: "button", onclick: (event) => copy(event.target, curl) }, t("copy_curl"))),
      h("pre", { class: "json", tabindex: 0, "aria-label": t("json") }, text));
  }

  async function begin() {
    const told = (await api.health()).releases;
    state.known = told.active?.channels ?? [];
    state.roles = ["candidate", "previous"].filter((role) => told[role]);
    const request = asked.get("request");
    if (request) {
      state.explained = await api.explain(request);
      state.user = state.explained.user_id; state.query = state.explained.query ?? "";
      if (state.explained.query) state.mode = "search";
      refresh();
    } else if (asked.get("items")) {
      const pages = await Promise.all(asked.get("items").split("|").map((id) => api.item(id).catch(() => ({ item_id: id, title: "", sid: "" }))));
      if (state.user) state.profile = (await api.user(state.user)).profile;
      state.edited = true; state.history = pages;
      await run();
    } else if (state.user) await pickUser(state.user);
    else if (state.mode === "search") await run();
    else refresh();
    if (asked.get("open")) (await import("./drawer.js")).openItem(asked.get("open"), { add });
  }

  refresh();
  if ([...asked].length) put(right, waiting());
  begin().catch((error) => { state.error = error; refresh(); });
}
