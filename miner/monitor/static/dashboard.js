// The page: asks for the status every few seconds, for figures and results now and then, and draws what came.

import { intervalPlot, ratesOverTime, series, stageTimes } from "./charts.js";
import { duration, el, gibibytes, interval, number, percent, plural, thousands, utc } from "./dom.js";

const SPANS = { 6: "6 h", 24: "24 h", 168: "7 d", 720: "30 d" };
const VIEWS = 8;
const place = (id) => document.getElementById(id);
const known = { status: null, figures: null, results: null, asked: 0 };
let hours = Object.keys(SPANS).includes(location.hash.slice(1)) ? location.hash.slice(1) : "24";

// Seconds of the miner's clock, which need not be the browser's.
const now = () => known.status.now + (performance.now() - known.asked) / 1000;
const empty = (words) => el("p", { class: "empty" }, words);

async function get(path) {
  const reply = await fetch(path);
  if (!reply.ok) throw new Error(`${path}: HTTP ${reply.status}`);
  return reply.json();
}

function notice(words, id = "notice") {
  place(id).hidden = !words;
  place(id).textContent = words;
}

// Which tasks get the empty result because no checkpoint of the phase takes their type, and how many that were.
function drawUnanswered() {
  const sentences = Object.entries(known.status.unanswered).filter(([, types]) => types.length).map(([phase, types]) => {
    const past = (known.figures?.phases ?? []).find((one) => one.name === phase);
    const share = past?.tasks ? `: ${percent(past.unanswered / past.tasks)} of its tasks in the last ${SPANS[known.figures.hours]}` : "";
    return `Phase ${phase} has no checkpoint for ${types.join(" and ")} tasks, which get the empty result${share}.`;
  });
  notice(sentences.join(" "), "unanswered");
}

function drawHeader() {
  const { status } = known;
  const state = place("state");
  state.textContent = status.status;
  state.className = `pill ${status.able_to_work ? "good" : "warn"}`;
  place("identity").textContent = `phase ${status.phase} · up ${duration(status.uptime)} · ${status.version}`;
  document.title = `${status.status === "ok" ? "" : `${status.status} · `}${status.phase} · Miner`;
}

function drawExperiment() {
  const { experiment } = known.status;
  place("experiment").hidden = !experiment;
  if (!experiment) return;
  const worse = experiment.losers.length ? `${experiment.losers.join(" and ")} clearly worse than another arm` : "no arm is better yet";
  const verdict = experiment.winner === null ? worse : `${experiment.winner} has won`;
  const arms = experiment.arms.map((arm) => `${arm.phase} ${arm.accepted} of ${arm.counted}`).join(", ");
  place("experiment").replaceChildren("Experiment ", el("code", {}, experiment.experiment), ": ", el("b", {}, verdict), `; accepted: ${arms}`);
}

function tile(title, value, detail, ...more) {
  return el("div", { class: "tile" }, el("h3", {}, title), el("b", { class: "number" }, value), ...more, el("small", {}, detail));
}

function drawTiles() {
  const { status, figures } = known;
  const tiles = [];
  if (figures) {
    const { total } = figures;
    const judged = total.accepted + total.rejected;
    tiles.push(tile(`Accepted, ${SPANS[figures.hours]}`, percent(total.rate), judged ? `${interval(total.low, total.high)} · ${number(judged)} judged` : "nothing judged yet"));
    const seconds = total.seconds;
    tiles.push(tile("Generation", seconds ? `${number(seconds.p50, 1)} s` : "–", seconds ? `median · p95 ${number(seconds.p95, 1)} s` : "no result yet"));
  }
  const refused = status.ledger?.dropped ? `${plural(status.ledger.dropped, "ledger record")} lost` : plural(figures?.total.tasks ?? 0, "task");
  tiles.push(tile("Queue", number(status.queue), refused));
  tiles.push(tile("Last result", status.last_success === null ? "–" : `${duration(now() - status.last_success)}`, status.last_success === null ? "none since the start" : `ago, ${utc(status.last_success)}`));
  tiles.push(tile("Metagraph", duration(status.metagraph_age), "since it was seen"));
  for (const worker of status.workers) {
    const memory = worker.memory;
    const bar = memory ? [el("meter", { min: 0, max: memory.total, value: memory.reserved })] : [];
    const details = [worker.state, worker.place, memory ? `${gibibytes(memory.reserved)} of ${gibibytes(memory.total)} GiB, ${memory.name}` : ""];
    if (worker.fault) details.push(`lost before: ${worker.fault}`);
    tiles.push(tile(worker.device, `${number(worker.per_minute, 1)} / min`, details.filter(Boolean).join(" · "), ...bar));
  }
  const seen = new Set(status.workers.map((worker) => worker.device));
  for (const gpu of status.gpus.filter((one) => !seen.has(one.device))) {
    const bar = el("meter", { min: 0, max: gpu.total, value: gpu.reserved });
    tiles.push(tile(gpu.device, `${gibibytes(gpu.reserved)} GiB`, `of ${gibibytes(gpu.total)} GiB · ${gpu.name}`, bar));
  }
  const restarts = Object.values(status.restarts).reduce((sum, count) => sum + count, 0);
  if (restarts) tiles.push(tile("Restarts", number(restarts), Object.keys(status.restarts).join(", ")));
  place("tiles").replaceChildren(...tiles);
}

