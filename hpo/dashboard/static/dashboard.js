// Keeps the page up to date: replaces the parts the server says have changed, draws the charts that are in
// view, sends the forms. Works without: every page is a document, every form a form.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 720px)");
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

  // --- charts

  const charts = new Map(); // element -> {figure, version, dirty, seen, busy}
  const library = document.querySelector("script[data-plotly]");
  const plotly = new Promise((resolve, reject) => { // it loads while the first chart's data are on their way
    if (window.Plotly) resolve();
    library?.addEventListener("load", resolve);
    library?.addEventListener("error", () => reject(new Error("the script that draws it did not load")));
  });
  let templates;
  const themes = () => (templates ??= getJson("/assets/templates.json").catch((error) => { templates = null; throw error; }));
  let first; // the chart that is drawn before the others are asked for
  let ahead; // the data of the topmost chart, on their way while the browser still reads the library
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  async function getJson(url) {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(content.error ?? `the server answered ${answer.status}`);
    return content;
  }

  function layoutOf(figure, templates) {
    const layout = structuredClone(figure.layout);
    layout.template = templates[dark.matches ? "dark" : "light"];
    layout.autosize = true;
    if (narrow.matches) {
      layout.font = { size: 11 };
      layout.margin = { ...layout.margin, l: Math.min(layout.margin.l ?? 60, 48), r: 10 };
      layout.dragmode = false; // a finger scrolls the page
    }
    return layout;
  }

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
    if (title) box.querySelector("h3").textContent = decoded(title);
    if (!figure) {
      if (plot.classList.contains("js-plotly-plot")) Plotly.purge(plot);
      note(plot, "Nothing to show yet.");
      return;
    }
    if (!plot.classList.contains("js-plotly-plot")) plot.replaceChildren();
    const height = figure.layout.height ?? 380;
    if (plot.style.height !== `${height}px`) plot.style.height = `${height}px`;
    plot.style.minWidth = minWidth ? `${minWidth}px` : "";
    const layout = layoutOf(figure, templates);
    const kept = plot.layout; // what a person zoomed or hid stays as it is
    if (kept?.xaxis?.autorange === false && chart.zoomed) { layout.xaxis.range = kept.xaxis.range; layout.yaxis.range = kept.yaxis.range; }
    layout.uirevision = "kept";
    await Plotly.react(plot, figure.data, layout, config);
    if (!chart.wired) {
      chart.wired = true;
      plot.on("plotly_click", (event) => openTrial(plot, event.points[0]));
    }
  }

  function decoded(title) { // titles come escaped for plotly
    return new DOMParser().parseFromString(title, "text/html").documentElement.textContent;
  }

  function openTrial(plot, point) {
    const study = location.pathname.match(/^\/studies\/[^/]+/)?.[0];
    if (!study) return;
    let number = Array.isArray(point.customdata) ? point.customdata[0] : point.customdata;
    if (number === undefined && typeof point.text === "string") number = point.text.match(/^trial (\d+)/)?.[1];
    if (number === undefined && point.data.name?.startsWith("best: trial ")) number = point.data.name.split(" ")[2];
    if (number === undefined && plot.id.startsWith("history")) number = Math.round(point.x);
    if (number !== undefined && number !== null) location.href = `${study}/trials/${number}`;
  }

  function addressOf(plot) {
    const url = new URL(plot.dataset.chart, location.href);
    const section = plot.closest("section");
    const metric = section?.querySelector("[data-metric]")?.value;
    if (metric) url.searchParams.set("metric", metric);
    if ("mayLog" in plot.dataset && section?.querySelector("[data-log]")?.checked) url.searchParams.set("log", "1");
    return url;
  }

  function askAhead(plot) {
    const { href } = addressOf(plot);
    ahead = { href, content: getJson(href) };
    ahead.content.catch(() => {}); // told where the chart is drawn
    themes().catch(() => {});
  }

  function contentOf({ href }) {
    const known = ahead?.href === href ? ahead.content : getJson(href);
    ahead = undefined;
    return known;
  }

  async function refresh(plot) {
    const chart = charts.get(plot);
    if (!chart || chart.busy || !chart.dirty || !chart.seen) return;
    chart.busy = true;
    chart.dirty = false;
    const before = first;
    let drawn;
    first ??= new Promise((resolve) => { drawn = resolve; });
    try {
      await before;
      const address = addressOf(plot); // a person may pick something else before the answer is there
      const content = await contentOf(address);
      if (chart.content?.version !== content.version || chart.asked !== address.href) {
        chart.content = content;
        chart.asked = address.href;
        await paint(plot, chart);
      }
      plot.dataset.drawn = content.version ?? 1;
      if (content.again) setTimeout(() => { chart.dirty = true; refresh(plot); }, content.again * 1000);
    } catch (error) {
      chart.failed = true;
      if (!chart.content) note(plot, `This chart could not be had: ${error.message}.`);
    } finally {
      drawn?.();
      chart.busy = false;
      if (chart.failed) setTimeout(() => { chart.failed = false; chart.dirty = true; refresh(plot); }, 3000);
      else if (chart.dirty) setTimeout(() => refresh(plot), 500);
    }
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.get(entry.target);
      if (!chart) continue;
      chart.seen = entry.isIntersecting;
      if (chart.seen) refresh(entry.target);
    }
  }, { rootMargin: "300px" });

  function adopt(plot) {
    plot.style.height = `${plot.dataset.height}px`;
    charts.set(plot, { dirty: true, seen: false });
    watcher.observe(plot);
  }

  function release(plot) {
    watcher.unobserve(plot);
    charts.delete(plot);
    if (plot.classList.contains("js-plotly-plot")) Plotly.purge(plot);
  }

  function chartsChanged() {
    for (const [plot, chart] of charts) {
      chart.dirty = true;
      refresh(plot);
    }
    document.querySelectorAll("[data-charts]").forEach(loadGroup);
  }

  // A group whose charts are known only to the server: a trial's metrics and evaluation.
  const groups = new Map();
  async function loadGroup(group) {
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
      say(String(error.message ?? error), true);
    } finally {
      groups.set(group, false);
    }
  }

  function repaint() {
    for (const [plot, chart] of charts) if (chart.content?.figure) paint(plot, chart);
  }

  // --- the stream

  function replace(part) {
    const place = $(part.id);
    if (!place || place.dataset.live === part.digest) return;
    const log = place.querySelector(".log");
    const follows = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    const scrolled = [...place.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    const open = [...place.querySelectorAll("details")].map((box) => box.open);
    const parsed = new DOMParser().parseFromString(part.html, "text/html");
    place.querySelectorAll(".plot").forEach(release);
    place.replaceChildren(...parsed.body.childNodes);
    place.querySelectorAll(".plot[data-chart]").forEach(adopt);
    place.dataset.live = part.digest;
    place.querySelectorAll(".scroll").forEach((box, i) => { box.scrollLeft = scrolled[i] ?? 0; });
    place.querySelectorAll("details").forEach((box, i) => { if (open[i] !== undefined) box.open = open[i]; });
    const newLog = place.querySelector(".log");
    if (newLog && (follows || !log)) newLog.scrollTop = newLog.scrollHeight;
  }

  let stream;
  function listen() {
    stream = new EventSource(location.pathname + location.search);
    stream.addEventListener("open", () => pulse("live", "on"));
    stream.addEventListener("parts", (event) => {
      const began = performance.now();
      const { parts, took } = JSON.parse(event.data);
      parts.forEach(replace);
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
      if (!count) { say("No trial has failed."); return null; }
      sure = sure.replace("{failed}", count === 1 ? "the failed trial" : `the ${count.toLocaleString("en")} failed trials`);
    }
    return window.confirm(sure) ? { count } : null;
  }

  async function send(form, more) {
    const action = form.action.replace(`${location.origin}/studies/`, `${location.origin}/api/v1/studies/`);
    const answer = await fetch(action, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify({ ...Object.fromEntries([...new FormData(form)].filter(([name]) => name !== "csrf")), ...more }),
    });
    const content = await answer.json().catch(() => ({}));
    if (answer.ok) form.reset();
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
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      say("Selected; press Ctrl-C.");
    }
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-metric], [data-log]")) return;
    for (const plot of event.target.closest("section").querySelectorAll(".plot")) {
      const chart = charts.get(plot);
      chart.dirty = true;
      refresh(plot);
    }
  });

  document.addEventListener("focusin", async (event) => {
    const pick = event.target;
    if (!pick.matches?.("[data-metric]") || pick.dataset.filled) return;
    pick.dataset.filled = "1";
    const content = await getJson(pick.dataset.names).catch(() => ({ metrics: [] }));
    for (const name of content.metrics) pick.add(new Option(name, name));
  });

  // --- start

  const plots = document.querySelectorAll(".plot[data-chart]");
  plots.forEach(adopt);
  if (plots.length) askAhead(plots[0]);
  document.querySelectorAll("[data-charts]").forEach(loadGroup);
  document.querySelectorAll(".log").forEach((log) => { log.scrollTop = log.scrollHeight; });
  dark.addEventListener("change", repaint);
  narrow.addEventListener("change", repaint);
  if ("stream" in document.body.dataset) listen();
  if (document.querySelector("[data-waits]")) {
    const again = setInterval(async () => {
      const answer = await fetch("/health").catch(() => null);
      if (answer?.ok) { clearInterval(again); location.reload(); }
    }, 1000);
  }
})();
