"use strict";
// A policy at work in its environment: the server streams an episode, the page plays it, a step at a time or as it runs.

// So many frames are kept ahead of what is shown; the environment waits meanwhile.
const AHEAD = 120;
const watching = { frames: [], at: -1, playing: false, rate: 30, end: null, stream: null, timer: null, wake: null };

function openWatch() {
  closeWatch();
  here("watch").hidden = !state.told.environment;
  if (state.told.environment) watchWords();
}

function closeWatch() {
  watching.stream?.abort();
  clearTimeout(watching.timer);
  Object.assign(watching, { frames: [], at: -1, playing: false, end: null, stream: null, timer: null, wake: null });
  for (const id of ["frame", "frame-text"]) here(id).hidden = true;
  here("frame").removeAttribute("src");
  show(here("watch-error"));
  watchWords();
}

function watchWords() {
  if (!state.told?.environment) return;
  here("watch-word").textContent = `${t("watchIn")} · ${state.told.environment}`;
  here("play").textContent = t(watching.playing ? "pause" : "play");
  here("one-step").textContent = t("oneStep");
  here("episode").textContent = t("episode");
  here("watch-seed-word").textContent = t("seedOf");
  here("frame").alt = t("pictureOf");
  const reel = here("reel"), over = watching.end !== null && watching.at === watching.frames.length - 1;
  reel.ariaLabel = t("reel");
  reel.hidden = watching.frames.length === 0;
  reel.max = Math.max(0, watching.frames.length - 1);
  reel.value = Math.max(0, watching.at);
  here("play").disabled = here("one-step").disabled = over;
  const frame = watching.frames[watching.at];
  const parts = frame ? [`${t("stepAt")} ${frame.step}`, `${t("returned")} ${figure(frame.return)}`] : [];
  if (frame?.reward != null) parts.splice(1, 0, `${t("reward")} ${figure(frame.reward)}`);
  if (over && watching.end) parts.push(t(watching.end.cut ? "cutShort" : "over"));
  here("figures").textContent = parts.join(" · ");
}

async function stream() {
  const seed = here("watch-seed").value.trim() || "0", control = watching.stream = new AbortController();
  // An episode that broke off is not gone on with: its frames go.
  Object.assign(watching, { frames: [], at: -1, end: null });
  const path = `v1/models/${encodeURIComponent(state.model)}/watch?seed=${encodeURIComponent(seed)}`;
  try {
    for await (const data of pieces(path, { signal: control.signal })) {
      const found = JSON.parse(data);
      if (found.error) throw found.error;
      if (found.rate) watching.rate = found.rate;
      if (found.ended) watching.end = found;
      if ("step" in found) watching.frames.push(found);
      watchWords();
      if (watching.frames.length - watching.at > AHEAD) await new Promise(done => { watching.wake = done; });
      if (control.signal.aborted) return;
    }
    watching.end ??= {};
  } catch (error) {
    if (error.name === "AbortError" || control.signal.aborted) return;
    watching.playing = false;
    watching.stream = null;
    show(here("watch-error"), told(error.problem ? error : { problem: t("broken") }));
  }
  watchWords();
}

function look(at) {
  watching.at = Math.min(Math.max(at, 0), watching.frames.length - 1);
  const frame = watching.frames[watching.at];
  if (!frame) return;
  here("frame").hidden = !frame.frame;
  here("frame-text").hidden = !frame.text;
  if (frame.frame) here("frame").src = `data:image/png;base64,${frame.frame}`;
  if (frame.text) here("frame-text").textContent = plain(frame.text);
  watching.wake?.();
  watching.wake = null;
  watchWords();
}

// A text for a terminal, without its colours; where it marks the place of the policy, in brackets.
function plain(text) { return text.replace(/\u001b\[41m(.*?)\u001b\[0m/g, "[$1]").replace(/\u001b\[[0-9;]*m/g, ""); }

function tick() {
  if (!watching.playing) return;
  if (watching.at < watching.frames.length - 1) look(watching.at + 1);
  if (watching.end !== null && watching.at === watching.frames.length - 1) watching.playing = false;
  watchWords();
  watching.timer = setTimeout(tick, 1000 / watching.rate);
}

async function oneStep() {
  if (watching.stream === null) stream();
  watching.playing = false;
  const wanted = watching.at + 1;
  for (let tries = 0; tries < 1200 && watching.frames.length <= wanted && watching.end === null && watching.stream !== null; tries++) {
    await new Promise(done => setTimeout(done, 25));
  }
  look(wanted);
}

function play() {
  watching.playing = !watching.playing;
  if (watching.stream === null) { show(here("watch-error")); stream(); }
  clearTimeout(watching.timer);
  tick();
  watchWords();
}

here("play").onclick = play;
here("one-step").onclick = oneStep;
here("episode").onclick = () => {
  if (watching.frames.length) here("watch-seed").value = String(Number(here("watch-seed").value || 0) + 1);
  closeWatch();
  play();
};
here("reel").oninput = () => { watching.playing = false; look(Number(here("reel").value)); };
here("watch-seed").onchange = closeWatch;
