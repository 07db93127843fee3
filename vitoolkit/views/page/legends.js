// Legends: chips above a chart, and the list of variables with a bar each.

function swatch(color, dash, opacity = 1) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  const line = document.createElementNS(ns, "line");
  svg.setAttribute("aria-hidden", "true");
  for (const [key, value] of Object.entries({ width: 22, height: 10 })) svg.setAttribute(key, value);
  const style = { x1: 0, x2: 22, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": dash.join(" "),
    "stroke-opacity": opacity, stroke: color === "ink" ? "currentColor" : color };
  for (const [key, value] of Object.entries(style)) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

function chips(head, lines, toggled) {
  const box = tag("div", "vitoolkit-chips"), values = [], off = new Set();
  lines.forEach(([name, color, dash, scale], i) => {
    const chip = tag("button", "vitoolkit-chip"), value = tag("span", "value");
    chip.type = "button";
    chip.title = `${name}: click to hide or show${scale === "log" ? " (log scale)" : ""}`;
    chip.setAttribute("aria-pressed", "true");
    chip.append(swatch(color, dash), tag("span", "name", name), value);
    chip.onclick = () => {
      off.has(i) ? off.delete(i) : off.add(i);
      chip.setAttribute("aria-pressed", String(!off.has(i)));
      toggled();
    };
    box.append(chip);
    values.push(value);
  });
  if (lines.length > 6) box.classList.add("vitoolkit-many");
  head.append(box);
  return { off, values };
}

// A few exclusive choices, such as the scale of an axis.
function choices(names, titles, chosen) {
  const box = tag("span", "vitoolkit-choices");
  const buttons = names.map((name, i) => {
    const button = tag("button", "", name);
    button.type = "button";
    button.title = titles[i];
    button.setAttribute("aria-pressed", String(i === 0));
    button.onclick = () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      chosen(name);
    };
    return button;
  });
  box.append(...buttons);
  return box;
}

// A list of many rows with a search, the largest first. Only the rows in sight exist, so that 2,000 cost
// what 10 do.
const ROW = 24, HIGH = 190, TALL = 62, CALM = 1500;

class SearchedList {
  constructor(lines, { what }) {
    this.lines = lines;
    this.rows = new Map();
    this.order = lines.map((_, i) => i);
    this.sorted = -Infinity;
    this.words = "";
    this.search = tag("input", "vitoolkit-search");
    Object.assign(this.search, { type: "search", placeholder: `search ${count(lines.length)} ${what}` });
    this.search.hidden = lines.length <= 8;
    this.search.setAttribute("aria-label", `search ${what}`);
    this.search.oninput = () => { this.words = this.search.value.toLowerCase(); this.sort(); this.box.scrollTop = 0; this.render(); };
    this.search.addEventListener("keydown", (event) => event.stopPropagation()); // not a shortcut of the page
    this.none = tag("div", "vitoolkit-soft vitoolkit-none", `no ${what.slice(0, -1)} matches`);
    this.none.setAttribute("role", "status");
    this.none.hidden = true; // until somebody has searched
    this.box = tag("div", "vitoolkit-list");
    this.sheet = tag("div", "vitoolkit-sheet");
    this.box.append(this.none, this.sheet);
    // A few rows share the height of the chart beside them, on two lines each.
    this.height = Math.max(ROW, Math.min(TALL, Math.floor(HIGH / Math.max(lines.length, 1))));
    if (this.height > 36) this.box.classList.add("vitoolkit-few");
    this.box.style.setProperty("--row", `${this.height}px`);
    this.box.addEventListener("scroll", () => this.render(), { passive: true });
    this.box.addEventListener("pointerleave", () => (this.over = false));
    this.box.addEventListener("pointerenter", () => (this.over = true));
  }

  put(body) {
    body.append(this.search, this.box);
    body.style.setProperty("--rows", `${this.height * this.lines.length + 6}px`);
  }

  calmly() { if (!this.over && performance.now() - this.sorted > CALM) this.sort(); } // not under a hand

  sort() {
    const size = (i) => { const value = this.size(i); return Number.isFinite(value) ? value : -Infinity; };
    const all = this.lines.map((_, i) => i);
    this.order = all.filter((i) => this.lines[i][0].toLowerCase().includes(this.words)).sort((a, b) => size(b) - size(a) || a - b);
    this.sorted = performance.now();
  }

