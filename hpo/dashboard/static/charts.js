// The charts of a page: asked for when they come into view, drawn, kept up to date; what a person does in one
// is told to the page as an event: trial:open, trial:hover, trial:leave, trial:box.
import { config, dark, keepScalable, layoutOf, narrow } from "./drawing.js";

const $ = (id) => document.getElementById(id);

export const charts = new Map(); // element -> {content, dirty, seen, busy, ...}
export const filter = { where: $("selection")?.elements.where.value ?? "" }; // as it was last asked for
const library = document.querySelector("script[data-plotly]");
const plotly = new Promise((resolve, reject) => { // it loads while the first chart's data are on their way
  if (window.Plotly) resolve();
  library?.addEventListener("load", resolve);
  library?.addEventListener("error", () => reject(new Error("the script that draws it did not load")));
});
let templates;
const themes = () => (templates ??= getJson("/assets/templates.json").catch((error) => { templates = null; throw error; }));
let first; // the chart that is drawn before the others are asked for
let begin;
export const firstDrawn = new Promise((resolve) => { begin = resolve; });

export async function getJson(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(content.error ?? `the server answered ${answer.status}`), { status: answer.status });
  return content;
}

let printing = false;

function note(plot, text) {
  const line = document.createElement("p");
  line.className = "nothing";
  line.textContent = text;
  plot.replaceChildren(line);
}

async function paint(plot, chart) {
  const [templates] = await Promise.all([themes(), plotly]);
  const { figure, caption, title, min_width: minWidth } = chart.content;
  const box = plot.closest(".chart");
  box.querySelector("figcaption").textContent = caption;
  const heading = box.querySelector("h3");
  heading.dataset.usual ??= heading.textContent;
  const picked = [...box.querySelectorAll(".pick [data-pick=x], .pick [data-pick=y]")].map((it) => it.value).filter(Boolean);
  heading.textContent = title ? decoded(title) : picked.join(" and ") || heading.dataset.usual;
  if (!figure) {
    if (plot.classList.contains("js-plotly-plot")) Plotly.purge(plot);
    chart.wired = false;
    box.querySelector(".save")?.remove();
    const over = document.querySelector("[data-state=finished], [data-state=stopped]");
    note(plot, chart.asked?.includes("?") ? "Nothing to show of this choice." : `Nothing to show${over ? "" : " yet"}.`);
    if (!("fixed" in plot.dataset)) plot.style.height = "6rem";
    return;
  }
  if (!plot.classList.contains("js-plotly-plot")) plot.replaceChildren();
  const height = "fixed" in plot.dataset ? Number(plot.dataset.height) : figure.layout.height ?? 380;
  if (plot.style.height !== `${height}px`) plot.style.height = `${height}px`;
  plot.style.minWidth = minWidth ? `${minWidth}px` : "";
  const layout = layoutOf(plot, figure, templates, printing);
  if ((layout.meta?.columns || layout.meta?.x || layout.meta?.y) && !narrow.matches) {
    layout.dragmode = $("zooms")?.checked === false ? "select" : "zoom";
  }
  layout.height = height;
  if ("fixed" in plot.dataset && layout.yaxis) { // low: what goes without saying makes room
    if (layout.meta?.x?.name === "number") layout.xaxis.title = "";
    layout.yaxis.title = { ...layout.yaxis.title, font: { size: 11 } };
    layout.margin = { ...layout.margin, b: layout.xaxis.title ? 52 : 36 };
  }
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    layout[axis].autorange ??= !layout[axis].range; // said each time: plotly keeps that of a range that is no more
  }
  layout.uirevision = "kept"; // what a person zoomed or hid stays as it is
  layout.selections = [];
  layout.selectionrevision = filter.where;
  await Plotly.react(plot, shownOf(plot, figure.data), layout, config);
  chart.places = undefined;
  if (!chart.wired) wire(plot);
  chart.wired = true;
  if (!box.querySelector(".save")) box.append(menuOf(plot));
}

