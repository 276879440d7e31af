// Experiments: the evidence over time against what decides, what it would take, and what the arms are.

import { intervalPlot, series } from "./charts.js";
import { el, interval, number, percent, svg, table, utc } from "./dom.js";

const place = (id) => document.getElementById(id);
const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT] = [56, 10, 14, 24, 200];
// Less evidence than this makes no difference.
const LEAST = 0.1;

function evidence(value) {
  if (value > 1e6) return "over 10⁶";
  return number(value, value < 10 ? 2 : 0);
}

// The e-value of each comparison over time, on a logarithmic axis.
function evidencePlot(experiment) {
  const figure = el("figure", {}, el("figcaption", {}, `Evidence (e-value) that an arm is better; ${number(experiment.threshold)} decides, whenever it is looked at`));
  const shown = experiment.comparisons.filter((one) => one.path.length > 0);
  const start = experiment.started_at;
  const end = Math.max(start + 60, ...shown.flatMap((one) => one.path.map(([at]) => at)));
  const power = Math.log10;
  const highest = Math.max(power(experiment.threshold) + 0.7, ...shown.flatMap((one) => one.path.map(([, value]) => power(value))));
  function draw() {
    const width = Math.max(figure.clientWidth, 160);
    const x = (at) => LEFT + ((at - start) / (end - start)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + ((highest - power(Math.max(value, LEAST))) / (highest - power(LEAST))) * (HEIGHT - TOP - BOTTOM);
    const words = shown.map((one) => `${one.better} better than ${one.worse}: ${evidence(one.e_value)}`).join("; ");
    const plot = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": `Evidence over time. ${words}` });
    const step = Math.max(1, Math.ceil(highest / 5));
    for (let at = -1; at <= highest; at += step) {
      plot.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(10 ** at), y2: y(10 ** at) }));
      plot.append(svg("text", { class: "end", x: LEFT - 6, y: y(10 ** at) + 4 }, at > 4 ? `10^${at}` : `${10 ** at}`));
    }
    plot.append(svg("line", { class: "change experiment", x1: LEFT, x2: width - RIGHT, y1: y(experiment.threshold), y2: y(experiment.threshold) }));
    plot.append(svg("text", { class: "end", x: width - RIGHT, y: y(experiment.threshold) - 5 }, `decided: ${number(experiment.threshold)}`));
    shown.forEach((one, index) => {
      const points = [[start, 1], ...one.path].map(([at, value]) => `${x(at)},${y(value)}`).join(" ");
      plot.append(svg("g", { class: series(index) }, svg("polyline", { class: "trend", points })));
    });
    plot.append(svg("text", { x: LEFT, y: HEIGHT - 7 }, utc(start, true)), svg("text", { class: "end", x: width - RIGHT, y: HEIGHT - 7 }, utc(end, true)));
    figure.querySelector("svg")?.remove();
    figure.append(plot);
  }
  new ResizeObserver(draw).observe(figure);
  const legend = shown.map((one, index) => el("span", {}, el("span", { class: `swatch ${series(index)}` }), `${one.better} better: ${evidence(one.e_value)}, at most ${evidence(one.highest_e_value)}`));
  return [el("div", { class: "legend" }, legend), figure];
}

function verdict(experiment) {
  if (experiment.winner !== null) return `${experiment.winner} has won`;
  return experiment.losers.length ? `${experiment.losers.join(" and ")} clearly worse than another arm` : "no arm is better yet";
}

function card(experiment) {
  const head = [["arm", "left"], ["0 to 100 %", "plot"], ["rate", ""], ["95 %", ""], ["accepted", ""], ["note", "left"], ["hypothesis", "left"]];
  const rows = experiment.arms.map((arm) => ({
    class: "c0",
    cells: [
      el("span", {}, arm.phase, " ", el("code", {}, arm.hash.slice(0, 8))),
      intervalPlot(arm, []),
      el("b", {}, percent(arm.rate)),
      arm.counted ? interval(...arm.interval) : "–",
      `${number(arm.accepted)} of ${number(arm.counted)}`,
      el("span", { class: "text" }, arm.note || "–"),
      el("span", { class: "text" }, arm.hypothesis || "–"),
    ],
  }));
  const ended = experiment.ended_at === null ? "running" : `ended ${utc(experiment.ended_at, true)}: ${experiment.decision ?? ""}`;
  const settings = experiment.differences.map(({ key, values }) => ({ cells: [el("code", {}, key), ...values.map((value) => value ?? "–")] }));
  const names = experiment.arms.map((arm) => [arm.phase, "left"]);
  const diff = settings.length ? table("Settings in which the arms differ", [["setting", "left"], ...names], settings) : el("p", { class: "muted" }, "The ledger knows no setting in which the arms differ.");
  return el(
    "article",
    {},
    el("h3", {}, experiment.name),
    el("p", {}, el("b", {}, verdict(experiment)), el("span", { class: "muted" }, ` · since ${utc(experiment.started_at, true)} UTC, ${ended}`)),
    table("Arms", head, rows),
    ...experiment.forecasts.map((line) => el("p", {}, `${line}.`)),
    ...evidencePlot(experiment),
    el("details", {}, el("summary", {}, "Settings in which the arms differ"), diff),
  );
}

let drawn = "";

export function drawExperiments(experiments) {
  const told = JSON.stringify(experiments);
  if (told === drawn) return;
  drawn = told;
  const open = [...place("experiments").querySelectorAll("details")].map((one) => one.open);
  place("experiments-section").hidden = experiments.length === 0;
  place("experiments").replaceChildren(...experiments.map(card));
  place("experiments").querySelectorAll("details").forEach((one, index) => (one.open = open[index] ?? false));
}
