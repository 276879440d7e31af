// The page: asks for the status every few seconds, for figures and results now and then, and draws what came.

import { intervalPlot } from "./charts.js";
import { by, chooseRange, chosen, offer, periodWords, query, start } from "./choice.js";
import { duration, el, empty, gibibytes, interval, number, percent, plural, table, utc } from "./dom.js";
import { drawExperiments } from "./experiments.js";
import { drawGate, drawGrid, drawOverTime, drawPhases, drawStages } from "./figures.js";
import { drawResults } from "./results.js";

const place = (id) => document.getElementById(id);
const known = { status: null, figures: null, results: [], searched: null, asked: 0 };

// Seconds of the miner's clock, which need not be the browser's.
const now = () => known.status.now + (performance.now() - known.asked) / 1000;

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
    const share = past?.tasks ? `: ${percent(past.unanswered / past.tasks)} of its tasks shown here` : "";
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
    tiles.push(tile(`Accepted, ${periodWords()}`, percent(total.rate), total.judged ? `${interval(...total.interval)} · ${number(total.judged)} judged` : "nothing judged yet"));
    const hasTimes = total.seconds_p50 !== null;
    tiles.push(tile("Generation", hasTimes ? `${number(total.seconds_p50, 1)} s` : "–", hasTimes ? `median · p95 ${number(total.seconds_p95, 1)} s` : "no result yet"));
  }
  const refused = status.ledger?.dropped ? `${plural(status.ledger.dropped, "ledger record")} lost` : plural(figures?.total.tasks ?? 0, "task");
  tiles.push(tile("Queue", number(status.queue), refused));
  tiles.push(tile("Last result", status.last_success === null ? "–" : `${duration(now() - status.last_success)}`, status.last_success === null ? "none since the start" : `ago, ${utc(status.last_success)}`));
  tiles.push(tile("Metagraph", duration(status.metagraph_age), "since it was seen"));
  for (const worker of status.workers) {
    const memory = worker.memory;
    const label = `Memory of ${worker.device}`;
    const bar = memory ? [el("meter", { min: 0, max: memory.total, value: memory.reserved, "aria-label": label })] : [];
    const details = [worker.state.replace("_", " "), worker.place, memory ? `${gibibytes(memory.reserved)} of ${gibibytes(memory.total)} GiB, ${memory.name}` : ""];
    details.push(worker.problem, ...worker.left_out.map((reason) => `left out of ${reason}`));
    if (worker.losses && !worker.problem) details.push(`lost ${plural(worker.losses, "time")}, the last time: ${worker.last_loss}`);
    tiles.push(tile(worker.device, `${number(worker.per_minute, 1)} / min`, details.filter(Boolean).join(" · "), ...bar));
  }
  const seen = new Set(status.workers.map((worker) => worker.device));
  for (const gpu of status.gpus.filter((one) => !seen.has(one.device))) {
    const bar = el("meter", { min: 0, max: gpu.total, value: gpu.reserved, "aria-label": `Memory of ${gpu.device}` });
    tiles.push(tile(gpu.device, `${gibibytes(gpu.reserved)} GiB`, `of ${gibibytes(gpu.total)} GiB · ${gpu.name}`, bar));
  }
  const restarts = Object.values(status.restarts).reduce((sum, count) => sum + count, 0);
  if (restarts) tiles.push(tile("Restarts", number(restarts), Object.keys(status.restarts).join(", ")));
  place("tiles").replaceChildren(...tiles);
}

function drawFigures() {
  const { figures } = known;
  offer(figures);
  drawPhases(figures);
  drawOverTime(figures, by(), chooseRange);
  drawGrid(figures);
  drawGate(figures);
  drawStages(figures);
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
    return {
      class: "c0",
      cells: [
        `${view?.uid ?? one?.uid ?? "–"}`,
        [el("code", {}, `${hotkey.slice(0, 8)}…${hotkey.slice(-4)}`), { title: hotkey }],
        stage,
        next,
        cooled,
        number(one?.tasks ?? 0),
        el("span", { class: "good" }, number(one?.accepted ?? 0)),
        el("span", { class: "bad" }, number(one?.rejected ?? 0)),
        number(one?.skipped ?? 0),
        el("b", {}, percent(one?.rate)),
        one ? intervalPlot(one, bands) : "–",
      ],
    };
  });
  const head = [["uid", ""], ["hotkey", "left"], ["state", "left"], ["next pull", ""], ["cooldown", ""], ["tasks", ""], ["accepted", ""], ["rejected", ""], ["skipped", ""], ["rate", ""], ["0 to 100 %", "plot"]];
  place("validators").replaceChildren(table("Validators", head, rows));
}

const shorten = (task) => (task.length > 13 ? `${task.slice(0, 12)}…` : task);

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
  const asked = query();
  const figures = await get(`/figures.json?${asked}`);
  // Whoever has chosen something else meanwhile gets that.
  if (asked !== query()) return;
  known.figures = figures;
  drawFigures();
  if (known.status) {
    drawUnanswered();
    drawTiles();
    drawValidators();
  }
}

async function readExperiments() {
  drawExperiments((await get("/experiments.json")).experiments);
}

// What the results are searched for: the phase and the validator of the page, an answer and a text.
function search() {
  const { phase, validator } = chosen();
  const wanted = { phase: phase.replace(/ [^ ]*$/, ""), validator, answer: place("answer").value, text: place("text").value.trim() };
  return new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
}

async function readResults() {
  const asked = search();
  const { results, more } = await get(`/results.json?${asked}`);
  if (asked !== search()) return;
  // Those that were asked for in addition stay below, unless something else is searched for.
  const oldest = results.at(-1);
  const kept = asked === known.searched && oldest ? known.results.filter((one) => BigInt(one.key) < BigInt(oldest.key)) : [];
  if (!kept.length) place("more").hidden = !more;
  showResults([...results, ...kept], asked);
}

async function readOlder() {
  const asked = known.searched;
  const { results, more } = await get(`/results.json?${asked}&before=${known.results.at(-1).key}`);
  if (asked !== known.searched) return;
  place("more").hidden = !more;
  showResults([...known.results, ...results], asked);
}

function showResults(results, asked) {
  // Drawn anew only when something has changed, so that what the pointer turns stays turned.
  const isSame = asked === known.searched && JSON.stringify(results) === JSON.stringify(known.results);
  Object.assign(known, { results, searched: asked });
  if (!isSame) drawResults(results, asked);
}

// Calls again after `seconds`, less often than that while it fails, not at all while nobody looks.
function every(seconds, read) {
  const again = async () => {
    if (!document.hidden) await read().catch(() => {});
    setTimeout(again, 1000 * seconds);
  };
  again();
}

const readNow = (read) => () => read().catch(() => {});
start(() => [readFigures, readResults].forEach((read) => readNow(read)()), () => known.figures);
place("search").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["answer", "text"]) place(id).addEventListener("input", readNow(readResults));
place("more").addEventListener("click", readNow(readOlder));
every(3, readStatus);
every(15, readFigures);
every(8, readResults);
every(20, readExperiments);
