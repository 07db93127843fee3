// A sheet of Bokeh charts: sections with a heading, ranges that follow the data, zoom, theme, and no
// work for what nobody sees.

function decode(header, view) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const all = new Float32Array(bytes), frame = { ...header };
  let at = 0;
  for (const [name, shape] of header.arrays) {
    const width = shape[shape.length - 1];
    if (shape.length === 1) {
      frame[name] = all.subarray(at, (at += width));
    } else {
      frame[name] = Array.from({ length: shape[0] }, () => all.subarray(at, (at += width)));
    }
  }
  return frame;
}

class Sheet {
  constructor({ charts, fit }, el, send) {
    this.charts = charts; // from Python: the one list of them, in their order
    this.fit = fit;
    this.root = tag("div", "vitoolkit vitoolkit-figure");
    this.root.dataset.empty = "true";
    this.grid = tag("div", "vitoolkit-grid");
    this.root.append(this.grid);
    this.sections = {};
    this.stale = new Set();
    this.hidden = new Set();
    this.scale = {};
    this.sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const name = target.dataset.chart;
        isIntersecting ? this.hidden.delete(name) : this.hidden.add(name);
        if (isIntersecting && this.stale.has(name) && this.last) this.draw(this.last, [name]);
      }
      const seen = this.seen;
      if (seen && !this.was) send({ kind: "here" });
      this.was = seen;
    });
    this.back = tag("button", "vitoolkit-follow", "follow the fit again");
    this.back.onclick = () => this.release();
    this.root.addEventListener("pointerdown", ({ target }) => { this.touched = target.closest?.(".vitoolkit-chart") ?? this.touched; }, true);
    this.root.__vitoolkit = this; // for those who look at the page from outside, such as tests
    el.append(this.root);
  }

  async open(model, last) { // when it is on the page, and painted: the widgets beside it need not wait for BokehJS
    const frame = () => new Promise(requestAnimationFrame);
    do await frame(); while (!this.root.isConnected);
    await new Promise((done) => setTimeout(done));
    this.last = last;
    await this.attach(await bokeh(model), model.get("_document"));
  }

  section(name, title, look = "vitoolkit-chart") {
    const section = tag("section", "vitoolkit-section"), head = tag("div", "vitoolkit-head"), body = tag("div", look);
    section.dataset.chart = body.dataset.chart = name;
    head.append(tag("h4", "", title));
    section.append(head, body);
    this.grid.append(section);
    if (look === "vitoolkit-chart") head.firstChild.title = "drag to zoom, double-click to follow the fit again";
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", `chart: ${title}`);
    this.touched ??= body;
    return (this.sections[name] = Object.assign(section, { head, body }));
  }

  async attach(B, json) {
    this.doc = B.require("document").Document.from_json(JSON.parse(json));
    this.sources = {};
    this.ranges = {};
    this.axes = {};
    for (const model of this.doc._all_models.values()) {
      const [, name, what] = /^(.*)_(data|range|axis)$/.exec(model.name ?? "") ?? [];
      if (what === "axis") (this.axes[name] ??= []).push(model);
      else if (what) ({ data: this.sources, range: this.ranges })[what][name] = model;
    }
    const zoomed = () => { if (!this.ours) { this.hold(); this.ticks(); } };
    for (const range of Object.values(this.ranges)) {
      range.properties.start.change.connect(zoomed);
      range.properties.end.change.connect(zoomed);
    }
    this.theme(); // and draws, so that Bokeh lays out and paints the charts once
    const divs = this.doc.roots().map((root) => this.sections[root.name].body);
    for (const div of divs) div.addEventListener("dblclick", () => this.release());
    this.views = await B.embed.add_document_standalone(this.doc, divs[0] ?? this.grid, divs); // no charts: words only
    for (const view of this.views) view.canvas_view?.events_el?.setAttribute("tabindex", -1); // no key does anything there
    this.plots = Object.fromEntries(this.doc.roots().map((root) => [root.name, this.views.get(root)]));
  }

  // Where a chart's numbers are: pixels of its plot in its body, and the ends of its axes.
  place(name) {
    const { x_range, y_range } = this.plots[name].model, { left, top, width, height } = this.plots[name].frame.bbox;
    const across = (x) => left + ((x - x_range.start) / (x_range.end - x_range.start)) * width;
    const down = (y) => top + height - ((y - y_range.start) / (y_range.end - y_range.start)) * height;
    const x = (px) => x_range.start + ((px - left) / width) * (x_range.end - x_range.start);
    return { left, top, width, height, across, down, x };
  }

  get seen() { return this.hidden.size < Object.values(this.sections).filter((section) => !section.body.hidden).length; }

  hold() {
    this.held = true;
    this.touched.append(this.back);
    this.root.classList.add("vitoolkit-zoomed");
  }

  release() {
    this.held = false;
    this.root.classList.remove("vitoolkit-zoomed");
    this.fresh = true;
    if (this.last) this.draw(this.last);
  }

  theme() {
    const css = getComputedStyle(document.body), get = (name, or) => css.getPropertyValue(name).trim() || or;
    const fg = ink(), soft = get("--jp-content-font-color2", "#666"), line = get("--jp-border-color2", "#ddd");
    const paper = get("--jp-layout-color0", "#fff");
    for (const model of this.doc._all_models.values()) {
      const { type, name } = model;
      if (type === "Figure") model.setv({ outline_line_color: line });
      else if (/Axis$/.test(type)) model.setv({ axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: soft, major_tick_line_color: soft });
      else if (/Grid$/.test(type)) model.setv({ grid_line_color: line, grid_line_alpha: 0.6 });
      else if (type !== "GlyphRenderer") continue;
      else if (name === "band") model.glyph.setv({ fill_color: fg });
      else if (name === "present") model.glyph.setv({ fill_color: fg, line_color: paper });
      else if (name === "iso") model.glyph.setv({ line_color: soft });
      else if (["mean_line", "ghost", "marks", "stops", "drawn"].includes(name)) model.glyph.setv({ line_color: fg });
    }
    if (this.last) this.draw(this.last);
  }

  draw(frame, names = Object.keys(this.sections)) {
    this.last = frame;
    if (!this.sources) return;
    const n = frame.step.length;
    this.root.dataset.empty = String(n === 0 || !this.views);
    this.ours = true;
    if (n && !this.held) this.steps(frame);
    for (const name of names) {
      const section = this.sections[name];
      if (this.hidden.has(name) || section.hidden || section.body.hidden) { this.stale.add(name); continue; }
      this.stale.delete(name);
      this.paint(name, frame, n);
    }
    this.fresh = false;
    this.ours = false;
    this.ticks();
  }

  along(first, last, edge) { // the step axis, and from where on the others fit
    const { steps } = this.ranges, start = Math.min(first, 0);
    if (!steps) return; // words only
    if (this.fresh || steps.end !== edge || steps.start !== start) steps.setv({ start, end: edge });
    // The fall from the starting point would flatten all that follows: the y axes fit the later steps.
    this.from = last - this.fit.late * (last - first);
    if (this.fresh) for (const [name, range] of Object.entries(this.ranges)) if (name !== "steps") range.setv({ start: 0.1, end: 1e30 });
  }

  ticks() {
    if (!this.last?.step.length) return; // nothing to put numbers on
    for (const [name, axes] of Object.entries(this.axes)) {
      const { start, end } = this.ranges[name], log = axes[0].type === "LogAxis"; // Bokeh's own scale
      const scale = log ? logScale(1) : this.scale[name] ?? LINEAR, key = `${start} ${end} ${scale.name}`;
      if (axes[0].__key === key || end > 1e29) continue;
      axes[0].__key = key;
      let [places, words] = log ? ticksOf(scale, Math.log10(start), Math.log10(end)) : ticksOf(scale, start, end);
      if (log) places = places.map((place) => 10 ** place);
      for (const axis of axes) {
        for (const view of this.views?.find(axis) ?? []) { // Bokeh keeps the words of ticks that are gone, and warns of each
          for (const word of view._major_label_views.values()) word.remove();
          view._major_label_views.clear();
        }
        axis.major_label_overrides = new Map(places.map((place, i) => [place, words[i]]));
        axis.ticker.ticks = places;
      }
    }
  }

  settle(name, found, log) { if (!this.held && found) settle(this.ranges[name], found, log); }

  close() {
    this.sight.disconnect();
    this.also?.disconnect();
    this.views?.clear?.();
    this.doc?.clear();
    this.root.remove();
  }
}
