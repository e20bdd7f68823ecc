// Draws the figures one after another while the browser is idle, those in view first, follows the
// theme of the system, draws them anew for paper, and sorts the table of trials. Nothing here talks to
// a network.
const store = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll(".plot")];
const drawn = new Set();
let printing = false;
const laidOut = (plot) => layoutOf(plot, store.figures[plot.id], store.templates, printing);

function draw(plot) {
  if (drawn.has(plot)) return;
  drawn.add(plot);
  Plotly.newPlot(plot, store.figures[plot.id].data, laidOut(plot), config);
  keepScalable(plot);
  if (drawn.size === plots.length) document.documentElement.dataset.drawn = "all";
}

function redraw() {
  for (const plot of drawn) Plotly.react(plot, plot.data, laidOut(plot), config);
}

const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 1));
const waiting = [...plots];
function next() {
  const plot = waiting.shift();
  if (!plot) return;
  draw(plot);
  idle(next, { timeout: 200 });
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "300px" });
plots.forEach((plot) => seen.observe(plot));
if (plots.length === 0) document.documentElement.dataset.drawn = "all";
idle(next, { timeout: 200 });
dark.addEventListener("change", redraw);
narrow.addEventListener("change", redraw);
window.addEventListener("beforeprint", () => { printing = true; redraw(); plots.forEach(draw); });
window.addEventListener("afterprint", () => { printing = false; redraw(); });

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const read = (row) => row.cells[column].textContent.trim();
      const rank = (row) => { const n = parseFloat(read(row).replaceAll(",", "")); return Number.isNaN(n) ? null : n; };
      const compare = (a, b) => {
        const [x, y] = [rank(a), rank(b)];
        if (x !== null && y !== null) return up ? x - y : y - x;
        if (x !== null) return -1; // numbers first, whichever way
        if (y !== null) return 1;
        return up ? read(a).localeCompare(read(b)) : read(b).localeCompare(read(a));
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
  });
}