// Curves as a person wants to see them: smoothed, or the pruned ones alone over the best.
function shownOf(plot, data) {
  const ask = (name) => plot.closest(".chart").querySelector(`[data-${name}]`);
  const kept = Number(ask("smooth")?.value ?? 0); // of the mean so far at each step
  const ends = new Map(); // trial -> where its smoothed curve ends
  const found = ask("over")?.checked ? [...data.filter((trace) => !trace.legendgroup), ...data.filter((trace) => trace.legendgroup === "pruned")] : data;
  return !kept ? found : found.map((trace) => {
    if (!trace.mode.includes("lines")) return { ...trace, y: trace.y.map((y, i) => ends.get(trace.customdata[i]) ?? y) };
    let [mean, weight] = [0, 0];
    return { ...trace, y: trace.y.map((y, i) => {
      if (y === null) { [mean, weight] = [0, 0]; return y; }
      [mean, weight] = [kept * mean + (1 - kept) * y, kept * weight + 1 - kept]; // weight: what the start lacks
      ends.set(trace.customdata[i], mean / weight);
      return mean / weight;
    }) };
  });
}

export function decoded(title) { // what plotly gets of a user's text is escaped
  return new DOMParser().parseFromString(title, "text/html").documentElement.textContent;
}

// The trial a point stands for; undefined where it stands for none.
const numberOf = (plot, point) => (plot.layout.meta?.trials && [point.customdata].flat()[0]) ?? undefined;

function wire(plot) {
  keepScalable(plot);
  const tell = (kind, detail) => plot.dispatchEvent(new CustomEvent(`trial:${kind}`, { bubbles: true, detail }));
  const tellOf = (kind) => (event) => {
    const number = numberOf(plot, event.points[0]);
    if (number !== undefined) tell(kind, number);
  };
  plot.on("plotly_click", tellOf("open"));
  plot.on("plotly_hover", tellOf("hover"));
  plot.on("plotly_unhover", () => tell("leave"));
  plot.on("plotly_selected", (event) => { if (event?.range) tell("box", event.range); });
}

// --- what a chart shows, as a file

function menuOf(plot) {
  const menu = document.createElement("details");
  menu.className = "save";
  menu.name = "save"; // one is open at a time
  const sign = menu.appendChild(document.createElement("summary"));
  sign.textContent = "⤓";
  sign.setAttribute("aria-label", `Save ${plot.closest(".chart").querySelector("h3").textContent}`);
  menu.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") { menu.open = false; sign.focus(); }
  });
  for (const kind of ["png", "svg", "csv"]) {
    const button = menu.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = kind.toUpperCase();
    button.addEventListener("click", () => { menu.open = false; save(plot, kind); });
  }
  return menu;
}