function table(head, rows) {
  const cells = head.map(([name, side]) => el("th", { class: side, scope: "col" }, name));
  return el("table", {}, el("thead", {}, el("tr", {}, cells)), el("tbody", {}, rows));
}

function drawFigures() {
  const { figures } = known;
  const span = SPANS[figures.hours];
  place("bands").textContent = figures.bands_explanation;
  if (figures.phases.length === 0) {
    place("phases").replaceChildren(empty(`No task in the last ${span}.`));
    place("over-time").replaceChildren();
    place("stages").replaceChildren(empty(`No result in the last ${span}.`));
    return;
  }
  const rows = figures.phases.map((phase, index) =>
    el(
      "tr",
      { class: series(index) },
      el("td", { class: "left" }, el("span", { class: "swatch" }), phase.name, " ", el("code", {}, phase.hash.slice(0, 8))),
      el("td", { class: "plot" }, intervalPlot(phase, figures.bands)),
      el("td", {}, el("b", {}, percent(phase.rate))),
      el("td", { class: "muted" }, interval(phase.low, phase.high)),
      el("td", {}, `${number(phase.accepted)} of ${number(phase.accepted + phase.rejected)}`),
      el("td", { class: "left" }, phase.verdict),
      el("td", {}, number(phase.score, 3)),
      el("td", {}, number(phase.quality?.p50, 3)),
      el("td", {}, `${number(phase.text_alignment?.p50, 2)} / ${number(phase.image_alignment?.p50, 2)}`),
      el("td", {}, phase.gaussians ? thousands(Math.round(phase.gaussians.p50)) : "–"),
    ),
  );
  const head = [["phase", "left"], ["0 to 100 %, with bands", "left"], ["rate"], ["95 %"], ["accepted"], ["verdict", "left"], ["score"], ["quality"], ["alignment text / image"], ["gaussians"]];
  place("phases").replaceChildren(table(head, rows));
  place("over-time").replaceChildren(...ratesOverTime(figures));
  place("stages").replaceChildren(...stageTimes(figures.phases));
}

function drawValidators() {
  const live = new Map(known.status.validators.map((view) => [view.hotkey, view]));
  const past = new Map((known.figures?.validators ?? []).map((one) => [one.hotkey, one]));
  const hotkeys = [...new Set([...live.keys(), ...past.keys()])];
  if (hotkeys.length === 0) {
    place("validators").replaceChildren(empty("No validator yet."));
    return;
  }
  const bands = known.figures?.bands ?? [];
  const rows = hotkeys.map((hotkey) => {
    const [view, one] = [live.get(hotkey), past.get(hotkey)];
    const stage = view ? el("span", { class: view.failures ? "warn" : "" }, view.stage + (view.failures ? ` · ${view.failures} failed` : "")) : el("span", { class: "muted" }, "not pulled from");
    const next = view ? (view.next_pull === null || view.next_pull <= now() ? (view.task ? shorten(view.task) : "now") : `in ${duration(view.next_pull - now())}`) : "–";
    const cooled = view?.cooldown_end && view.cooldown_end > now() ? duration(view.cooldown_end - now()) : "–";
    return el(
      "tr",
      { class: "c0" },
      el("td", {}, `${view?.uid ?? one?.uid ?? "–"}`),
      el("td", { class: "left", title: hotkey }, el("code", {}, `${hotkey.slice(0, 8)}…${hotkey.slice(-4)}`)),
      el("td", { class: "left" }, stage),
      el("td", {}, next),
      el("td", {}, cooled),
      el("td", {}, number(one?.tasks ?? 0)),
      el("td", { class: "good" }, number(one?.accepted ?? 0)),
      el("td", { class: "bad" }, number(one?.rejected ?? 0)),
      el("td", {}, number(one?.skipped ?? 0)),
      el("td", {}, el("b", {}, percent(one?.rate ?? null))),
      el("td", { class: "plot" }, one ? intervalPlot(one, bands) : null),
    );
  });
  const head = [["uid"], ["hotkey", "left"], ["state", "left"], ["next pull"], ["cooldown"], ["tasks"], ["accepted"], ["rejected"], ["skipped"], ["rate"], ["0 to 100 %", "left"]];
  place("validators").replaceChildren(table(head, rows));
}

