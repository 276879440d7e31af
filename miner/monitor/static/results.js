// The kept results as cards, each with a turntable: searched, and chosen to be compared.

import { el, empty, number, thousands, utc } from "./dom.js";

const VIEWS = 8;
const place = (id) => document.getElementById(id);
// Keys of the results to compare, the latest choice last.
let compared = [];

function badge(result) {
  if (result.outcome === "accepted") return el("span", { class: "badge good" }, result.score === null ? "accepted" : result.score.toFixed(2));
  if (result.outcome === "rejected") return el("span", { class: "badge bad" }, "rejected");
  return el("span", { class: "badge" }, result.outcome?.replaceAll("_", " ") ?? "sent");
}

function turntable(result) {
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
  stand.append(badge(result));
  return stand;
}

// A sentence, or the picture of an image task.
function prompt(result) {
  if (result.prompt_picture) return el("p", { class: "words" }, el("img", { class: "prompt", src: `/pictures/${result.key}.prompt.webp`, alt: "the prompt", loading: "lazy" }));
  const words = result.prompt ?? "a picture, not drawn yet";
  return el("p", { class: "words", title: words }, words);
}

function card(result, query) {
  const scores = ["quality", "alignment", "estimated_score"].filter((name) => result[name] !== null);
  const scored = scores.map((name) => ` · ${name.replace("_", " ")} ${number(result[name], 2)}`).join("");
  const facts = `${thousands(result.gaussians)} · ${number(result.seconds, 1)} s · ${result.phase}${scored}`;
  const link = el(
    "a",
    { href: `/viewer?key=${result.key}${query && `&${query}`}`, "data-key": result.key },
    turntable(result),
    prompt(result),
    el("p", { class: "muted" }, `${facts} · ${utc(result.made_at, true)}${result.uid === null ? "" : ` · uid ${result.uid}`}`),
  );
  const box = el("input", { type: "checkbox", checked: compared.includes(result.key) });
  box.addEventListener("change", () => choose(result.key, box.checked));
  return el("div", { class: "result" }, link, el("label", {}, box, " compare"));
}

function choose(key, isChosen) {
  compared = compared.filter((other) => other !== key);
  // The third choice takes the place of the first.
  if (isChosen) compared = [...compared, key].slice(-2);
  for (const shown of document.querySelectorAll(".result")) shown.querySelector("input").checked = compared.includes(shown.querySelector("a").dataset.key);
  place("compare").hidden = compared.length < 2;
  if (compared.length === 2) place("compare").href = `/compare?a=${compared[0]}&b=${compared[1]}`;
}

// `query` is the search that the results came of.
export function drawResults(results, query) {
  const cards = results.map((result) => card(result, query));
  place("results").replaceChildren(...(cards.length ? cards : [empty(query ? "No kept result is like that." : "No result is kept yet.")]));
}
