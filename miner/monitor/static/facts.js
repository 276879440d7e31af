// What is known of the result that the viewer shows, beside its prompt, and what can be done with it.

import { el, number, utc } from "/static/dom.js";

const place = (id) => document.getElementById(id);

function say(words) {
  place("said").textContent = words;
  setTimeout(() => (place("said").textContent = ""), 3000);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    // Browsers keep the clipboard from pages that come from elsewhere without encryption.
    say(`The browser forbids to copy; select it by hand: ${text}`);
  }
}

function copier(text, what) {
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "copy");
  button.addEventListener("click", () => copy(text, what));
  return button;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function command(result) {
  const prompt = result.prompt ?? `${result.folder}/${result.key}.prompt`;
  const phase = place("phase").value.trim() || result.phase;
  return `sn17-miner generate --phase ${quoted(phase)} --seed ${result.seed} -o ${quoted(`${result.key}-${phase.replaceAll("/", "-")}.ply`)} -- ${quoted(prompt)}`;
}

function table(candidates) {
  const scores = (one) => ["quality", "alignment", "ssim", "lpips"].filter((name) => typeof one[name] === "number").map((name) => `${name} ${number(one[name], 3)}`).join(", ");
  const lines = candidates.map((one) => el("li", {}, el("code", {}, one.seed), ` ${one.fate}${one.problem ? ` (${one.problem})` : ""}`, el("br"), el("span", { class: "muted" }, scores(one) || "not scored")));
  return el("details", {}, el("summary", {}, `${candidates.length} candidates`), el("ol", {}, lines));
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
  if (result.candidates.length > 1) place("candidates").replaceChildren(table(result.candidates));
  place("mattings").replaceChildren(...cutOuts(result.mattings));
  for (const side of ["newer", "older"]) {
    place(side).hidden = result[side] === null;
    if (result[side] !== null) place(side).href = `/viewer?key=${result[side]}${query && `&${query}`}`;
  }
  place("phase").value = result.phase;
  const showCommand = () => (place("command").textContent = command(result));
  place("phase").addEventListener("input", showCommand);
  place("again").addEventListener("submit", (event) => event.preventDefault());
  place("copy-command").addEventListener("click", () => copy(command(result), "command"));
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
