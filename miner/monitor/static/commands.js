// What the pages offer to copy: hotkeys, seeds, and commands that generate again.

import { el } from "/static/dom.js";

function say(words) {
  const place = document.getElementById("said");
  place.textContent = words;
  setTimeout(() => place.textContent === words && (place.textContent = ""), 3000);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    // Browsers keep the clipboard from pages that come from elsewhere without encryption.
    say(`The browser forbids to copy; select it by hand: ${text}`);
  }
}

export function copier(text, what, words = "copy") {
  const button = el("button", { type: "button", class: "copy", "aria-label": words === "copy" ? `Copy ${what}` : null }, words);
  button.addEventListener("click", () => copy(text, what));
  return button;
}

const quoted = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const command = (...words) => ["sn17-miner", "generate", ...words].map(quoted).join(" ");

// With a phase's candidates, beginning with the seed of the one that was sent.
export function promptCommand(result, phase) {
  const prompt = result.prompt ?? `${result.folder}/${result.key}.prompt`;
  const file = `${result.key}-${phase.replaceAll("/", "-")}.ply`;
  return command(...result.options, "--phase", phase, "--seed", result.seed, "-o", file, "--", prompt);
}

// One candidate, with the settings that the task had.
export function candidateCommand(result, seed) {
  return command(...result.options, "--task", result.task_id, "--seed", seed, "-o", `${result.key}-${seed}.ply`);
}
