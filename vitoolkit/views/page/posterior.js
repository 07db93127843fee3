// Prior beside posterior: the paths of a few coordinates of q, and a list of all, what moves first.

// A frame holds some of the coordinates, and the paths when they are new: the rest is as it was.
function withPosterior(before, frame) {
  const old = before?.posterior, { q } = frame;
  frame.posterior = old;
  if (!q) return frame;
  const empty = () => new Float32Array(q.count).fill(NaN);
  const kept = old?.low.length === q.count ? old : { low: empty(), middle: empty(), high: empty(), moved: empty(), picked: [], step: [], ends: [], middles: [] };
  const now = (frame.posterior = { ...kept });
  ["low", "middle", "high"].forEach((name, k) => now[name].set(frame.q_now[k], q.from));
  now.moved.set(frame.q_moved, q.from);
  if (frame.q_averaged) {
    now.averaged ??= [empty(), empty(), empty()];
    now.averaged.forEach((ends, k) => ends.set(frame.q_averaged[k], q.from));
  }
  if (q.paths) Object.assign(now, { picked: q.picked, step: frame.q_step, ends: frame.q_ends, middles: frame.q_middles ?? [] });
  return frame;
}

class CoordinateList extends SearchedList {
  constructor({ lines, prior, unconstrained, most, variables, averages }, { pick }) {
    super(lines, { what: lines.length === variables ? "variables" : "coordinates" });
    this.looks = ["prior", "now", ...(averages ? ["averaged"] : [])];
    Object.assign(this, { prior, most, pick, unconstrained: new Set(unconstrained), picked: [] });
  }

  show(now) {
    this.now = now;
    this.picked = this.asked ?? now.picked;
    if (this.asked && String(this.asked) === String(now.picked)) this.asked = null;
    this.calmly();
    this.render();
  }

  size(i) { return this.now.moved[i]; }

  row(i) {
    const [name, color, dash] = this.lines[i];
    const row = tag("button", "vitoolkit-row vitoolkit-coordinate"), bar = tag("span", "bar");
    row.type = "button";
    for (const look of this.looks) bar.append(tag("i", look), tag("i", `${look} median`));
    for (const piece of [...bar.children].slice(2)) piece.style.background = piece.style.color = color;
    row.append(swatch(color, dash), tag("span", "name", name), bar, tag("span", "value"), tag("span", "share"));
    row.onclick = () => this.click(i);
    return row;
  }

  fill(row, i) {
    const { low, middle, high, moved } = this.now, name = this.lines[i][0], prior = this.prior?.map((ends) => ends[i]);
    const known = prior && prior.every((end) => end !== null), now = [low[i], middle[i], high[i]], mean = this.now.averaged?.map((ends) => ends[i]);
    const all = [...now, ...(known ? prior : []), ...(mean ?? [])].filter(Number.isFinite), from = Math.min(...all), wide = Math.max(...all) - from || 1;
    const place = (value) => `${4 + (92 * (value - from)) / wide}%`;
    const pieces = row.children[2].children;
    [known ? prior : null, now, mean].slice(0, this.looks.length).forEach((ends, look) => {
      const there = Boolean(ends?.every(Number.isFinite)), k = 2 * look;
      pieces[k].hidden = pieces[k + 1].hidden = !there;
      if (!there) return;
      Object.assign(pieces[k].style, { left: place(ends[0]), width: `${(92 * (ends[2] - ends[0])) / wide}%` });
      pieces[k + 1].style.left = place(ends[1]);
    });
    const words = (ends) => `${short(ends[1])} (${short(ends[0])}, ${short(ends[2])})`;
    const scale = this.unconstrained.has(i) ? ", on the unconstrained scale" : "";
    row.children[3].textContent = words(now);
    row.children[4].textContent = Number.isFinite(moved[i]) ? `${moved[i].toPrecision(2)} sd` : "–";
    row.setAttribute("aria-pressed", String(this.picked.includes(i)));
    row.classList.toggle("vitoolkit-lineless", !this.picked.includes(i));
    row.setAttribute("aria-label", `${name}, ${words(now)}, ${mean ? `at the average ${words(mean)}, ` : ""}moved ${row.children[4].textContent}`);
    const line = (of, ends) => `\n${of}: median ${short(ends[1])}, 68 % in ${short(ends[0])} to ${short(ends[2])}`;
    row.title = `${name}${scale}${line(mean ? "q as it is" : "posterior", now)}${mean ? line("q at the average of its iterates", mean) : ""}`
      + (known ? line("prior", prior) : "\nno prior to compare")
      + `\nmoved ${row.children[4].textContent} in the last tenth of the steps\nclick to show or hide its path`;
  }

