"use strict";
// The page of a server: made from what GET /v1/models says, and asking nobody else.

const TEXTS = {
  en: {
    predict: "Predict", reset: "Usual values", missing: "missing", answer: "Answer", request: "The same request as a program",
    copy: "Copy", copied: "Copied", drop: "Drop a picture here, or choose one", ready: "ready", notReady: "not ready",
    unreachable: "The server does not answer.", token: "This server wants a token", go: "Go on", unknown: "The server does not know this token.", usual: "usual",
    from: "from", to: "to", milliseconds: "ms, there and back", kind: "learned from", digest: "digest", metrics: "measured",
    parents: "tuned from", whole: "whole number", pick: "several with Ctrl or Shift", number: "This must be a number.",
    numbers: "This must be an array of numbers.", step: "Step", none: "There is nothing to try.", picture: "Choose a picture.",
    write: "Write something.", other: "中文", table: "rows of a table", observation: "an environment", text: "text", tensor: "arrays",
    memory: "It remembers this episode.", again: "New episode", stopped: "ended by itself", cut: "cut at its greatest length",
    say: "Say something", begin: "A text to go on from", send: "Send", goOn: "Write on", stop: "Stop", anew: "Begin anew",
    keys: "Enter sends, Shift+Enter is a new line, Esc stops", settings: "Settings", system: "What the model is told beforehand",
    temperature: "Temperature, 0 to 2", most: "Tokens at most", seed: "Seed", anySeed: "any", conversation: "Conversation",
    nothingSaid: "Nothing has been said yet.", nothingWritten: "Nothing has been written yet.", tokens: "tokens",
    firstAfter: "first after", tokensPerSecond: "tokens/s", aborted: "stopped by you", broken: "The answer broke off.",
    watchIn: "In its environment", play: "Play", pause: "Pause", oneStep: "One step", episode: "New episode", stepAt: "step",
    reward: "reward", returned: "return", over: "the episode is over", cutShort: "cut after so many steps", seedOf: "Seed",
    pictureOf: "The environment", reel: "Steps of the episode",
  },
  zh: {
    predict: "预测", reset: "常用值", missing: "缺失", answer: "结果", request: "同样的请求，写成程序",
    copy: "复制", copied: "已复制", drop: "把图片拖到这里，或点击选择", ready: "就绪", notReady: "未就绪",
    unreachable: "服务器没有响应。", token: "此服务器需要令牌", go: "继续", unknown: "服务器不认识这个令牌。", usual: "常用值",
    from: "从", to: "到", milliseconds: "毫秒（往返）", kind: "学习自", digest: "摘要", metrics: "测得",
    parents: "微调自", whole: "整数", pick: "按住 Ctrl 或 Shift 可多选", number: "这里必须是数字。",
    numbers: "这里必须是数字数组。", step: "下一步", none: "没有可以尝试的模型。", picture: "请选择图片。",
    write: "请输入内容。", other: "English", table: "表格的行", observation: "环境", text: "文本", tensor: "数组",
    memory: "它记得这一回合。", again: "新回合", stopped: "自行结束", cut: "达到最大长度而截断",
    say: "说点什么", begin: "要续写的文本", send: "发送", goOn: "续写", stop: "停止", anew: "重新开始",
    keys: "Enter 发送，Shift+Enter 换行，Esc 停止", settings: "设置", system: "事先告诉模型的话",
    temperature: "温度，0 到 2", most: "最多词元数", seed: "随机种子", anySeed: "任意", conversation: "对话",
    nothingSaid: "还没有对话。", nothingWritten: "还没有续写。", tokens: "个词元",
    firstAfter: "首个词元用时", tokensPerSecond: "词元/秒", aborted: "已由你停止", broken: "回答中断了。",
    watchIn: "在环境中观看", play: "播放", pause: "暂停", oneStep: "单步", episode: "新回合", stepAt: "步",
    reward: "奖励", returned: "累计回报", over: "回合结束", cutShort: "步数过多而截断", seedOf: "随机种子",
    pictureOf: "环境画面", reel: "回合中的各步",
  },
};
const here = id => document.getElementById(id);
const base = new URL(".", location.href);
const state = { models: [], model: null, told: null, token: sessionStorage.getItem("token") || "", memory: null, answer: null, last: null, tab: "curl" };
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
const t = key => TEXTS[language][key] ?? key;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}), ...(state.token ? { authorization: `Bearer ${state.token}` } : {}) };
  let response;
  try {
    response = await fetch(new URL(path, base), { ...options, headers });
  } catch {
    throw { problem: t("unreachable") };
  }
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) here("access").hidden = false;
  if (!response.ok) throw { ...(body.error || { problem: `HTTP ${response.status}` }), status: response.status };
  return body;
}

