"use strict";
// Talking with a language model, or letting it go on from a text: pieces are shown as they are written.

const talk = { turns: [], writing: null };
const chats = () => Boolean(state.told.template);

function openTalk() {
  here("work").hidden = true;
  here("talk").hidden = false;
  talk.writing?.abort();
  talk.turns = [];
  here("turns").replaceChildren();
  here("system-field").hidden = !chats();
  talkWords();
  here("words").focus({ preventScroll: true });
}

function talkWords() {
  const writing = talk.writing !== null;
  here("words").placeholder = t(chats() ? "say" : "begin");
  here("words").ariaLabel = here("words").placeholder;
  here("send").textContent = t(chats() ? "send" : "goOn");
  here("send").disabled = writing;
  here("stop").textContent = t("stop");
  here("stop").hidden = !writing;
  here("anew").textContent = t("anew");
  here("anew").hidden = writing || !talk.turns.length;
  here("keys").textContent = t("keys");
  for (const [id, key] of [["settings-word", "settings"], ["system-word", "system"], ["temperature-word", "temperature"],
    ["most-word", "most"], ["seed-word", "seed"]]) here(id).textContent = t(key);
  here("seed").placeholder = t("anySeed");
  here("turns").ariaLabel = t("conversation");
  here("turns").dataset.empty = t(chats() ? "nothingSaid" : "nothingWritten");
  for (const turn of talk.turns) if (turn.figures) turn.note.textContent = noted(turn.figures);
}

function number(id, low, high, whole) {
  const input = here(id), text = input.value.trim();
  const value = Number(text);
  const wrong = text !== "" && (Number.isNaN(value) || value < low || value > high || (whole && !Number.isInteger(value)));
  input.classList.toggle("bad", wrong);
  if (wrong) {
    here("settings").open = true;
    input.focus();
    throw { problem: t("number"), where: input.previousElementSibling.textContent };
  }
  return text === "" ? undefined : value;
}

function asking(text) {
  const settings = {
    temperature: number("temperature", 0, 2, false), max_tokens: number("most", 1, 1e9, true), seed: number("seed", -(2 ** 53), 2 ** 53, true),
  };
  const body = { model: state.model, stream: true, ...settings };
  if (!chats()) return { ...body, prompt: text };
  const system = here("system").value.trim();
  const said = talk.turns.filter(turn => turn.kept).map(({ role, text }) => ({ role, content: text }));
  return { ...body, messages: [...(system ? [{ role: "system", content: system }] : []), ...said, { role: "user", content: text }] };
}

function turn(role, text) {
  const words = element("div", { className: "words", textContent: text }), note = element("p", { className: "faint" });
  const made = { role, text, words, note, kept: false, figures: null };
  made.box = element("div", { className: `turn ${role}` }, words, note);
  here("turns").append(made.box);
  here("turns").scrollTop = here("turns").scrollHeight;
  talk.turns.push(made);
  return made;
}

async function say() {
  const input = here("words"), text = input.value;
  if (talk.writing !== null || !text.trim()) return;
  let body;
  try {
    body = asking(text);
  } catch (error) {
    return show(here("talk-error"), told(error));
  }
  show(here("talk-error"));
  const path = chats() ? "v1/chat/completions" : "v1/completions";
  state.last = { path, body };
  program();
  const question = turn("user", text), answer = turn("assistant", "");
  talk.writing = new AbortController();
  input.value = "";
  talkWords();
  answer.box.classList.add("writing");
  const began = performance.now(), figures = { tokens: 0, first: null, seconds: 0, reason: "stopped" };
  try {
    const asked = { ...body, stream_options: { include_usage: true } };
    for await (const event of events(path, asked, talk.writing.signal)) {
      if (event.usage) figures.tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.finish_reason) figures.reason = choice.finish_reason;
      const piece = choice.delta ? choice.delta.content : choice.text;
      if (!piece) continue;
      figures.first ??= performance.now() - began;
      // Whoever has scrolled back to read stays there.
      const turns = here("turns"), near = turns.scrollTop + turns.clientHeight > turns.scrollHeight - 40;
      answer.text += piece;
      answer.words.append(piece);
      if (near) turns.scrollTop = turns.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      // Nothing was said: it can be sent once more.
      for (const failed of [question, answer]) failed.box.remove();
      talk.turns = talk.turns.filter(each => each !== question && each !== answer);
      input.value = input.value || text;
      show(here("talk-error"), told(error.problem ? error : { problem: t("broken") }));
    }
    figures.reason = "aborted";
  }
  figures.seconds = (performance.now() - began) / 1000;
  question.kept = answer.kept = answer.text !== "";
  answer.figures = figures;
  answer.box.classList.remove("writing");
  talk.writing = null;
  talkWords();
  here("turns").scrollTop = here("turns").scrollHeight;
  input.focus({ preventScroll: true });
}