async function save(plot, kind) {
  const { figure } = charts.get(plot).content;
  const title = plot.closest(".chart").querySelector("h3").textContent;
  const filename = `${document.querySelector("h1").textContent}-${title}`.replace(/[^\p{L}\p{N}.]+/gu, "-");
  if (kind !== "csv") {
    const { data, layout, clientWidth: width, clientHeight: height } = plot;
    const room = 36; // for the title, which on the page stands above
    const named = { text: title.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`), y: 1, yref: "container", yanchor: "top", pad: { t: 14 } };
    const whole = { data, layout: { ...layout, title: named, margin: { ...layout.margin, t: layout.margin.t + room } } };
    await Plotly.downloadImage(whole, { format: kind, width, height: height + room, scale: kind === "png" ? 2 : 1, filename });
    return;
  }
  const link = document.createElement("a");
  link.download = `${filename}.csv`;
  if (figure.layout.meta?.columns) link.href = `${location.pathname}/trials.csv${location.search}`; // whole values
  else link.href = URL.createObjectURL(new Blob([tableOf(figure).map((row) => row.map(cellOf).join(",")).join("\r\n")], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function cellOf(found) { // text that no spreadsheet takes for a formula
  const text = typeof found === "string" && /^[=+\-@\t\r]/.test(found) ? `'${found}` : String(found ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// One row for each point, under the axes' titles; columns that would be empty are left out.
function tableOf({ data, layout }) {
  const axisOf = (trace, key) => layout[`${key}axis${(trace[`${key}axis`] ?? key).slice(1)}`] ?? {};
  const titleOf = (trace, key) => decoded(axisOf(trace, key).title?.text ?? "") || key;
  const several = data.some((trace) => trace.xaxis && trace.xaxis !== "x");
  const at = (trace, key, value) => { // a place on an axis of names is its name
    const { tickvals = [], ticktext } = axisOf(trace, key);
    const names = layout.meta?.[key]?.choices ?? (tickvals.length && tickvals.every((tick, i) => tick === i) ? ticktext : undefined);
    return names && value !== null ? decoded(names[Math.round(value)] ?? "") : value;
  };
  const rows = data.filter((trace) => trace.type !== "box").flatMap((trace) => {
    const series = [decoded(trace.name ?? ""), ...(several ? [titleOf(trace, "x"), titleOf(trace, "y")] : [])].join(": ");
    if (trace.z) return trace.z.flatMap((row, j) => row.map((z, i) => [series, at(trace, "x", trace.x?.[i] ?? i), at(trace, "y", trace.y?.[j] ?? j), trace.customdata?.[j]?.[i] ?? z]));
    return trace.x.map((x, i) => [series, at(trace, "x", x), at(trace, "y", trace.y[i]), undefined, trace.base?.[i],
      trace.error_x?.arrayminus?.[i], trace.error_x?.array?.[i], layout.meta?.trials ? [trace.customdata?.[i]].flat()[0] : undefined]);
  }).filter((row) => (row[1] ?? row[2]) != null);
  const [first] = data;
  const head = ["series", several ? "x" : titleOf(first, "x"), several ? "y" : titleOf(first, "y"), "value", "start", "below", "above", "trial"];
  const used = head.map((_, i) => rows.some((row) => (row[i] ?? "") !== ""));
  return [head, ...rows].map((row) => head.map((_, i) => row[i]).filter((_, i) => used[i]));
}

// Show a trial wherever else it is drawn and in view.
export function light(number, except) {
  for (const [plot, chart] of charts) {
    if (plot === except || !chart.seen || !plot.layout?.meta?.trials || !plot.data) continue;
    chart.places ??= new Map(plot.data.flatMap((trace, curveNumber) => (trace.customdata ?? [])
      .map((data, pointNumber) => [[data].flat()[0], { curveNumber, pointNumber }])));
    const place = chart.places.get(number);
    const { xaxis = "x", yaxis = "y" } = plot.data[place?.curveNumber] ?? {};
    if (place) Plotly.Fx.hover(plot, [place], xaxis + yaxis, true);
    else Plotly.Fx.unhover(plot);
  }
}

function addressOf(plot) {
  const url = new URL(plot.dataset.chart, location.href);
  const section = plot.closest("section");
  for (const near of [section?.querySelector(".section-head"), plot.closest(".chart")]) {
    near?.querySelectorAll("[data-pick]").forEach(({ dataset, value }) => { if (value) url.searchParams.set(dataset.pick, value); });
  }
  if (filter.where) url.searchParams.set("where", filter.where);
  const scale = section?.querySelector("[data-log]")?.value;
  if ("mayLog" in plot.dataset && scale) url.searchParams.set("log", scale);
  return url;
}

export async function refresh(plot) {
  const chart = charts.get(plot);
  if (!chart || chart.busy || !chart.dirty || !chart.seen) return;
  if (plot._dragging) { // a box that somebody draws stays under the hand
    setTimeout(() => refresh(plot), 300);
    return;
  }
  chart.busy = true;
  chart.dirty = false;
  first ??= plot;
  try {
    if (first !== plot) await firstDrawn;
    const address = addressOf(plot); // a person may pick something else before the answer is there
    plot.closest(".chart").classList.toggle("waiting", Boolean(chart.content) && chart.asked !== address.href);
    const content = await getJson(address);
    if (chart.content?.version !== content.version || chart.asked !== address.href) {
      chart.content = content;
      chart.asked = address.href;
      await paint(plot, chart);
    }
    plot.dataset.drawn = content.version ?? 1;
    if (content.again) setTimeout(() => { chart.dirty = true; refresh(plot); }, content.again * 1000);
  } catch (error) {
    chart.failed = error.status !== 400; // then a person must mend something first
    if (!chart.content) note(plot, `This chart could not be had: ${error.message}.`);
  } finally {
    if (first === plot) begin();
    plot.closest(".chart")?.classList.remove("waiting");
    chart.busy = false;
    if (chart.failed) setTimeout(() => { chart.failed = false; chart.dirty = true; refresh(plot); }, 3000);
    else if (chart.dirty) setTimeout(() => refresh(plot), 500);
  }
}

const outside = ({ boundingClientRect: { top, bottom } }) => Math.max(0, -bottom, top - innerHeight);
const watcher = new IntersectionObserver((entries) => {
  const last = [...new Map(entries.map((entry) => [entry.target, entry])).values()]; // of one chart there may be several
  for (const entry of last.sort((one, other) => outside(one) - outside(other))) { // what is seen comes first
    const chart = charts.get(entry.target);
    if (!chart) continue;
    chart.seen = entry.isIntersecting;
    if (chart.seen) refresh(entry.target);
  }
}, { rootMargin: "300px" });

export function adopt(plot) {
  plot.style.height = `${plot.dataset.height}px`;
  charts.set(plot, { dirty: true, seen: false });
  watcher.observe(plot);
}

export function release(plot) {
  watcher.unobserve(plot);
  charts.delete(plot);
  if (plot.classList.contains("js-plotly-plot")) Plotly.purge(plot);
}

export function chartsChanged() {
  for (const [plot, chart] of charts) {
    chart.dirty = true;
    refresh(plot);
  }
  document.querySelectorAll("[data-charts]").forEach(loadGroup);
}

// A group whose charts are known only to the server: a trial's metrics and evaluation.
const groups = new Map();
export async function loadGroup(group) {
  if (groups.get(group)) return;
  groups.set(group, true);
  try {
    const content = await getJson(group.dataset.charts);
    for (const item of content.charts) {
      let plot = $(item.id);
      if (!plot) {
        const box = document.createElement("figure");
        box.className = `chart ${item.size}`;
        const heading = document.createElement("h3");
        const frame = document.createElement("div");
        frame.className = "frame";
        frame.tabIndex = 0; // a keyboard scrolls it on a phone
        plot = document.createElement("div");
        plot.id = item.id;
        plot.className = "plot";
        frame.append(plot);
        box.append(heading, frame, document.createElement("figcaption"));
        group.append(box);
        charts.set(plot, { dirty: false, seen: false });
        heading.textContent = decoded(item.title);
      }
      const chart = charts.get(plot);
      const text = JSON.stringify(item);
      if (chart.text !== text) {
        chart.text = text;
        chart.content = { ...item, title: "" };
        await paint(plot, chart);
        plot.dataset.drawn = "1";
      }
    }
    group.dataset.drawn = content.charts.length;
  } catch (error) {
    note(group.appendChild(document.createElement("div")), `These charts could not be had: ${error.message}.`);
  } finally {
    groups.set(group, false);
  }
}

export function redraw(plot) {
  if (charts.get(plot)?.content?.figure) paint(plot, charts.get(plot));
}

export function repaint() {
  for (const plot of charts.keys()) redraw(plot);
}

// On paper stands every chart: those that nobody has scrolled to are fetched while the browser waits.
function fetchNow(plot) {
  const ask = new XMLHttpRequest();
  ask.open("GET", addressOf(plot), false);
  ask.send();
  return ask.status === 200 ? JSON.parse(ask.responseText) : undefined;
}

window.addEventListener("beforeprint", () => {
  printing = true;
  for (const [plot, chart] of charts) {
    if (plot.dataset.chart) chart.content ??= fetchNow(plot);
    if (chart.content) paint(plot, chart);
  }
});
window.addEventListener("afterprint", () => { printing = false; repaint(); });
dark.addEventListener("change", repaint);
narrow.addEventListener("change", repaint);
