// All candidates of a task side by side: what four views of each show, its score, and what became of it.

import { el, number, plural, utc } from "/static/dom.js";
import { candidateCommand, copier } from "/static/commands.js";

const PARTS = ["quality", "alignment", "ssim", "lpips", "estimated_score"];
const GOOD = ["chosen"];
const BAD = ["invalid", "failed"];
const place = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const key = asked.get("key") ?? "";

const kind = (fate) => (GOOD.includes(fate) ? "good" : BAD.includes(fate) ? "bad" : "");

function picture(candidate) {
  const stand = el("div", { class: "turntable" });
  const words = `four views of the candidate with seed ${candidate.seed}`;
  if (candidate.sheet) stand.append(el("img", { class: "sheet", src: `/pictures/${key}/${candidate.seed}.jpg`, alt: words, loading: "lazy" }));
  else stand.append(el("span", { class: "none" }, "no picture"));
  return stand;
}

// Each part, and by how much it differs from that of the candidate that was chosen.
function scores(candidate, chosen) {
  const named = PARTS.filter((name) => typeof candidate[name] === "number");
  if (!named.length) return el("p", { class: "muted" }, "not scored");
  const lines = named.map((name) => {
    const other = candidate === chosen ? null : chosen?.[name];
    const difference = typeof other === "number" ? candidate[name] - other : null;
    const words = difference === null ? "" : `${difference < 0 ? "−" : "+"}${number(Math.abs(difference), 3)}`;
    return [el("dt", {}, name.replace("estimated_", "")), el("dd", {}, number(candidate[name], 3)), el("dd", { class: "muted" }, words)];
  });
  return el("dl", { class: "scores" }, ...lines.flat());
}

function card(result, candidate, chosen) {
  const facts = [`${number(candidate.seconds, 1)} s`, ...(candidate.voxels === null ? [] : [`${number(candidate.voxels)} voxels`])];
  return el(
    "div",
    { class: `result candidate ${candidate === chosen ? "chosen" : ""}`, "data-seed": candidate.seed },
    picture(candidate),
    el("p", {}, `${candidate.number}. `, el("b", { class: kind(candidate.fate) }, candidate.fate)),
    el("p", {}, "seed ", el("code", {}, candidate.seed), " ", copier(candidate.seed, "seed")),
    scores(candidate, chosen),
    el("p", { class: "muted" }, facts.join(" · ")),
    candidate.problem ? el("p", { class: "bad" }, candidate.problem) : null,
    el("p", {}, copier(candidateCommand(result, candidate.seed), "command", "Copy command")),
  );
}

// What was chosen comes first, then by the whole score, or by the first part that there is.
function worth(candidate) {
  if (candidate.fate === "chosen") return Infinity;
  const part = ["estimated_score", ...PARTS].find((name) => typeof candidate[name] === "number");
  return part === undefined ? -Infinity : candidate[part];
}

function draw(result) {
  const candidates = result.candidates.map((one, index) => ({ ...one, number: index + 1 }));
  const chosen = candidates.find((one) => one.fate === "chosen");
  const byWorth = place("order").value === "score";
  const ordered = byWorth ? [...candidates].sort((a, b) => worth(b) - worth(a) || a.number - b.number) : candidates;
  place("candidates").replaceChildren(...ordered.map((one) => card(result, one, chosen)));
}

async function show() {
  if (!/^[0-9]{1,19}$/.test(key)) throw new Error("The address names no result.");
  place("back").href = `/viewer?${asked}`;
  place("back").textContent = "← Result";
  const reply = await fetch(`/results/${key}.json`);
  if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error ?? `HTTP ${reply.status}`);
  const result = await reply.json();
  if (!result.candidates.length) throw new Error("The ledger knows of no candidates of this result.");
  place("prompt").hidden = !result.prompt_picture;
  if (result.prompt_picture) place("prompt").src = `/pictures/${key}.prompt.webp`;
  place("words").textContent = result.prompt ?? "";
  place("facts").textContent = `${plural(result.candidates.length, "candidate")} · ${result.phase} · ${utc(result.made_at, true)} UTC · task ${result.task_id}`;
  place("order").addEventListener("change", () => draw(result));
  draw(result);
  place("shown").hidden = false;
  place("problem").hidden = true;
}

show().catch((error) => (place("problem").textContent = error.message));
