// One selection for the whole page. It stands in the address; the server filters the table and the charts. A
// box in a chart becomes conditions; a trial under the pointer is shown wherever it is drawn.
import { chartsChanged, decoded, filter, getJson, light, repaint } from "./charts.js";

const form = document.getElementById("selection");
const zooms = document.getElementById("zooms");
const study = location.pathname.match(/^\/studies\/[^/]+/)?.[0];

// --- what is selected

const words = (where) => where.match(/(?:[^\s'"]+|'[^']*'|"(?:[^"\\]|\\.)*")+/g) ?? [];
const nameOf = (word) => word.replace(/['"]/g, "").split(/[<>=!~]/)[0];
const quoted = (word) => (/[\s'"\\]/.test(word) ? `"${word.replace(/["\\]/g, "\\$&")}"` : word);

// Conditions for a stretch of an axis; none where it holds every choice.
function conditions({ name, choices, whole }, low, high) {
  if (choices) {
    const kept = choices.filter((_, i) => i > low - 0.5 && i < high + 0.5);
    return kept.length === choices.length ? [] : [`${name}=${kept.join(",")}`];
  }
  const shown = (value, round) => (whole ? round(value) : Number(value.toPrecision(4)));
  return [`${name}>=${shown(low, Math.ceil)}`, `${name}<=${shown(high, Math.floor)}`];
}

// A height between 0 and 1 on a column of the parallel coordinates, in the column's own values.
function valueAt({ choices, low, high, log }, height) {
  if (choices) return height * Math.max(1, choices.length - 1);
  const [a, b] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const value = a + Math.min(1, Math.max(0, height)) * (b - a);
  return log ? Math.exp(value) : value;
}

function boxed(plot, range) {
  const { meta } = plot.layout;
  const named = (axis) => ({ ...axis, name: decoded(axis.name ?? plot.dataset.field), choices: axis.choices?.map(decoded) });
  if (!meta.columns) return Object.keys(range).flatMap((key) => (meta[key] ? conditions(named(meta[key]), ...range[key]) : []));
  const [left, right] = range.x;
  return meta.columns.map(named).filter((_, i) => i >= left && i <= right)
    .flatMap((axis) => conditions(axis, ...range.y.map((height) => valueAt(axis, height))));
}

let reopen;
let asked; // when, until the answer is painted: read by the benchmark
function show() {
  filter.where = form.elements.where.value = new URLSearchParams(location.search).get("where") ?? "";
  asked = performance.now();
  reopen(); // the table comes first, then the charts
}

function go(where) {
  const query = new URLSearchParams(location.search);
  for (const name of ["page", "state", "where"]) query.delete(name);
  if (where) query.set("where", where);
  history.pushState(null, "", query.size ? `?${query}` : location.pathname);
  show();
}

// --- the trial under the pointer

const told = new Map(); // of trials that have ended
const shown = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value));
let pointed; // its number
let waiting;

async function describe(number) {
  const { state, values, params, error } = told.get(number) ?? await getJson(`/api/v1${study}/trials/${number}`);
  if (values || error) told.set(number, { state, values, params, error });
  if (pointed !== number) return;
  const lines = [[`trial ${number}`, values ? values.map(shown).join(", ") : state], ...Object.entries(params)];
  if (error) lines.push(["error", error.slice(0, 120)]);
  const box = document.getElementById("lit");
  box.replaceChildren(...lines.map((texts) => {
    const line = document.createElement("div");
    for (const text of texts) line.appendChild(document.createElement("span")).textContent = shown(text);
    return line;
  }));
  box.hidden = false;
}

function point(number, from) {
  if (pointed === number) return;
  pointed = number;
  clearTimeout(waiting);
  document.querySelectorAll("tr.lit").forEach((row) => row.classList.remove("lit"));
  document.querySelector(`tr[data-trial="${Number(number)}"]`)?.classList.add("lit");
  if (number === undefined) document.getElementById("lit").hidden = true;
  else waiting = setTimeout(() => describe(number).catch(() => {}), 80);
  light(number, from);
}

// --- a table that a trial kept, shown when it is opened

const MAX_ROWS = 100;

function rowsOf(text, name) {
  if (/\.jsonl$/i.test(name)) {
    const found = text.split("\n").filter((line) => line.trim()).map((line) => Object(JSON.parse(line)));
    const head = [...new Set(found.flatMap(Object.keys))];
    const cell = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? "");
    return [head, ...found.map((one) => head.map((key) => cell(one[key])))];
  }
  const rows = [[]];
  const sign = /\.tsv$/i.test(name) ? "\t" : ",";
  const cells = new RegExp(`(?:"((?:[^"]|"")*)"|([^${sign}\\r\\n]*))(${sign}|\\r?\\n|$)`, "gy");
  for (const [, quotedText, plain, end] of text.trimEnd().matchAll(cells)) {
    rows.at(-1).push(quotedText?.replaceAll('""', '"') ?? plain);
    if (end === "") break;
    if (end !== sign) rows.push([]);
  }
  return rows;
}

async function openTable(box) {
  const place = box.lastElementChild;
  const say = (text) => { place.textContent = text; };
  try {
    const answer = await fetch(box.dataset.table);
    if (!answer.ok) { say("It cannot be read here."); return; }
    const [head, ...rows] = rowsOf(await answer.text(), box.dataset.table);
    const table = document.createElement("table");
    table.className = "data";
    const line = (part, cells, kind) => {
      const row = part.appendChild(document.createElement("tr"));
      for (const text of cells) Object.assign(row.appendChild(document.createElement(kind)), { textContent: text, className: "left" });
    };
    line(table.createTHead(), head, "th");
    const body = table.createTBody();
    for (const row of rows.slice(0, MAX_ROWS)) line(body, row, "td");
    place.replaceChildren(table);
    if (rows.length > MAX_ROWS) place.append(`the first ${MAX_ROWS} of ${rows.length} rows`);
  } catch (error) { say(`This is no table: ${error.message}`); }
}

const ticked = new Set(); // trials to compare

export function wireWorkbench(openAgain) {
  document.addEventListener("trial:open", (event) => { if (study) location.href = `${study}/trials/${event.detail}`; });
  document.addEventListener("toggle", ({ target }) => { if (target.open && target.dataset.table) openTable(target); }, true);
  if (!form) return;
  reopen = openAgain;
  form.addEventListener("submit", (event) => { event.preventDefault(); go(form.elements.where.value.trim()); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#told a[href^='?'], #trials a[href^='?'], #failed a[href^='?']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const query = new URLSearchParams(link.search);
    for (const [name, value] of new URLSearchParams(location.search)) if (name.includes(".")) query.set(name, value); // picked
    history.pushState(null, "", `?${query}`);
    show();
  });
  document.addEventListener("change", (event) => {
    const number = event.target.dataset.tick;
    if (number) ticked[event.target.checked ? "add" : "delete"](number);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-compare]") && ticked.size > 1) go(`number=${[...ticked].join(",")}`);
  });
  window.addEventListener("popstate", show);
  zooms.addEventListener("change", repaint);
  document.addEventListener("trial:hover", (event) => point(event.detail, event.target));
  document.addEventListener("trial:leave", () => point());
  document.addEventListener("mouseover", (event) => {
    const row = event.target.closest("tr[data-trial]");
    if (row || !event.target.closest(".plot")) point(row ? Number(row.dataset.trial) : undefined);
  });
  document.addEventListener("trial:box", (event) => {
    const found = boxed(event.target, event.detail).map(quoted);
    const names = new Set(found.map(nameOf));
    if (found.length) go([...words(filter.where).filter((word) => !names.has(nameOf(word))), ...found].join(" "));
  });
  document.addEventListener("parts", () => {
    document.querySelectorAll("[data-tick]").forEach((box) => { box.checked = ticked.has(box.dataset.tick); });
    if (asked === undefined) return;
    const began = asked;
    asked = undefined;
    requestAnimationFrame(() => { document.documentElement.dataset.selectMs = (performance.now() - began).toFixed(1); });
    chartsChanged();
  });
}
