// What is known of the result that the viewer shows, beside its prompt, and what can be done with it.

import { copier, copy, promptCommand } from "/static/commands.js";
import { el, number, utc } from "/static/dom.js";

const place = (id) => document.getElementById(id);

function table(key, candidates) {
  const scores = (one) => ["quality", "alignment", "ssim", "lpips"].filter((name) => typeof one[name] === "number").map((name) => `${name} ${number(one[name], 3)}`).join(", ");
  const lines = candidates.map((one) => el("li", {}, el("code", {}, one.seed), ` ${one.fate}${one.problem ? ` (${one.problem})` : ""}`, el("br"), el("span", { class: "muted" }, scores(one) || "not scored")));
  const link = el("a", { href: `/candidates?key=${key}` }, `${candidates.length} candidates side by side`);
  return [el("p", {}, link), el("details", {}, el("summary", {}, "Their scores"), el("ol", {}, lines))];
}

// Which model's matte was taken of each picture, and what was expected of it and of the others.
function cutOuts(mattings) {
  const matte = (one) => el("li", {}, `${one.model}: ${one.flaw ? `no cut-out, ${one.flaw}` : `IoU of ${number(one.expected_iou, 2)} expected`}`, el("br"), el("span", { class: "muted" }, measures(one)));
  const measures = (one) => ["area", "border", "pieces", "largest", "holes", "softness", "roughness", "agreement"].filter((name) => typeof one[name] === "number").map((name) => `${name} ${number(one[name], 2)}`).join(", ");
  return mattings.map((picture) => el("details", {}, el("summary", {}, picture.chosen ? `Cut out by ${picture.chosen}` : "The whole picture"), el("ul", {}, picture.models.map(matte))));
}

export async function showFacts(key, query) {
  const reply = await fetch(`/results/${key}.json?${query}`);
  if (!reply.ok) return;
  const result = await reply.json();
  const words = result.prompt ?? "";
  place("title").textContent = words || `${result.phase} · ${utc(result.made_at, true)}`;
  if (result.prompt_picture) {
    place("prompt").src = `/pictures/${key}.prompt.webp`;
    place("prompt").hidden = false;
  }
  const answer = result.outcome === "accepted" && result.score !== null ? `accepted, ${result.score.toFixed(2)}` : (result.outcome?.replaceAll("_", " ") ?? "none yet");
  const parts = ["quality", "alignment", "ssim", "lpips", "estimated_score", "threshold", "pass_probability"].filter((name) => result[name] !== null);
  const facts = {
    answer: `${answer}${result.gate && result.gate !== "sent" ? `, ${result.gate}` : ""}`,
    validator: result.validator === null ? "–" : [el("span", {}, `${result.uid === null ? "" : `uid ${result.uid} `}${result.validator}`), " ", copier(result.validator, "hotkey")],
    phase: `${result.phase} ${result.config_hash?.slice(0, 8) ?? ""}`,
    ...(result.experiment ? { experiment: `${result.experiment}, arm ${result.arm}` } : {}),
    seed: [el("span", {}, result.seed), " ", copier(result.seed, "seed")],
    gaussians: number(result.gaussians),
    generated: `in ${number(result.seconds, 1)} s`,
    ...Object.fromEntries(parts.map((name) => [name.replaceAll("_", " "), number(result[name], 3)])),
    sent: `${number(result.size)} bytes ${result.data_format}`,
    made: `${utc(result.made_at, true)} UTC`,
    task: result.task_id,
  };
  place("numbers").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  if (result.candidates.length > 1) place("candidates").replaceChildren(...table(key, result.candidates));
  place("mattings").replaceChildren(...cutOuts(result.mattings));
  for (const side of ["newer", "older"]) {
    place(side).hidden = result[side] === null;
    if (result[side] !== null) place(side).href = `/viewer?key=${result[side]}${query && `&${query}`}`;
  }
  offerPhases(result);
}

// The command that generates again, with the phase that the result had or with another one.
function offerPhases(result) {
  const names = [...new Set([result.phase, ...result.phases])].sort();
  place("phase").replaceChildren(...names.map((name) => el("option", { value: name, selected: name === result.phase }, name)));
  const command = () => promptCommand(result, place("phase").value);
  const showCommand = () => (place("command").textContent = command());
  place("phase").addEventListener("change", showCommand);
  place("again").addEventListener("submit", (event) => event.preventDefault());
  place("copy-command").addEventListener("click", () => copy(command(), "command"));
  showCommand();
  place("again").hidden = false;
}

// The sixteen views, which the miner draws when they are asked for.
export function offerViews(key) {
  place("see").addEventListener("click", async () => {
    place("views").showModal();
    if (!place("views-picture").hidden) return;
    place("views-progress").textContent = "The miner draws them; that can take a minute…";
    try {
      const reply = await fetch(`/pictures/${key}.views.webp`);
      if (!reply.ok) throw new Error((await reply.json().catch(() => null))?.error ?? `HTTP ${reply.status}`);
      place("views-picture").src = reply.url;
      await place("views-picture").decode();
      place("views-picture").hidden = false;
      place("views-progress").textContent = "From 0° to 360°, row by row; the first and the last are the same.";
    } catch (error) {
      place("views-progress").textContent = error.message;
    }
  });
}