  click(i) {
    const { picked } = this;
    this.asked = this.picked = picked.includes(i) ? picked.filter((j) => j !== i) : [...picked, i].slice(-this.most);
    this.pick(this.picked);
    this.render();
  }
}

const BROAD = { width: 5, alpha: 0.4, dash: [] }; // the path of an average, in the color of its variable

// What the charts of a fit do with it.
class PosteriorCharts {
  constructor(charts, q, send) {
    this.charts = charts;
    this.q = q;
    const { posterior, coordinates } = charts.sections;
    let seen = true;
    const tell = () => send({ kind: "coordinates", picked: this.list.asked ?? this.list.picked, seen });
    this.list = new CoordinateList(q, { pick: tell });
    coordinates.head.append(tag("span", "vitoolkit-soft", q.words));
    if (q.averages) {
      const words = tag("span", "vitoolkit-soft vitoolkit-averages", "hollow: q at the average of its iterates");
      words.title = "what fit.averaged, or inference.averaged, samples from";
      coordinates.head.append(words);
    }
    const sorted = tag("span", "vitoolkit-soft vitoolkit-sorted", "moved in the last tenth");
    sorted.title = "how far q moved in the last tenth of the steps, in its sd: a mean that wanders, an sd that still changes";
    coordinates.head.append(sorted);
    this.list.put(coordinates.body);
    for (const note of q.notes) coordinates.body.append(tag("div", "vitoolkit-soft vitoolkit-note", note));
    if (q.averages) posterior.head.append(tag("span", "vitoolkit-soft vitoolkit-averages", "broad: the average of the iterates"));
    posterior.head.append((this.chips = tag("div", "vitoolkit-chips")));
    const hidden = new Set([posterior.body, coordinates.body]);
    charts.also = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) isIntersecting ? hidden.delete(target) : hidden.add(target);
      if (seen === hidden.size < 2) return;
      seen = hidden.size < 2;
      this.tell(tell);
    });
    for (const body of [posterior.body, coordinates.body]) charts.also.observe(body);
  }

  tell(tell) { if (this.list.now?.picked) tell(); }

  paths(frame) {
    const { picked, step, ends, middles } = frame.posterior, k = picked.length;
    const x = Float32Array.from(step, (at) => this.charts.along_x(at));
    return { x, lines: picked.map((i, j) => ({ i, line: this.q.lines[i], low: ends[j], middle: ends[k + j], high: ends[2 * k + j], mean: middles[j] })) };
  }

  draw(frame) {
    if (!frame.posterior) return;
    const { x, lines } = this.paths(frame), { charts } = this, back = [...x].reverse();
    charts.lines("posterior", lines.map(({ line }) => line), lines.map(({ middle }) => middle), x, () => true);
    const averaged = lines.filter(({ mean }) => mean);
    charts.lines("posterior_averaged", averaged.map(({ line }) => line), averaged.map(({ mean }) => mean), x, () => true, undefined, BROAD);
    charts.sources.posterior_band.data = {
      xs: lines.map(() => [...x, ...back]), ys: lines.map(({ low, high }) => [...low, ...[...high].reverse()]), color: lines.map(({ line }) => line[1]),
    };
    charts.settle("posterior", span(lines.flatMap(({ low, high }) => [low, high]), x, charts.from, Infinity));
    const key = lines.map(({ i }) => i).join();
    if (this.shown === key) return;
    this.shown = key;
    this.chips.replaceChildren(...lines.map(({ line: [name, color, dash] }) => {
      const chip = tag("span", "vitoolkit-chip");
      chip.append(swatch(color, dash), tag("span", "name", name));
      return chip;
    }));
    if (!lines.length) this.chips.append(tag("span", "vitoolkit-soft", "click a row of the list to see its path"));
  }

  read(frame, i) {
    if (!frame.posterior?.step.length) return [];
    const { lines } = this.paths(frame), k = nearest(frame.posterior.step, frame.step[i] + 1);
    return lines.map(({ line: [name, color, dash], low, middle, high, mean }) => [[color, dash], `${name}: `,
      `${fine(middle[k])} (${fine(low[k])}, ${fine(high[k])})${mean ? `, at the average ${fine(mean[k])}` : ""}`]);
  }
}
