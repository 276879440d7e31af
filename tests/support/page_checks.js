// What a page has to be, asked inside of it: each check returns the beginnings of the elements that fail it.
(() => {
  const start = (one) => one.outerHTML.slice(0, 120);

  // Elements that reach beyond the window, boxes that scroll sideways, words of plots that reach beyond their plot.
  const cut = () =>
    [...document.querySelectorAll("body *, svg text")]
      .filter((one) => {
        const box = one.getBoundingClientRect();
        if (!box.width || !box.height || one.closest("thead, .turntable, option, [hidden]")) return false;
        if (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX === "auto") return true;
        const isWord = one.tagName === "text";
        const frame = isWord ? one.ownerSVGElement.getBoundingClientRect() : { left: 0, right: innerWidth };
        return box.right > frame.right + 1 || box.left < frame.left - 1;
      })
      .map(start);

  // Words whose contrast with what is behind them is under 4.5, by the formula of WCAG 2.
  const pale = () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const brush = canvas.getContext("2d", { willReadFrequently: true });
    const paint = (colours) => {
      brush.clearRect(0, 0, 1, 1);
      for (const colour of colours) {
        brush.fillStyle = colour;
        brush.fillRect(0, 0, 1, 1);
      }
      return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const luminance = (rgb) => {
      const [r, g, b] = rgb.map((part) => linear(part / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const one of document.querySelectorAll("body *")) {
      const hasWords = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!hasWords || one.closest("option, noscript, [hidden], title")) continue;
      if (!one.getBoundingClientRect().width) continue;
      const behind = ["white"];
      const colours = [];
      for (let at = one; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
      behind.push(...colours);
      const style = getComputedStyle(one);
      const ink = one.ownerSVGElement ? style.fill : style.color;
      const both = [luminance(paint(behind)), luminance(paint([...behind, ink]))].sort((a, b) => a - b);
      const contrast = (both[1] + 0.05) / (both[0] + 0.05);
      if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${start(one)}`);
    }
    return found;
  };

  // Controls and pictures without a name, and controls that are smaller than WCAG 2.2 asks.
  const unnamed = () =>
    [...document.querySelectorAll("button, select, input, a, img, svg[role=img], meter, canvas")]
      .filter((one) => {
        if (!one.getClientRects().length) return false;
        const name = one.getAttribute("aria-label") || one.getAttribute("alt") || one.textContent.trim();
        if (!name && !one.labels?.length) return true;
        return one.matches("button, select, input") && one.getBoundingClientRect().height < 24;
      })
      .map(start);

  return { cut: cut(), pale: pale(), unnamed: unnamed() };
})();