async function begin() {
  words();
  try {
    state.models = (await ask("v1/models")).models;
  } catch (error) {
    here("work").hidden = error.status === 401;
    if (error.status !== 401) return show(here("answer"), told(error));
    // A person is asked for the token; how a program sends it is no help to him.
    show(here("facts"), state.token ? told({ problem: t("unknown") }) : null);
    return here("token").select();
  }
  here("access").hidden = true;
  here("models").replaceChildren(...state.models.map(model =>
    element("button", { type: "button", textContent: model.name, onclick: () => choose(model.name) })));
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = state.models.find(model => model.name === wanted) || state.models[0];
  if (first) await choose(first.name); else show(here("facts"), t("none"));
}

async function choose(name) {
  location.hash = encodeURIComponent(name);
  state.model = name;
  state.memory = state.last = state.answer = null;
  for (const button of here("models").children) button.setAttribute("aria-pressed", String(button.textContent === name));
  here("answer").replaceChildren();
  here("request").hidden = true;
  try {
    state.told = await ask(`v1/models/${encodeURIComponent(name)}`);
  } catch (error) {
    return show(here("answer"), told(error));
  }
  facts();
  form();
}

// What is asked for: a conversation, or a field for each input.
function form() {
  openWatch();
  if (state.told.kind === "text") return openTalk();
  talk.writing?.abort();
  here("talk").hidden = true;
  here("work").hidden = false;
  fields();
}

function facts() {
  const model = state.told, rows = [[t("kind"), t(model.kind)], [t("digest"), model.digest.slice(0, 16)]];
  // What was measured on rows or episodes that it did not learn from, where there is such.
  const metrics = Object.entries(model.metrics || {}).filter(([, value]) => typeof value === "number");
  const part = ["test/", "final/", "validation/", ""].find(part => metrics.some(([name]) => name.startsWith(part)));
  const told = metrics.filter(([name]) => name.startsWith(part)).slice(0, 6);
  if (told.length) rows.push([t("metrics"), told.map(([name, value]) => `${name} ${figure(value)}`).join(", ")]);
  if ((model.parents || []).length) rows.push([t("parents"), model.parents.map(parent => parent.slice(0, 16)).join(", ")]);
  show(here("facts"), element("h2", { textContent: model.name }),
    element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })])));
}

function fields() {
  const form = here("inputs");
  const submit = element("button", { className: "main", textContent: t(state.told.kind === "observation" ? "step" : "predict"), id: "predict" });
  const reset = element("button", { type: "button", textContent: t("reset"), onclick: fields });
  form.replaceChildren(...state.told.asked.map(field), element("div", { className: "actions" }, submit, reset));
  form.onsubmit = event => { event.preventDefault(); predict(); };
  form.onkeydown = event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict(); };
}

// In another language: what was filled in and answered stays.
function fieldsAgain() {
  const before = [...here("inputs").querySelectorAll("[data-index]")];
  fields();
  for (const [index, input] of here("inputs").querySelectorAll("[data-index]").entries()) {
    if (input.classList.contains("drop")) {
      if (!before[index].dataset.content) continue;
      input.dataset.content = before[index].dataset.content;
      input.prepend(before[index].querySelector("img"));
    } else if (input.multiple) {
      for (const [place, option] of [...input.options].entries()) option.selected = before[index].options[place].selected;
    } else {
      input.value = before[index].value;
    }
  }
  if (state.answer) result(...state.answer);
}

