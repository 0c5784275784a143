// The console speaks the same API as every client.

import { said, t } from "./words.js";

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.code = problem.code ?? "";
    this.status = status;
  }
}

// What to tell the reader: the stable code in their language, and the service's own words behind it.
export function explanation(error) {
  if (!(error instanceof Refused)) return t("unreachable");
  const title = said("code", error.code);
  return title === error.code ? error.message : `${title} (${error.message})`;
}

async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
  });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(told, answer.status);
  return told;
}

const enc = encodeURIComponent;

export const api = {
  recommend: (asked) => call("POST", "v1/recommend", asked),
  search: (asked) => call("POST", "v1/search", asked),
  explain: (id) => call("GET", `v1/explain/${enc(id)}`),
  item: (id) => call("GET", `v1/items/${enc(id)}`),
  neighbours: (id) => call("GET", `v1/neighbours/${enc(id)}`),
  user: (id) => call("GET", `v1/users/${enc(id)}`),
  users: (prefix) => call("GET", `v1/users?prefix=${enc(prefix)}`),
  health: () => call("GET", "health"),
  sids: () => call("GET", "v1/sids"),
  below: (prefix) => call("GET", `v1/sids/items?prefix=${enc(prefix)}`),
  data: () => call("GET", "v1/data"),
  experiments: () => call("GET", "v1/experiments"),
  releases: () => call("GET", "v1/releases"),
};

// Items whose titles a text finds; by the lexical channel, so that no model is asked for each letter typed.
export async function findItems(text) {
  if (!text.trim()) return [];
  const answer = await api.search({ query: text, k: 8, channels: ["lexical"], scenario: "console" });
  const found = answer.items.filter((item) => !item.fallback && item.channels.lexical?.score > 0);
  return found.map((item) => ({ value: item, label: item.title || item.item_id, note: item.item_id }));
}
