// Plots as SVG: an interval as a bar, stage times, a calibration.

import { el, interval, number, percent, svg } from "./dom.js";

const SERIES = 6;
// Beyond the colours there are, lines are dashed.
export const series = (index) => `c${index % SERIES}${index >= SERIES ? " dashed" : ""}`;

// A rate and its interval on an axis from 0 to 1, with the bands' floors marked.
export function intervalPlot(rate, bands) {
  const [width, height, edge] = [230, 20, 6];
  const x = (share) => edge + share * (width - 2 * edge);
  const [low, high] = rate.interval;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${percent(rate.rate)}, ${interval(low, high)}` });
  plot.append(svg("line", { class: "grid", x1: x(0), x2: x(1), y1: 10, y2: 10 }));
  for (const band of bands) plot.append(svg("line", { class: "mark", x1: x(band.floor), x2: x(band.floor), y1: 3, y2: 17 }));
  if (rate.rate === null) return plot;
  plot.append(svg("line", { class: "whisker", x1: x(low), x2: x(high), y1: 10, y2: 10 }));
  plot.append(svg("circle", { class: "dot", cx: x(rate.rate), cy: 10, r: 4.5 }));
  return plot;
}

// For each phase the medians of its stages end to end.
export function stageTimes(phases) {
  const shown = phases.filter((phase) => Object.keys(phase.stages).length > 0);
  const names = [...new Set(shown.flatMap((phase) => Object.keys(phase.stages)))];
  const total = (phase) => Object.values(phase.stages).reduce((sum, stage) => sum + stage.p50, 0);
  const longest = Math.max(...shown.map(total), 1e-9);
  const lines = shown.map((phase) => {
    const words = phase.seconds_p50 === null ? "" : `${number(phase.seconds_p50, 1)} s, p95 ${number(phase.seconds_p95, 1)} s`;
    const plot = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", role: "img", "aria-label": `Median seconds of each stage of ${phase.key}` });
    let x = 0;
    names.forEach((name, index) => {
      const seconds = phase.stages[name]?.p50 ?? 0;
      const length = (100 * seconds) / longest;
      const bar = svg("rect", { class: `bar ${series(index)}`, x, y: 0, width: Math.max(length - 0.1, 0), height: 4 });
      bar.append(svg("title", {}, `${name}: ${number(seconds, 2)} s (median), ${number(phase.stages[name]?.p95, 2)} s (p95)`));
      plot.append(bar);
      x += length;
    });
    const title = el("p", {}, el("b", {}, phase.name), " ", el("code", {}, phase.hash.slice(0, 8)), " ", el("span", { class: "muted" }, words));
    return el("div", { class: "stage-times" }, title, plot);
  });
  const legend = names.map((name, index) => el("span", {}, el("span", { class: `swatch ${series(index)}` }), name));
  return [...lines, el("div", { class: "legend" }, legend)];
}

// The share that passed in each bin with its interval, over the mean of the predicted chances.
export function calibrationPlot(calibration) {
  const [size, left, bottom, edge] = [280, 50, 22, 8];
  const x = (share) => left + share * (size - left - edge);
  const y = (share) => edge + (1 - share) * (size - bottom - edge);
  const plot = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `Share that passed over the predicted chance, ${calibration.task_type} results` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    plot.append(svg("line", { class: "grid", x1: x(0), x2: x(1), y1: y(share), y2: y(share) }));
    plot.append(svg("text", { class: "end", x: left - 6, y: y(share) + 4 }, percent(share)));
    plot.append(svg("text", { class: share === 1 ? "end" : "middle", x: share === 1 ? size - 2 : x(share), y: size - 6 }, percent(share)));
  }
  plot.append(svg("line", { class: "mark", x1: x(0), x2: x(1), y1: y(0), y2: y(1) }));
  for (const bin of calibration.bins) {
    const share = bin.passed / bin.total;
    const words = `Predicted ${percent(bin.predicted)}: ${bin.passed} of ${bin.total} passed`;
    const [low, high] = bin.interval;
    const mark = svg("g", { class: "c0" }, svg("title", {}, words));
    mark.append(svg("line", { class: "whisker", x1: x(bin.predicted), x2: x(bin.predicted), y1: y(low), y2: y(high) }));
    mark.append(svg("circle", { class: "dot", cx: x(bin.predicted), cy: y(share), r: 4 }));
    plot.append(mark);
  }
  return plot;
}
