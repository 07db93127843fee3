// Reading the charts: one step under the mouse in all of them at once, its numbers and what was done
// there in words; a chart as a file.

const NEAR = 5, TOLD = 6;

// Index of the nearest number of a row that rises.
function nearest(row, value) {
  let low = 0, high = row.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    row[middle] < value ? (low = middle + 1) : (high = middle);
  }
  return low > 0 && value - row[low - 1] < row[low] - value ? low - 1 : low;
}

// The crosshair is the page's own: one of Bokeh's has it paint every chart at every move of the mouse.
class Reading {
  constructor(charts) {
    this.charts = charts;
    this.lines = {};
    this.at = null;
    this.words = tag("div", "vitoolkit-words");
    this.words.hidden = true;
    for (const { name, kind } of charts.charts) {
      const { body } = charts.sections[name];
      if (kind === "list" || kind === "predictive" || body.hidden) continue; // not over the steps
      const line = (this.lines[name] = tag("div", kind === "plane" ? "vitoolkit-spot" : "vitoolkit-cross"));
      line.hidden = true;
      body.append(line);
      body.tabIndex = 0;
      body.setAttribute("role", "group");
      body.addEventListener("pointermove", ({ clientX, clientY, buttons }) => (buttons ? this.leave() : this.move(name, clientX, clientY)));
      body.addEventListener("pointerleave", () => this.leave());
      body.addEventListener("blur", () => this.leave());
      body.addEventListener("keydown", (event) => this.key(name, event));
    }
  }

  move(name, clientX, clientY) {
    if (!this.charts.plots || !this.charts.x?.length) return;
    const box = this.charts.sections[name].body.getBoundingClientRect(), px = clientX - box.x, py = clientY - box.y;
    const { left, top, width, height } = this.charts.place(name);
    if (px < left || px > left + width || py < top || py > top + height) this.leave();
    else this.show({ name, px, py });
  }

  key(name, event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], { x, plots } = this.charts;
    if (event.key === "Escape") this.leave();
    if (!by || !plots || !x?.length) return;
    event.preventDefault();
    event.stopPropagation();
    const i = Math.min(x.length - 1, Math.max(0, (this.i ?? x.length - 1 - by) + by * (event.shiftKey ? 10 : 1)));
    this.show({ name, i });
    this.words.setAttribute("aria-live", "polite");
  }

  leave() {
    if (!this.at) return;
    this.at = null;
    this.i = undefined;
    this.words.hidden = true;
    this.words.removeAttribute("aria-live");
    for (const line of Object.values(this.lines)) line.hidden = true;
  }

  show(at) {
    this.at = at;
    const { charts } = this, { x, last } = charts, { name } = at, place = charts.place(name);
    const plane = charts.chart[name].kind === "plane";
    const i = (this.i = at.i ?? (plane ? this.beside(place, at) : nearest(x, place.x(at.px))));
    if (i < 0) return this.leave();
    for (const [other, line] of Object.entries(this.lines)) {
      if (charts.hidden.has(other)) continue;
      const { left, top, width, height, across, down } = charts.place(other), flat = charts.chart[other].kind === "plane";
      const px = across(flat ? last.rate[i] : x[i]), py = flat ? down(last.distortion[i]) : top;
      line.hidden = !(px >= left && px <= left + width && py >= top && py <= top + height);
      line.style.transform = `translate(${px}px, ${py}px)`;
      if (!flat) line.style.height = `${height}px`;
    }
    this.tell(i, place, plane);
  }

  beside(place, { px, py }) { // the point of the path that the mouse is at
    const { rate, distortion } = this.charts.last;
    let best = -1, least = 20 ** 2;
    for (let i = 0; i < rate.length; i++) {
      const away = (place.across(rate[i]) - px) ** 2 + (place.down(distortion[i]) - py) ** 2;
      if (away < least) [best, least] = [i, away];
    }
    return best;
  }

  tell(i, place, plane) {
    const { charts, words, at } = this, { last } = charts, chart = charts.chart[at.name];
    words.replaceChildren(tag("b", "", `step ${count(last.step[i])} · ${short(last.seconds[i])} s`));
    for (const [look, label, value] of charts[`read_${chart.kind}`]?.(last, i, chart, place, at.py) ?? []) {
      const row = tag("div");
      if (look) row.append(swatch(...look));
      row.append(tag("span", "vitoolkit-soft", label), tag("span", "", value));
      words.append(row);
    }
    const near = last.marks.filter(([step]) => (plane ? nearest(last.step, step) === i
      : Math.abs(place.across(charts.along_x(step)) - place.across(charts.x[i])) <= NEAR));
    for (const [step, text] of near.slice(0, 3)) words.append(tag("div", "vitoolkit-done", `step ${count(step)}: ${text}`));
    if (near.length > 3) words.append(tag("div", "vitoolkit-done", `and ${near.length - 3} more`));
    const { body } = charts.sections[at.name];
    if (words.parentNode !== body) body.append(words);
    words.hidden = false;
    const px = plane ? place.across(last.rate[i]) : place.across(charts.x[i]), right = px < place.left + place.width / 2;
    words.style.left = right ? `${px + 12}px` : "";
    words.style.right = right ? "" : `${body.clientWidth - px + 12}px`;
  }

  follow() { if (this.at) this.show(this.at); } // the fit goes on under the mouse
}