function field(one, index) {
  const id = `field-${index}`, label = element("label", { htmlFor: id, textContent: one.name });
  const hint = [];
  let input, wide = false;
  switch (one.kind) {
    case "number":
      input = element("input", { id, type: "text", inputMode: "decimal", value: one.usual ?? "" });
      if (one.low != null && one.high != null) hint.push(`${t("from")} ${figure(one.low)} ${t("to")} ${figure(one.high)}`);
      if (one.integer) hint.push(t("whole"));
      break;
    case "category":
      input = one.labels.length && one.labels.length <= 200
        ? element("select", { id }, ...(one.optional ? [element("option", { value: "\u0000", textContent: `(${t("missing")})` })] : []),
          ...one.labels.map(value => element("option", { value, textContent: value, selected: value === one.usual })))
        : element("input", { id, type: "text", value: one.usual ?? "" });
      break;
    case "labels":
      input = element("select", { id, multiple: true }, ...one.labels.map(value => element("option", { value, textContent: value })));
      hint.push(t("pick"));
      break;
    case "date":
      input = element("input", { id, type: "text", value: one.usual ?? "", placeholder: "2026-11-29" });
      break;
    case "image":
      wide = true;
      input = picture(id);
      break;
    case "box":
      wide = true;
      input = element("textarea", { id, value: JSON.stringify(one.usual ?? []), spellcheck: false });
      hint.push(one.shape.join(" × "));
      break;
    default:
      wide = true;
      input = element("textarea", { id, value: one.usual ?? "" });
  }
  input.dataset.index = index;
  const small = hint.length ? element("small", { textContent: hint.join("; ") }) : null;
  return element("div", { className: wide ? "field wide" : "field" }, label, input, small);
}

function picture(id) {
  const file = element("input", { id, type: "file", accept: "image/*" });
  const box = element("label", { className: "drop", htmlFor: id }, element("span", { textContent: t("drop") }), file);
  const take = async chosen => {
    if (!chosen) return;
    const url = await new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(chosen); });
    box.dataset.content = url.slice(url.indexOf(",") + 1);
    const shown = element("img", { src: url, alt: chosen.name });
    box.querySelector("img")?.remove();
    box.prepend(shown);
    predict();
  };
  file.onchange = () => take(file.files[0]);
  box.ondragover = event => { event.preventDefault(); box.classList.add("over"); };
  box.ondragleave = () => box.classList.remove("over");
  box.ondrop = event => { event.preventDefault(); box.classList.remove("over"); take(event.dataTransfer.files[0]); };
  return box;
}

function read() {
  const row = {};
  for (const [index, one] of state.told.asked.entries()) {
    const input = here("inputs").querySelector(`[data-index="${index}"]`);
    const where = { where: one.name, input };
    let value;
    switch (one.kind) {
      case "number":
        value = input.value.trim() === "" ? null : Number(input.value.trim().replace(",", "."));
        if (value !== null && !Number.isFinite(value)) throw { problem: t("number"), ...where };
        break;
      case "category":
        value = input.value === "\u0000" || input.value === "" ? null : input.value;
        break;
      case "labels":
        value = [...input.selectedOptions].map(option => option.value);
        break;
      case "image":
        value = input.dataset.content;
        if (!value) throw { problem: t("picture"), ...where };
        break;
      case "box":
        try { value = JSON.parse(input.value); } catch { throw { problem: t("numbers"), ...where }; }
        break;
      case "date":
        value = input.value.trim() || null;
        break;
      default:
        value = input.value;
        if (!value && !one.optional) throw { problem: t("write"), ...where };
    }
    row[one.name] = value;
  }
  return state.memory ? { ...row, memory: state.memory } : row;
}

async function predict() {
  for (const bad of here("inputs").querySelectorAll(".bad")) bad.classList.remove("bad");
  let row;
  try {
    row = read();
  } catch (error) {
    error.input?.classList.add("bad");
    error.input?.focus();
    return show(here("answer"), told(error));
  }
  const path = `v1/models/${encodeURIComponent(state.model)}/predict`, body = JSON.stringify({ rows: [row] });
  const button = here("predict"), began = performance.now();
  button.disabled = true;
  try {
    const found = await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body });
    const milliseconds = performance.now() - began;
    result(found.predictions[0], milliseconds);
  } catch (error) {
    show(here("answer"), told(error));
  } finally {
    button.disabled = false;
  }
  state.last = { path, row };
  program();
  here("answer").scrollIntoView({ block: "nearest" });
}

function result(prediction, milliseconds) {
  state.answer = [prediction, milliseconds];
  const parts = Object.entries(prediction).map(([name, value]) => output(name, value));
  const remembered = Object.values(prediction).map(value => value?.memory).find(Boolean);
  if (remembered) state.memory = remembered;
  show(here("answer"), element("h2", { textContent: t("answer") }), ...parts,
    remembered ? element("p", { className: "faint" }, `${t("memory")} `,
      element("button", { type: "button", textContent: t("again"), onclick: event => { state.memory = null; event.target.disabled = true; } })) : null,
    element("p", { className: "faint", textContent: `${milliseconds.toFixed(1)} ${t("milliseconds")}` }));
}

