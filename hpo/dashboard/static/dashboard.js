// Keeps the page up to date: replaces the parts the server says have changed, draws the charts that are in
// view, sends the forms. Works without: every page is a document, every form a form.
import { adopt, charts, chartsChanged, firstDrawn, getJson, loadGroup, redraw, refresh, release } from "./charts.js";
import { wireWorkbench } from "./workbench.js";

const $ = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

// --- messages

let toastTimer;
function say(text, wrong = false) {
  const toast = $("toast");
  toast.textContent = text;
  toast.classList.toggle("wrong", wrong);
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, wrong ? 9000 : 4500);
}

function pulse(text, kind) {
  const sign = $("pulse");
  if (!sign) return;
  sign.textContent = text;
  sign.className = `pulse ${kind}`;
}

function banner(text) {
  const strip = $("banner");
  strip.textContent = text;
  strip.hidden = !text;
}

// --- the stream

const REACHED = "a[href], button, summary, input, select, [tabindex]"; // by a keyboard
const nameOf = (it) => it.dataset.tick ?? it.getAttribute("href") ?? it.textContent;

function replace(part) {
  const place = $(part.id);
  if (!place || place.dataset.live === part.digest) return false;
  const log = place.querySelector(".log");
  const follows = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const scrolled = [...place.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  const open = [...place.querySelectorAll("details")].map((box) => box.open);
  const focus = [...place.querySelectorAll(REACHED)].indexOf(document.activeElement);
  const name = focus < 0 ? "" : nameOf(document.activeElement);
  const parsed = new DOMParser().parseFromString(part.html, "text/html");
  place.querySelectorAll(".plot").forEach(release);
  place.replaceChildren(...parsed.body.childNodes);
  recall(place);
  place.querySelectorAll(".plot[data-chart]").forEach(adopt);
  place.dataset.live = part.digest;
  place.querySelectorAll(".scroll").forEach((box, i) => { box.scrollLeft = scrolled[i] ?? 0; });
  place.querySelectorAll("details").forEach((box, i) => { if (open[i] !== undefined) box.open = open[i]; });
  if (focus >= 0) { // who uses a keyboard goes on from the same link, or from the one in its place
    const now = [...place.querySelectorAll(REACHED)];
    const same = now.filter((it) => nameOf(it) === name);
    (same.includes(now[focus]) ? now[focus] : same[0] ?? now[focus])?.focus({ preventScroll: true });
  }
  const newLog = place.querySelector(".log");
  if (newLog && (follows || !log)) newLog.scrollTop = newLog.scrollHeight;
  return true;
}

let stream;
let lost; // the timer of a dashboard that does not answer
let broken = false; // perhaps after the parts of a change had come, and before its charts were asked for
function listen(charted = false) { // whether the charts are asked for anyway
  let missed = !charted; // what may have changed while nobody listened
  stream = new EventSource(location.pathname + location.search);
  stream.addEventListener("open", () => {
    pulse("live", "on");
    if (lost) banner("");
    clearTimeout(lost);
    lost = undefined;
  });
  stream.addEventListener("parts", (event) => {
    const began = performance.now();
    const { parts, took } = JSON.parse(event.data);
    const replaced = parts.map(replace).includes(true);
    if (broken || (missed && replaced)) chartsChanged();
    missed = broken = false;
    document.dispatchEvent(new Event("parts"));
    const root = document.documentElement.dataset; // read by tests and the benchmark
    requestAnimationFrame(() => { root.updateMs = (took + performance.now() - began).toFixed(1); });
    root.updates = Number(root.updates ?? 0) + 1;
  });
  stream.addEventListener("charts", chartsChanged);
  stream.addEventListener("away", (event) => {
    banner(`The database cannot be reached; this is what was last read. ${JSON.parse(event.data).why}`);
    pulse("database away", "off");
  });
  stream.addEventListener("back", () => { banner(""); pulse("live", "on"); chartsChanged(); });
  stream.addEventListener("gone", (event) => { stream.close(); banner(JSON.parse(event.data).why); pulse("ended", "off"); });
  stream.addEventListener("error", () => {
    pulse("connecting", "off");
    broken = true;
    lost ??= setTimeout(() => banner("The dashboard does not answer; this is what was last seen. `hpo dashboard` serves it again."), 5000);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

// --- forms and buttons

// How many trials have failed is asked about with the number that is shown now, and sent along.
function asked(form) {
  let { sure } = form.dataset;
  if (!sure) return {};
  let count;
  if (sure.includes("{failed}")) {
    count = Number(document.querySelector("[data-failed]").dataset.failed);
    sure = sure.replace("{failed}", count === 1 ? "the failed trial" : `the ${count.toLocaleString("en")} failed trials`);
  }
  return window.confirm(sure) ? { count } : null;
}

async function send(form, more) {
  const fields = {};
  for (const [name, value] of new FormData(form)) { // several trials are ticked
    if (name !== "csrf") fields[name] = name === "trial" && name in fields ? `${fields[name]},${value}` : value;
  }
  const action = form.action.replace(`${location.origin}/studies/`, `${location.origin}/api/v1/studies/`);
  const answer = await fetch(action, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF-Token": csrf },
    body: JSON.stringify({ ...fields, ...more }),
  });
  const content = await answer.json().catch(() => ({}));
  if (answer.ok && action.endsWith("/delete")) location.href = "/";
  else if (answer.ok && !("keep" in form.dataset)) form.reset();
  say(content.message ?? content.error ?? `the server answered ${answer.status}`, !answer.ok);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || "plain" in form.dataset || !form.action.includes("/actions/")) return;
  event.preventDefault();
  const more = asked(form);
  if (more) send(form, more).catch(() => say("The dashboard cannot be reached.", true));
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    say("Copied.");
  } catch {
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector("code") ?? button.closest("tr"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    say("Selected; press Ctrl-C.");
  }
});

// What is picked for a chart stands in the address: contour.x=lr.
const keyOf = (pick) => `${pick.closest("[id]").id.replace("box-", "")}.${pick.dataset.pick ?? "axis"}`;

function recall(place) {
  const query = new URLSearchParams(location.search);
  for (const pick of place.querySelectorAll("[data-pick], [data-log]")) {
    const value = query.get(keyOf(pick));
    if (value && ![...pick.options].some((option) => option.value === value)) pick.add(new Option(value, value));
    if (value) pick.value = value;
  }
}

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-pick], [data-log]")) return;
  const url = new URL(location.href);
  if (event.target.value) url.searchParams.set(keyOf(event.target), event.target.value);
  else url.searchParams.delete(keyOf(event.target));
  history.replaceState(null, "", url);
  for (const plot of event.target.closest(".chart, section").querySelectorAll(".plot")) {
    const chart = charts.get(plot);
    chart.dirty = true;
    refresh(plot);
  }
});

