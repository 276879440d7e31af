// Two viewers side by side, whose cameras move together.

import { el } from "./dom.js";

const asked = new URLSearchParams(location.search);
for (const [name, words] of [["a", "the first result"], ["b", "the second result"]]) {
  const key = asked.get(name) ?? "";
  if (/^[0-9]{1,19}$/.test(key)) document.body.append(el("iframe", { src: `/viewer?key=${key}&part=1`, title: words }));
  else document.body.append(el("p", {}, `The address names no result as ${name}.`));
}