function output(name, value) {
  const main = value.label ?? value.value ?? value.action ?? value.text ?? value.labels ?? null;
  const parts = [element("h3", { textContent: name })];
  if (main !== null && typeof main === "object" && !Array.isArray(main)) parts.push(bars(main, false));
  else parts.push(element("p", { className: "value", textContent: Array.isArray(main) ? main.map(figure).join(", ") || "–" : figure(main) }));
  if (value.probabilities) parts.push(bars(value.probabilities, true));
  if (typeof value.stopped === "boolean") parts.push(element("p", { className: "faint", textContent: t(value.stopped ? "stopped" : "cut") }));
  return element("div", { className: "output" }, ...parts);
}

function bars(values, share) {
  const entries = Object.entries(values).sort((one, other) => share ? (other[1] ?? -1) - (one[1] ?? -1) : 0).slice(0, 12);
  return element("ul", { className: "bars" }, ...entries.map(([label, value]) => element("li", {},
    share ? element("progress", { max: 1, value: value ?? 0, ariaLabel: label }) : null,
    element("span", { textContent: label }),
    element("span", { textContent: value === null ? "–" : share ? `${(100 * value).toFixed(1)} %` : figure(value) }))));
}

function program() {
  const texts = state.last.body ? talkPrograms(state.last) : rowPrograms(state.last);
  const box = here("request");
  box.hidden = false;
  box.querySelector("h2").textContent = t("request");
  box.querySelector(".tabs").replaceChildren(...Object.keys(texts).map(name => element("button", {
    type: "button", role: "tab", ariaSelected: String(name === state.tab), textContent: name, onclick: () => { state.tab = name; program(); } })));
  box.querySelector("code").textContent = texts[state.tab];
  here("copy").textContent = t("copy");
  here("copy").onclick = async () => { await navigator.clipboard?.writeText(texts[state.tab]); here("copy").textContent = t("copied"); };
}

function rowPrograms({ path, row }) {
  const url = new URL(path, base).href;
  const short = JSON.stringify({ rows: [row] }, (_key, value) => typeof value === "string" && value.length > 400 ? `${value.slice(0, 60)}…` : value);
  const bearer = state.token ? ["  -H 'Authorization: Bearer TOKEN' \\\n", `, headers={"Authorization": "Bearer TOKEN"}`] : ["", ""];
  const literals = { true: "True", false: "False", null: "None" };
  const python = text => text.replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, found => literals[found] ?? found);
  return {
    curl: `curl ${url} \\\n${bearer[0]}  -H 'Content-Type: application/json' \\\n  -d '${short.replace(/'/g, "'\\''")}'`,
    Python: `import httpx\n\nrows = ${python(JSON.stringify([row], null, 1).length > 4000 ? JSON.stringify(JSON.parse(short).rows) : JSON.stringify([row], null, 1))}\n`
      + `answer = httpx.post("${url}", json={"rows": rows}${bearer[1]})\nprint(answer.json()["predictions"])`,
  };
}

function told(error) {
  return element("div", { className: "error", role: "alert" }, ...["where", "problem", "remedy"].filter(key => error[key])
    .map(key => element("p", { textContent: error[key], className: key === "problem" ? "" : "faint" })));
}

function figure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
}

function show(place, ...children) { place.replaceChildren(...children.filter(child => child !== null)); }

function words() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  here("language").textContent = t("other");
  here("access").querySelector("label").textContent = t("token");
  here("access").querySelector("button").textContent = t("go");
}

async function watch() {
  const answer = await fetch(new URL("readyz", base)).catch(() => null);
  here("state").textContent = answer === null ? t("unreachable") : answer.ok ? t("ready") : t("notReady");
}

here("language").onclick = () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  words();
  if (!state.told) return;
  facts();
  watchWords();
  if (state.told.kind === "text") talkWords(); else fieldsAgain();
  if (state.last) program();
};
here("access").onsubmit = event => {
  event.preventDefault();
  state.token = here("token").value.trim();
  sessionStorage.setItem("token", state.token);
  begin();
};
// When all scripts have been read.
addEventListener("DOMContentLoaded", () => { begin(); watch(); setInterval(watch, 5000); });
