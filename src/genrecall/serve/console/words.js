// What the console says, in two languages. A key that is missing in one shows up as itself.

import { EN } from "./words_en.js";
import { ZH } from "./words_zh.js";

const TABLES = { en: EN, zh: ZH };
const LOCALES = { en: "en-GB", zh: "zh-CN" };

let language = localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language;

export const t = (key) => TABLES[language][key] ?? key;

// What the service says in words of its own (outcomes, reasons, codes): in the reader's language where it is known.
export const said = (kind, word) => TABLES[language][`${kind}_${word}`] ?? word;

// A sentence with {places}.
export const tell = (key, values) => t(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);

export const locale = () => LOCALES[language];

export function toggleLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  document.documentElement.lang = language;
}
