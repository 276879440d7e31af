// Elements and words. Whatever strangers wrote goes through text nodes and attributes, never through markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const empty = (words) => el("p", { class: "empty" }, words);

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);
export const interval = (low, high) => `${Math.round(100 * low)}–${Math.round(100 * high)} %`;
export const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
export const gibibytes = (bytes) => number(bytes / 2 ** 30, 1);
export const thousands = (count) => (count >= 1000 ? `${Math.round(count / 1000)}K` : `${count}`);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s < 600 && s % 60 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function utc(seconds, withDay) {
  const text = new Date(1000 * seconds).toISOString();
  return withDay ? `${text.slice(5, 10)} ${text.slice(11, 16)}` : text.slice(11, 16);
}

export const validatorName = (one) => (one.uid === null ? `${one.hotkey.slice(0, 8)}…` : `uid ${one.uid}`);
export const validatorWords = (one) => `${one.hotkey.slice(0, 8)}…${one.uid === null ? "" : ` (uid ${one.uid})`}`;

// A table that becomes a list of cards where it does not fit. A head is [name, class]; a cell is a node or words, or
// [node or words, attributes]. The roles keep its meaning whatever the style sheet makes of it.
export function table(label, head, rows) {
  const columns = head.map(([name, side]) => el("th", { class: side, scope: "col", role: "columnheader" }, name));
  const lines = rows.map(({ cells, ...attributes }) => {
    const filled = cells.map((cell, column) => {
      const [content, more] = Array.isArray(cell) ? cell : [cell, {}];
      const words = head[column][0];
      return el("td", { role: "cell", class: head[column][1], "data-label": typeof words === "string" ? words : words.textContent, ...more }, content);
    });
    return el("tr", { role: "row", ...attributes }, filled);
  });
  const top = el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, columns));
  return el("table", { role: "table", "aria-label": label, class: "cards" }, top, el("tbody", { role: "rowgroup" }, lines));
}