document.addEventListener("input", (event) => {
  if (event.target.matches("[data-smooth], [data-over]")) redraw(event.target.closest(".chart").querySelector(".plot"));
});

document.addEventListener("focusin", async (event) => {
  const pick = event.target;
  if (!pick.matches?.("[data-pick]") || pick.dataset.filled) return;
  pick.dataset.filled = "1";
  const { chart } = pick.closest(".chart, section").querySelector(".plot").dataset;
  const content = await getJson(chart.replace(/charts\/[^/]*$/, "metrics")).catch(() => ({}));
  for (const name of content[pick.dataset.pick === "metric" ? "metrics" : "parameters"] ?? []) {
    if (![...pick.options].some((option) => option.value === name)) pick.add(new Option(name, name));
  }
});

// --- start

wireWorkbench(() => { stream?.close(); listen(true); });
recall(document);
const plots = document.querySelectorAll(".plot[data-chart]");
plots.forEach(adopt);
document.querySelectorAll("[data-charts]").forEach(loadGroup);
document.querySelectorAll(".log").forEach((log) => { log.scrollTop = log.scrollHeight; });
const soon = new Promise((resolve) => { setTimeout(resolve, plots.length ? 2000 : 0); });
if ("stream" in document.body.dataset) Promise.race([firstDrawn, soon]).then(() => listen()); // the server draws meanwhile
if (document.querySelector("[data-waits]")) {
  const again = setInterval(async () => {
    const answer = await fetch("/health").catch(() => null);
    if (answer?.ok) { clearInterval(again); location.reload(); }
  }, 1000);
}