// A chart as one sees it, with its heading and legend, as SVG; PNG is a picture of that.
function chartFile(charts, name) {
  const { head, body } = charts.sections[name], plot = charts.plots[name], wide = body.clientWidth, styles = getComputedStyle(body);
  const inner = plot.export("svg").ctx.get_serialized_svg(true);
  const paper = getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim() || "#fff", fg = ink();
  const safe = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const write = (x, y, text, more = "") => `<text x="${x}" y="${y}" fill="${fg}" font-size="12" ${more}>${safe(text)}</text>`;
  let x = 8, y = 18;
  const over = ["plane", "predictive"].includes(charts.chart[name].kind) ? "" : `, over ${charts.unit}`;
  const parts = [write(x, y, head.firstChild.textContent + over, 'font-weight="600"')];
  for (const [label, color, dash] of charts.key(name)) { // swatch and name, in as many rows as it takes
    const long = 34 + 6.6 * label.length;
    if (x === 8 && y === 18) y += 18;
    else if (x + long > wide - 8) [x, y] = [8, y + 16];
    parts.push(`<line x1="${x}" y1="${y - 4}" x2="${x + 22}" y2="${y - 4}" stroke="${color === "ink" ? fg : color}" stroke-width="2.5" stroke-dasharray="${dash.join(" ")}"/>`, write(x + 28, y, label));
    x += long + 8;
  }
  const top = y + 8, height = top + body.clientHeight;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${height}" viewBox="0 0 ${wide} ${height}" font-family="${safe(styles.fontFamily)}">` +
    `<rect width="100%" height="100%" fill="${safe(paper)}"/>${parts.join("")}<g transform="translate(0 ${top})">${inner}</g></svg>`;
  return { svg, wide, height };
}

async function raster({ svg, wide, height }) {
  const image = new Image(), canvas = document.createElement("canvas"), sharp = Math.max(2, devicePixelRatio);
  image.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await image.decode();
  Object.assign(canvas, { width: wide * sharp, height: height * sharp });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

async function download(charts, name, kind) {
  const file = chartFile(charts, name), link = tag("a");
  link.href = URL.createObjectURL(kind === "svg" ? new Blob([file.svg], { type: "image/svg+xml" }) : await raster(file));
  link.download = `${name}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A button that opens two more: which kind of file.
function saver(charts, name, title) {
  const box = tag("details", "vitoolkit-save"), open = tag("summary", "", "⤓"), menu = tag("span", "vitoolkit-choices");
  open.setAttribute("aria-label", `Download the chart ${title}`);
  open.title = `download the chart “${title}” as one sees it`;
  for (const kind of ["png", "svg"]) {
    const button = tag("button", "", kind.toUpperCase());
    button.type = "button";
    button.setAttribute("aria-label", `${title} as ${kind.toUpperCase()}`);
    button.onclick = () => { box.open = false; download(charts, name, kind); };
    menu.append(button);
  }
  box.append(open, menu);
  box.addEventListener("focusout", ({ relatedTarget }) => { if (!box.contains(relatedTarget)) box.open = false; });
  box.addEventListener("keydown", ({ key }) => { if (key === "Escape") { box.open = false; open.focus(); } });
  return box;
}
