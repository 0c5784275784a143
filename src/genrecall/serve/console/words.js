// What the console says, in two languages. A key that is missing in one shows up as itself.

const EN = {
  explore: "Playground", live: "Live", sids: "SID lab", releases: "Releases",
  recommend: "Recommend", search: "Search", user: "User", pick_user: "Type a user id…", random_user: "Pick one for me",
  history: "History", history_hint: "Oldest first. Remove or add items and run again.", add_item: "Add an item by title…",
  edited: "edited", reset: "Reset", run: "Run", query: "Search text", query_hint: "What would you search for?",
  k: "Items", beam: "Beam", deadline: "Deadline, ms", exclude_seen: "Leave out seen items", channels: "Channels",
  spread: "Spread over prefixes", all_channels: "as the bundle says",
  results: "Results", beams: "Beams", lists: "Channels side by side", json: "JSON",
  item: "Item", sid: "Semantic ID", found_by: "Found by", score: "Score", nothing: "Nothing to show yet",
  nothing_hint: "Pick a user, or add some items to the history, and run.",
  only: "only here", fallback: "popular, to fill up", coverage: "Coverage", degraded: "degraded", complete: "complete",
  took: "took", of_which: "of which channels", beam_used: "beam", filled: "filled up",
  no_beams: "The generative channel did not answer, so there are no beams.",
  beams_hint: "Each column is one level of the semantic ID. A line leads from a beam to what it became; the number is the probability of the codes so far. Point at a beam to see where it comes from and where it leads.",
  survivors: "survivors", pruned: "pruned", leads_to: "leads to", children: "valid codes follow", complete_sid: "complete",
  rate: "Answers a second, last minute", stages: "Time by stage, ms", share_degraded: "Degraded answers",
  fill: "Filled without fallback", requests: "Requests on their way", rows: "Beam rows on their way",
  worker: "Generative worker", slowest: "Slowest answers of the last minute", stored: "Stored", state: "state", events: "events",
  users: "users", ready: "ready", not_ready: "not ready", request: "Request", stage: "Stage",
  active: "Active", candidate: "Candidate", previous: "Previous", none: "none", items: "items", canary: "Canary",
  delisted: "Delisted items", how: "How to change it", how_hint: "Bundles are changed from the machine itself, over the admin socket:",
  batch_rows: "rows a batch", base: "base", per_row: "per row", restarts: "restarts", silence: "last sign of life, s",
  level: "Level", used: "codes used", perplexity: "perplexity", dead: "dead", collisions: "SIDs with several items",
  largest: "largest group", sunburst: "Prefixes", sunburst_hint: "Inner ring: first code. Outer ring: second code. Width: number of items. Choose one to see its items.",
  codes_hint: "One bar a code, its height the number of items.", below: "Items below",
  neighbours: "Neighbours by prefix", fields: "Fields", close: "Close", theme: "Light or dark", language: "中文",
  add: "Add to history", explained: "Explained answer", gone: "This answer is no longer remembered.",
  copied: "Copied", copy_link: "Copy link", copy_curl: "Copy as curl", settings: "Settings", profile: "Profile", cold: "No history yet",
  refresh: "every 2 s", unavailable: "not available", error: "That did not work", of: "of",
};

const ZH = {
  explore: "试验场", live: "实时", sids: "SID 实验室", releases: "版本",
  recommend: "推荐", search: "搜索", user: "用户", pick_user: "输入用户 ID…", random_user: "随便选一个",
  history: "行为历史", history_hint: "从旧到新。可删除或添加商品后重新运行。", add_item: "按标题添加商品…",
  edited: "已编辑", reset: "还原", run: "运行", query: "搜索词", query_hint: "想搜点什么？",
  k: "返回数", beam: "束宽", deadline: "时限（毫秒）", exclude_seen: "排除已看过的商品", channels: "召回通道",
  spread: "按前缀打散", all_channels: "按模型包设定",
  results: "结果", beams: "束搜索", lists: "各通道对比", json: "JSON",
  item: "商品", sid: "语义 ID", found_by: "来源通道", score: "得分", nothing: "还没有结果",
  nothing_hint: "选一个用户，或在历史里加几个商品，然后运行。",
  only: "独有", fallback: "热门补足", coverage: "覆盖", degraded: "已降级", complete: "完整",
  took: "耗时", of_which: "其中通道", beam_used: "束宽", filled: "补足",
  no_beams: "生成式通道没有应答，因此没有束搜索过程。",
  beams_hint: "每一列是语义 ID 的一层。连线表示一条束的去向，数字是到此为止各码的概率。指向一条束，可看到它的来路和去路。",
  survivors: "条存活", pruned: "被剪枝", leads_to: "通向", children: "个合法后继", complete_sid: "完整",
  rate: "每秒应答数（最近一分钟）", stages: "各阶段耗时（毫秒）", share_degraded: "降级应答占比",
  fill: "无需补足的填充率", requests: "在途请求", rows: "在途束行",
  worker: "生成式工作进程", slowest: "最近一分钟最慢的应答", stored: "已存储", state: "状态", events: "条事件",
  users: "个用户", ready: "就绪", not_ready: "未就绪", request: "请求", stage: "阶段",
  active: "当前", candidate: "候选", previous: "上一个", none: "无", items: "个商品", canary: "灰度",
  delisted: "已下架商品", how: "如何变更", how_hint: "模型包在本机通过管理套接字变更：",
  batch_rows: "行/批", base: "固定开销", per_row: "每行", restarts: "次重启", silence: "距上次心跳（秒）",
  level: "层", used: "个码在用", perplexity: "困惑度", dead: "未用", collisions: "一码多物的 SID",
  largest: "最大一组", sunburst: "前缀分布", sunburst_hint: "内环为第一层码，外环为第二层码，宽度为商品数。点选可看其下商品。",
  codes_hint: "每根柱是一个码，高度为商品数。", below: "其下商品",
  neighbours: "前缀近邻", fields: "字段", close: "关闭", theme: "明暗", language: "English",
  add: "加入历史", explained: "应答详解", gone: "这次应答已不在记忆中。",
  copied: "已复制", copy_link: "复制链接", copy_curl: "复制 curl", settings: "设置", profile: "画像", cold: "还没有历史",
  refresh: "每 2 秒", unavailable: "不可用", error: "出错了", of: "/",
};

let language = localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language;

export const t = (key) => (language === "zh" ? ZH : EN)[key] ?? key;

export function toggleLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  document.documentElement.lang = language;
}