const shorten = (task) => (task.length > 13 ? `${task.slice(0, 12)}…` : task);

function badge(result) {
  if (result.outcome === "accepted") return el("span", { class: "badge good" }, result.score === null ? "accepted" : result.score.toFixed(2));
  if (result.outcome === "rejected") return el("span", { class: "badge bad" }, "rejected");
  return el("span", { class: "badge" }, result.outcome?.replaceAll("_", " ") ?? "sent");
}

function card(result) {
  const stand = el("div", { class: "turntable" });
  if (result.picture) {
    const views = el("img", { class: "views", src: `/pictures/${result.key}.webp`, alt: "eight views of the result", loading: "lazy" });
    stand.append(views);
    // Moving across the picture turns the object.
    stand.addEventListener("pointermove", (event) => {
      const view = Math.floor((event.offsetX / stand.clientWidth) * VIEWS);
      views.style.transform = `translateX(${(-100 / VIEWS) * Math.min(Math.max(view, 0), VIEWS - 1)}%)`;
    });
    stand.addEventListener("pointerleave", () => (views.style.transform = ""));
  } else {
    stand.append(el("span", { class: "none" }, "not drawn"));
  }
  if (result.prompt_picture) stand.append(el("img", { class: "prompt", src: `/pictures/${result.key}.prompt.webp`, alt: "the prompt", loading: "lazy" }));
  stand.append(badge(result));
  const words = result.prompt ?? `task ${shorten(result.task_id)}`;
  const scores = ["quality", "alignment", "estimated_score"].filter((name) => result[name] !== null);
  const scored = scores.map((name) => ` · ${name.replace("_", " ")} ${number(result[name], 2)}`).join("");
  const facts = `${thousands(result.gaussians)} · ${number(result.seconds, 1)} s · ${result.phase}${scored}`;
  return el(
    "a",
    { class: "result", href: `/viewer?key=${result.key}`, "data-key": result.key },
    stand,
    el("p", { class: "words", title: words }, words),
    el("p", { class: "muted" }, `${facts} · ${utc(result.made_at)}${result.uid === null ? "" : ` · uid ${result.uid}`}`),
  );
}

function drawResults() {
  const cards = known.results.map(card);
  place("results").replaceChildren(...(cards.length ? cards : [empty("No result is kept yet.")]));
}

async function readStatus() {
  try {
    known.status = await get("/status.json");
    known.asked = performance.now();
    drawHeader();
    drawExperiment();
    drawUnanswered();
    drawTiles();
    drawValidators();
    const problems = [known.figures?.problem, known.status.ledger?.problem, ...known.status.problems];
    notice(problems.filter(Boolean).join("; "));
  } catch (error) {
    place("state").textContent = "unreachable";
    place("state").className = "pill bad";
    notice(`The miner does not answer (${error.message}). What stands below is what it told last.`);
  }
}

async function readFigures() {
  known.figures = await get(`/figures.json?hours=${hours}`);
  drawFigures();
  if (known.status) {
    drawUnanswered();
    drawTiles();
    drawValidators();
  }
}

async function readResults() {
  const { results } = await get("/results.json");
  // Drawn anew only when something has changed, so that what the pointer turns stays turned.
  if (JSON.stringify(results) === JSON.stringify(known.results)) return;
  known.results = results;
  drawResults();
}

// Calls again after `seconds`, less often than that while it fails, not at all while nobody looks.
function every(seconds, read) {
  const again = async () => {
    if (!document.hidden) await read().catch(() => {});
    setTimeout(again, 1000 * seconds);
  };
  again();
}

place("spans").append(
  ...Object.entries(SPANS).map(([value, words]) => {
    const button = el("button", { type: "button", "aria-pressed": String(value === hours) }, words);
    button.addEventListener("click", () => {
      hours = value;
      history.replaceState(null, "", `#${value}`);
      for (const other of place("spans").children) other.setAttribute("aria-pressed", String(other === button));
      readFigures().catch(() => {});
    });
    return button;
  }),
);
every(3, readStatus);
every(15, readFigures);
every(8, readResults);
