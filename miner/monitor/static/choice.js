// What the page is about: a period or a range, phases, validators, types. Kept in the address, so that it can be shared.

import { el, utc, validatorWords } from "./dom.js";

export const PERIODS = { "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d", all: "all" };
const NAMES = ["period", "since", "until", "phase", "validator", "type", "by"];
const place = (id) => document.getElementById(id);
const state = new URLSearchParams(location.hash.slice(1));

export const period = () => (Object.hasOwn(PERIODS, state.get("period")) ? state.get("period") : "24h");
export const by = () => (state.get("by") === "validator" ? "validator" : "phase");
const range = () => {
  const [since, until] = [Number(state.get("since")), Number(state.get("until"))];
  return since > 0 && until > since ? [since, until] : null;
};

// The period in words, to follow a noun.
export const periodWords = () => (range() ? "range" : PERIODS[period()]);

export function query() {
  const asked = new URLSearchParams();
  if (range()) for (const [name, value] of [["since", range()[0]], ["until", range()[1]]]) asked.set(name, value);
  else asked.set("period", period());
  for (const name of ["phase", "validator", "type"]) if (state.get(name)) asked.set(name, state.get(name));
  return asked.toString();
}

export const chosen = () => ({ phase: state.get("phase") ?? "", validator: state.get("validator") ?? "" });

let changed = () => {};

function choose(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value) state.set(name, value);
    else state.delete(name);
  }
  for (const name of [...state.keys()]) if (!NAMES.includes(name)) state.delete(name);
  history.replaceState(null, "", `#${state}`);
  show();
  changed();
}

export const chooseRange = (since, until) => choose({ since: since.toFixed(0), until: Math.max(until, since + 60).toFixed(0) });

function show() {
  const now = range();
  for (const button of place("periods").children) button.setAttribute("aria-pressed", String(!now && button.value === period()));
  for (const button of place("by").children) button.setAttribute("aria-pressed", String(button.value === by()));
  place("range").textContent = now ? `${utc(now[0], true)} to ${utc(now[1], true)} UTC` : "";
  place("reset").hidden = !now;
}

function options(select, name, all, entries) {
  const wanted = state.get(name) ?? "";
  // A choice in the address that the ledger does not know stays visible.
  if (wanted && !entries.some(([value]) => value === wanted)) entries = [...entries, [wanted, wanted]];
  const lines = [["", all], ...entries];
  if (JSON.stringify(lines) !== select.dataset.lines) {
    select.dataset.lines = JSON.stringify(lines);
    select.replaceChildren(...lines.map(([value, words]) => el("option", { value }, words)));
  }
  select.value = wanted;
}

// Offers what the ledger has.
export function offer(figures) {
  options(place("phase"), "phase", "all phases", figures.known_phases.map(({ name, hash }) => [`${name} ${hash}`, `${name} ${hash.slice(0, 8)}`]));
  options(place("validator"), "validator", "all validators", figures.known_validators.map((one) => [one.hotkey, validatorWords(one)]));
  options(place("type"), "type", "all types", [["text", "text"], ["image", "image"]]);
}

// Builds the controls; `onChange` is called after every choice, `shown` returns the axis that is shown now.
export function start(onChange, shown) {
  changed = onChange;
  place("periods").append(
    ...Object.entries(PERIODS).map(([value, words]) => {
      const button = el("button", { type: "button", value }, words);
      button.addEventListener("click", () => choose({ period: value, since: "", until: "" }));
      return button;
    }),
  );
  for (const button of place("by").children) button.addEventListener("click", () => choose({ by: button.value }));
  for (const name of ["phase", "validator", "type"]) place(name).addEventListener("change", () => choose({ [name]: place(name).value }));
  place("reset").addEventListener("click", () => choose({ since: "", until: "" }));
  // By how much of the shown range its start and its end move.
  const moves = { earlier: [-0.5, -0.5], later: [0.5, 0.5], closer: [0.25, -0.25], wider: [-0.5, 0.5] };
  for (const [id, [first, last]] of Object.entries(moves)) {
    place(id).addEventListener("click", () => {
      const axis = shown();
      if (!axis) return;
      const span = axis.until - axis.since;
      chooseRange(Math.max(axis.since + first * span, 1), axis.until + last * span);
    });
  }
  addEventListener("hashchange", () => {
    for (const name of NAMES) state.delete(name);
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) state.set(name, value);
    show();
    changed();
  });
  show();
}
