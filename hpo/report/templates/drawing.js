// What the report and the dashboard share: how a figure is laid out on a screen, a phone and paper.
export const dark = window.matchMedia("(prefers-color-scheme: dark)");
export const narrow = window.matchMedia("(max-width: 720px)");
export const config = { responsive: true, displaylogo: false, displayModeBar: false };

export function layoutOf(plot, figure, templates, printing) {
  const layout = structuredClone(figure.layout);
  layout.template = templates[dark.matches && !printing ? "dark" : "light"];
  layout.autosize = !printing;
  if (printing) { // pixels of a page between its margins, or half of it
    layout.width = Math.max(plot.closest(".chart.full") ? 700 : 340, parseInt(plot.style.minWidth) || 0);
    layout.font = { size: 11 };
  } else if (narrow.matches) {
    layout.font = { size: 11 };
    layout.margin = { ...layout.margin, l: Math.min(layout.margin.l ?? 60, 48), r: 10 };
    layout.dragmode = false; // a finger scrolls the page
  }
  return layout;
}

// So that the style sheet can give the drawing another size, on paper.
export function keepScalable(plot) {
  const scale = () => {
    const { width, height } = plot._fullLayout;
    plot.style.setProperty("--shape", `${width} / ${height}`);
    for (const layer of plot.querySelectorAll(".main-svg")) layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
  };
  scale();
  plot.on("plotly_afterplot", scale);
}