  render() {
    const { height } = this, first = Math.max(0, Math.floor(this.box.scrollTop / height) - 2);
    const end = Math.min(this.order.length, first + Math.ceil((this.box.clientHeight || HIGH) / height) + 4);
    this.none.hidden = this.order.length > 0 || !this.lines.length;
    this.sheet.style.height = `${height * this.order.length}px`;
    const seen = new Set(this.order.slice(first, end));
    for (const [i, row] of this.rows) if (!seen.has(i)) { row.remove(); this.rows.delete(i); }
    for (let k = first; k < end; k++) {
      const i = this.order[k];
      let row = this.rows.get(i);
      if (!row) this.rows.set(i, (row = this.row(i)));
      row.style.transform = `translateY(${height * k}px)`;
      if (!row.isConnected) this.sheet.append(row);
      this.fill(row, i);
    }
  }
}

// All variables, the largest KL first: name, bar, nats and share; a click hides, shows or asks for a line.
class VariableList extends SearchedList {
  constructor(lines, { toggled, pick }) {
    super(lines, { what: "variables" });
    this.toggled = toggled;
    this.pick = pick;
    this.off = new Set();
    this.picked = new Set();
    this.drawn = new Set();
    this.now = new Float32Array(lines.length).fill(NaN);
    this.total = tag("b", "vitoolkit-total");
    this.reset = tag("button", "vitoolkit-plain vitoolkit-reset", "reset");
    this.reset.title = "show the lines of the largest again";
    this.reset.onclick = () => { this.off.clear(); this.ask(() => this.picked.clear()); this.changed(); };
  }

  show(now, drawn) {
    this.now = now;
    this.drawn = new Set(drawn);
    const finite = [...now].filter(Number.isFinite);
    this.sum = finite.reduce((a, b) => a + b, 0);
    this.most = Math.max(...finite, 1e-12);
    this.total.textContent = finite.length ? `${short(this.sum)} nats` : "";
    this.calmly();
    this.render();
  }

  size(i) { return this.now[i]; }

  row(i) {
    const [name, color, dash] = this.lines[i];
    const row = tag("button", "vitoolkit-row"), bar = tag("span", "bar"), fill = tag("i");
    row.type = "button";
    row.title = `${name}: click to hide or show its line, double-click for this one only`;
    fill.style.background = color;
    bar.append(fill);
    row.append(swatch(color, dash), tag("span", "name", name), bar, tag("span", "value"), tag("span", "share"));
    row.onclick = () => this.click(i);
    row.ondblclick = () => this.only(i);
    return row;
  }

  fill(row, i) {
    const value = this.now[i], share = value / this.sum, shown = this.drawn.has(i) && !this.off.has(i);
    row.setAttribute("aria-pressed", String(shown || this.picked.has(i)));
    row.classList.toggle("vitoolkit-lineless", !this.drawn.has(i) && !this.picked.has(i));
    row.setAttribute("aria-label", `${this.lines[i][0]}, ${short(value)} nats`);
    row.children[2].firstChild.style.width = `${Math.max(0, (100 * value) / this.most) || 0}%`;
    row.children[3].textContent = short(value);
    row.children[4].textContent = share > 0 ? percent(share) : "";
  }

  render() {
    super.render();
    this.reset.style.visibility = this.off.size || this.picked.size ? "visible" : "hidden";
  }

  click(i) {
    if (!this.drawn.has(i)) {
      this.off.delete(i);
      this.ask(() => (this.picked.has(i) ? this.picked.delete(i) : this.picked.add(i)));
    } else if (this.off.has(i)) {
      this.off.delete(i);
    } else {
      this.off.add(i);
      if (this.picked.has(i)) this.ask(() => this.picked.delete(i));
    }
    this.changed();
  }

  only(i) {
    const others = [...this.drawn].filter((j) => j !== i), alone = others.every((j) => this.off.has(j));
    this.off = new Set(alone ? [] : others);
    this.changed();
  }

  ask(change) {
    change();
    this.pick([...this.picked].map((i) => this.lines[i].at(-1)));
  }

  changed() { this.render(); this.toggled(); }
}
