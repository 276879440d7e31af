// The latest results as cards, each with a turntable.

import { el, empty, number, thousands, utc } from "./dom.js";

const VIEWS = 8;
const place = (id) => document.getElementById(id);
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

export function drawResults(results) {
  const cards = results.map(card);
  place("results").replaceChildren(...(cards.length ? cards : [empty("No result is kept yet.")]));
}
