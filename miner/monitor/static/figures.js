// What the ledger's figures say: acceptance by phase, over time, by phase and validator, and the gate.

import { calibrationPlot, intervalPlot, series, stageTimes } from "./charts.js";
import { el, empty, interval, number, percent, plural, table, thousands, utc, validatorName, validatorWords } from "./dom.js";
import { Timeline } from "./timeline.js";

const place = (id) => document.getElementById(id);
// Lines that a plot can show side by side.
const MAX_LINES = 12;

export function drawPhases(figures) {
  place("bands").textContent = figures.bands_explanation;
  if (figures.phases.length === 0) {
    place("phases").replaceChildren(empty("No task in this period."));
    return;
  }
  const head = [["phase", "left"], ["0 to 100 %, with bands", "plot"], ["rate", ""], ["95 %", ""], ["accepted", ""], ["verdict", "left"], ["score", ""], ["quality", ""], ["alignment text / image", ""], ["seconds", ""], ["gaussians", ""]];
  const rows = figures.phases.map((phase, index) => ({
    class: series(index),
    cells: [
      el("span", {}, el("span", { class: "swatch" }), phase.name, " ", el("code", {}, phase.hash.slice(0, 8))),
      intervalPlot(phase, figures.bands),
      el("b", {}, percent(phase.rate)),
      phase.judged ? interval(...phase.interval) : "–",
      `${number(phase.accepted)} of ${number(phase.judged)}`,
      phase.verdict,
      number(phase.score, 3),
      number(phase.quality, 3),
      `${number(phase.text_alignment, 2)} / ${number(phase.image_alignment, 2)}`,
      number(phase.seconds_p50, 1),
      phase.gaussians_p50 === null ? "–" : thousands(Math.round(phase.gaussians_p50)),
    ],
  }));
  place("phases").replaceChildren(table("Acceptance by phase", head, rows));
}

// The lines of the plots over time, by phase or by validator.
const linesOf = (figures, by) =>
  (by === "phase" ? figures.phases.map((one) => ({ name: one.key, bins: one.bins })) : figures.validators.map((one) => ({ name: validatorWords(one), bins: one.bins }))).slice(0, MAX_LINES);

function plotsOf(figures, by) {
  const lines = linesOf(figures, by);
  const { since, until, bin_seconds: bin } = figures;
  const valuesOf = (value, words) =>
    lines.map(({ name, bins }, index) => ({ name, css: series(index), points: bins.filter((one) => value(one) !== null).map((one) => ({ start: one.start, value: value(one), words: words(one) })) }));
  const hours = (start) => (Math.min(start + bin, until) - Math.max(start, since)) / 3600;
  const rates = lines.map(({ name, bins }, index) => {
    const points = bins.filter((one) => one.judged).map((one) => ({
      start: one.start, value: one.rate, low: one.interval[0], high: one.interval[1],
      words: `${percent(one.rate)} (${interval(...one.interval)}), ${one.accepted} of ${one.judged}`,
    }));
    return { name, css: series(index), points };
  });
  const pace = lines.map(({ name, bins }, index) => {
    const counts = new Map(bins.map((one) => [one.start, one.tasks]));
    const points = [];
    for (let start = Math.floor(since / bin) * bin; start < until; start += bin) {
      const value = (counts.get(start) ?? 0) / hours(start);
      points.push({ start, value, words: `${number(value, value < 10 ? 1 : 0)} an hour` });
    }
    return { name, css: series(index), points };
  });
  const scores = valuesOf((one) => one.score, (one) => number(one.score, 3));
  const seconds = valuesOf((one) => one.seconds, (one) => `${number(one.seconds, 2)} s`);
  const all = (plot) => plot.flatMap((line) => line.points.map((one) => one.value));
  const most = (plot) => [0, 1.08 * Math.max(...all(plot), 1e-3)];
  const [low, high] = [Math.min(...all(scores), 1), Math.max(...all(scores), 0)];
  const scoreRange = low > high ? [0, 1] : [Math.floor(20 * low - 0.01) / 20, Math.ceil(20 * high + 0.01) / 20];
  const tick = (value) => number(value, value > 0 && value < 10 ? 1 : 0);
  return [
    { title: "Acceptance rate, with 95 % intervals", lines: rates, range: [0, 1], form: percent, bands: figures.bands, height: 260 },
    { title: "Mean score of accepted results", lines: scores, range: scoreRange, form: (value) => number(value, 2), height: 150 },
    { title: "Generation, median seconds", lines: seconds, range: most(seconds), form: tick, height: 150 },
    { title: "Tasks an hour", lines: pace, range: most(pace), form: tick, height: 150 },
  ];
}

