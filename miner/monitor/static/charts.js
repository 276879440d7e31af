// Plots as SVG: an interval as a bar, rates over time, stage times.

import { el, interval, number, percent, svg, utc } from "./dom.js";

const SERIES = 6;
export const series = (index) => `c${index % SERIES}`;

// A rate and its interval on an axis from 0 to 1, with the bands' floors marked.
export function intervalPlot(rate, bands) {
  const [width, height, edge] = [230, 20, 6];
  const x = (share) => edge + share * (width - 2 * edge);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${percent(rate.rate)}, ${interval(rate.low, rate.high)}` });
  plot.append(svg("line", { class: "grid", x1: x(0), x2: x(1), y1: 10, y2: 10 }));
  for (const band of bands) plot.append(svg("line", { class: "mark", x1: x(band.floor), x2: x(band.floor), y1: 3, y2: 17 }));
  if (rate.rate === null) return plot;
  plot.append(svg("line", { class: "whisker", x1: x(rate.low), x2: x(rate.high), y1: 10, y2: 10 }));
  plot.append(svg("circle", { class: "dot", cx: x(rate.rate), cy: 10, r: 4.5 }));
  return plot;
}

function ticks(since, now) {
  const hours = (now - since) / 3600;
  const step = 3600 * (hours <= 6 ? 1 : hours <= 24 ? 4 : hours <= 168 ? 24 : 96);
  const found = [];
  for (let at = Math.ceil(since / step) * step; at < now; at += step) found.push(at);
  return found;
}

// Acceptance over time: for each phase a line through the bins' rates inside the ribbon of their intervals.
export function ratesOverTime(figures) {
  const [width, height, left, right, top, bottom] = [1200, 300, 44, 84, 10, 26];
  const { since, now, bin_seconds: bin } = figures;
  const x = (at) => left + ((at - since) / (now - since)) * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const middle = (one) => Math.min(Math.max(one.start + bin / 2, since), now);
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Acceptance over time by phase" });

  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    plot.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
    plot.append(svg("text", { class: "end", x: left - 8, y: y(share) + 4 }, percent(share)));
  }
  for (const band of figures.bands) {
    plot.append(svg("line", { class: "mark", x1: left, x2: width - right, y1: y(band.floor), y2: y(band.floor) }));
    plot.append(svg("text", { x: width - right + 8, y: y(band.floor) + 4 }, `${band.name} .${Math.round(100 * band.floor)}`));
  }
  for (const at of ticks(since, now)) {
    plot.append(svg("text", { class: "middle", x: x(at), y: height - 8 }, utc(at, figures.hours > 24)));
  }
  figures.phases.forEach((phase, index) => {
    const group = svg("g", { class: series(index) });
    for (const run of runs(phase.bins, bin)) {
      const upper = run.map((one) => `${x(middle(one))},${y(one.high)}`);
      const lower = run.map((one) => `${x(middle(one))},${y(one.low)}`).reverse();
      if (run.length > 1) {
        group.append(svg("polygon", { class: "ribbon", points: [...upper, ...lower].join(" ") }));
        group.append(svg("polyline", { class: "trend", points: run.map((one) => `${x(middle(one))},${y(one.rate)}`).join(" ") }));
      } else {
        group.append(svg("line", { class: "whisker", x1: x(middle(run[0])), x2: x(middle(run[0])), y1: y(run[0].low), y2: y(run[0].high) }));
      }
    }
    for (const one of phase.bins) group.append(svg("circle", { class: "dot", cx: x(middle(one)), cy: y(one.rate), r: 3.5 }));
    plot.append(group);
  });

  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom });
  plot.append(cursor);
  const tooltip = el("div", { class: "tooltip", hidden: true });
  const figure = [plot, tooltip];
  plot.addEventListener("pointerleave", () => {
    tooltip.hidden = true;
    cursor.classList.remove("on");
  });
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = since + ((((event.clientX - box.left) / box.width) * width - left) / (width - left - right)) * (now - since);
    const start = Math.floor(at / bin) * bin;
    const lines = figures.phases.flatMap((phase, index) => {
      const one = phase.bins.find((candidate) => candidate.start === start);
      if (!one) return [];
      const swatch = el("span", { class: `swatch ${series(index)}` });
      const judged = one.accepted + one.rejected;
      return [el("div", {}, swatch, `${phase.name}  ${percent(one.rate)} (${interval(one.low, one.high)}), ${one.accepted} of ${judged}`)];
    });
    tooltip.hidden = lines.length === 0;
    cursor.classList.toggle("on", lines.length > 0);
    if (lines.length === 0) return;
    const centre = x(Math.min(Math.max(start + bin / 2, since), now));
    cursor.setAttribute("x1", centre);
    cursor.setAttribute("x2", centre);
    tooltip.replaceChildren(el("div", { class: "muted" }, `${utc(start, true)} to ${utc(start + bin, bin >= 86400)} UTC`), ...lines);
    const shown = (centre / width) * box.width;
    const room = box.width - shown > tooltip.offsetWidth + 24;
    tooltip.style.left = `${room ? shown + 12 : shown - tooltip.offsetWidth - 12}px`;
    tooltip.style.top = "12px";
  });
  return figure;
}

// Bins that follow one another without a gap of more than one.
function runs(bins, width) {
  const found = [];
  for (const one of bins) {
    const last = found.at(-1);
    if (last && one.start - last.at(-1).start <= 2 * width) last.push(one);
    else found.push([one]);
  }
  return found;
}

// For each phase the medians of its stages end to end.
export function stageTimes(phases) {
  const shown = phases.filter((phase) => Object.keys(phase.stages).length > 0);
  const names = [...new Set(shown.flatMap((phase) => Object.keys(phase.stages)))];
  const total = (phase) => Object.values(phase.stages).reduce((sum, stage) => sum + stage.p50, 0);
  const longest = Math.max(...shown.map(total), 1e-9);
  const [width, left, right, row] = [1200, 190, 210, 30];
  const plot = svg("svg", { viewBox: `0 0 ${width} ${row * shown.length}`, role: "img", "aria-label": "Median seconds of each stage by phase" });
  shown.forEach((phase, line) => {
    const y = line * row;
    plot.append(svg("text", { class: "strong", x: 0, y: y + 19 }, phase.name), svg("text", { class: "end", x: left - 14, y: y + 19 }, phase.hash.slice(0, 8)));
    let x = left;
    names.forEach((name, index) => {
      const seconds = phase.stages[name]?.p50 ?? 0;
      const length = (seconds / longest) * (width - left - right);
      const bar = svg("rect", { class: `bar ${series(index)}`, x, y: y + 5, width: Math.max(length - 1, 0), height: row - 11, rx: 2 });
      bar.append(svg("title", {}, `${name}: ${number(seconds, 2)} s (median), ${number(phase.stages[name]?.p95, 2)} s (p95)`));
      plot.append(bar);
      x += length;
    });
    const words = phase.seconds ? `${number(phase.seconds.p50, 1)} s, p95 ${number(phase.seconds.p95, 1)} s` : "";
    plot.append(svg("text", { class: "strong", x: x + 8, y: y + 19 }, words));
  });
  const legend = names.map((name, index) => el("span", {}, el("span", { class: `swatch ${series(index)}` }), name));
  return [plot, el("div", { class: "legend" }, legend)];
}