function noted({ tokens, first, seconds, reason }) {
  const parts = [t({ stop: "stopped", length: "cut", aborted: "aborted" }[reason] ?? reason)];
  if (tokens) parts.unshift(`${tokens} ${t("tokens")}`);
  if (first !== null) parts.push(`${t("firstAfter")} ${first.toFixed(0)} ms`);
  if (tokens > 1 && seconds) parts.push(`${(tokens / seconds).toFixed(0)} ${t("tokensPerSecond")}`);
  return parts.join(" · ");
}

async function* events(path, body, signal) {
  const headers = { "content-type": "application/json" };
  for await (const data of pieces(path, { method: "POST", headers, body: JSON.stringify(body), signal })) {
    if (data === "[DONE]") return;
    const found = JSON.parse(data);
    if (found.error) throw { problem: found.error.message };
    yield found;
  }
  throw { problem: t("broken") };
}

// The data of server-sent events, as they come.
async function* pieces(path, options) {
  const headers = { ...(options.headers || {}), ...(state.token ? { authorization: `Bearer ${state.token}` } : {}) };
  const response = await fetch(new URL(path, base), { ...options, headers });
  if (response.status === 401) here("access").hidden = false;
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw { problem: error?.message || error?.problem || `HTTP ${response.status}`, remedy: error?.remedy };
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    kept += value;
    const whole = kept.split("\n\n");
    kept = whole.pop();
    for (const event of whole) if (event.startsWith("data: ")) yield event.slice(6);
  }
}

function talkPrograms({ path, body }) {
  const url = new URL(path, base).href, key = state.token ? "TOKEN" : "none", text = JSON.stringify(body);
  const { model, stream, ...rest } = body;
  const given = Object.entries(rest).filter(([, value]) => value !== undefined)
    .map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`).join("");
  const method = chats() ? "chat.completions" : "completions", piece = chats() ? "delta.content or \"\"" : "text";
  const bearer = state.token ? "  -H 'Authorization: Bearer TOKEN' \\\n" : "";
  return {
    curl: `curl -N ${url} \\\n${bearer}  -H 'Content-Type: application/json' \\\n  -d '${text.replace(/'/g, "'\\''")}'`,
    Python: `from openai import OpenAI\n\nclient = OpenAI(base_url="${new URL("v1", base).href}", api_key="${key}")\n`
      + `for chunk in client.${method}.create(\n    model=${JSON.stringify(model)}, stream=True,\n${given}):\n`
      + `    print(chunk.choices[0].${piece}, end="", flush=True)`,
  };
}

here("say").onsubmit = event => { event.preventDefault(); say(); };
here("words").onkeydown = event => {
  // Enter also ends a word that an input method is composing: that is not meant to send.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) { event.preventDefault(); say(); }
};
here("talk").onkeydown = event => { if (event.key === "Escape") talk.writing?.abort(); };
here("stop").onclick = () => talk.writing?.abort();
here("anew").onclick = () => { openTalk(); here("request").hidden = true; state.last = null; show(here("talk-error")); };