export function drawOverTime(figures, by, onRange) {
  if (figures.phases.length === 0) {
    place("over-time").replaceChildren(empty("No task in this period."));
    place("changes").replaceChildren();
    return;
  }
  const legend = linesOf(figures, by).map(({ name }, index) => el("span", {}, el("span", { class: `swatch ${series(index)}` }), name));
  const plots = plotsOf(figures, by).map((plot) => new Timeline(plot, figures, onRange).figure);
  place("over-time").replaceChildren(el("div", { class: "legend" }, legend), ...plots);
  const changes = figures.markers.map((marker) => el("li", {}, el("span", { class: "muted" }, `${utc(marker.at, true)} `), marker.text));
  place("changes").replaceChildren(...(changes.length ? [el("summary", {}, plural(changes.length, "change")), el("ul", {}, changes)] : []));
}

export function drawGrid(figures) {
  if (figures.grid.length === 0) {
    place("grid").replaceChildren(empty("No task in this period."));
    return;
  }
  const cells = new Map(figures.grid.map((cell) => [`${cell.phase} ${cell.validator}`, cell]));
  const head = [["phase", "left"], ...figures.validators.map((one) => [el("span", { title: one.hotkey }, validatorName(one)), ""])];
  const rows = figures.phases.map((phase, row) => ({
    cells: [
      el("span", {}, phase.name, " ", el("code", {}, phase.hash.slice(0, 8))),
      ...figures.validators.map((validator, column) => {
        const cell = cells.get(`${row} ${column}`);
        if (!cell) return "–";
        if (!cell.judged) return el("span", { class: "muted" }, plural(cell.tasks, "task"));
        const side = cell.verdict.startsWith("below") ? "bad" : cell.verdict.startsWith("at least") ? "good" : "";
        const facts = `${interval(...cell.interval)} · ${number(cell.judged)}`;
        return el("span", { class: "rate", title: `${cell.accepted} of ${cell.judged} accepted; ${cell.verdict}` }, el("b", { class: side }, percent(cell.rate)), el("small", {}, facts));
      }),
    ],
  }));
  place("grid").replaceChildren(table("Acceptance by phase and validator", head, rows));
}

export function drawGate(figures) {
  const { gate } = figures;
  const lines = gate.lines.map((line) => el("p", {}, line));
  const curves = gate.calibrations.map((calibration, index) =>
    el("figure", { class: "calibration" }, el("figcaption", {}, gate.titles[index]), calibration.bins.length ? calibrationPlot(calibration) : null),
  );
  const nothing = lines.length || curves.length ? null : empty("No result of this period was scored here before it was judged, so there is nothing to learn the chance to pass from.");
  place("gate").replaceChildren(...[nothing, ...lines, curves.length ? el("div", { class: "curves" }, curves) : null].filter(Boolean));
}

export function drawStages(figures) {
  const shown = figures.phases.filter((phase) => Object.keys(phase.stages).length > 0);
  place("stages").replaceChildren(...(shown.length ? stageTimes(shown) : [empty("No result in this period.")]));
  place("stage-tasks").textContent = `Medians of each phase's latest ${number(figures.stage_tasks)} tasks of the period.`;
}
