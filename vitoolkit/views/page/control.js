// One control: its name, a slider, a number box, who has the wheel, and the editor of its schedule.
// Only what a hand does is sent to Python, so that a value shown can never come back as a wish.

const nice = (size) => { // the next of 1, 2, 5, 10, 20 ...
  const power = 10 ** Math.floor(Math.log10(size)), rest = size / power;
  return power * (rest <= 1.0001 ? 1 : rest <= 2.0001 ? 2 : rest <= 5.0001 ? 5 : 10);
};
const digits = (value, n) => Number(value.toPrecision(n));
const number = (value, n) => {
  const size = Math.abs(value), rounded = digits(value, n);
  return size && (size < 1e-3 || size >= 1e5) ? rounded.toExponential().replace("e+", "e") : String(rounded);
};

// Places from 0 to 1 along a slider, and the steps that a key takes there.
const PLACES = {
  linear: (low, high) => ({
    place: (value) => (value - low) / (high - low),
    value: (place) => low + place * (high - low),
    step: () => nice((high - low) / 200),
  }),
  whole: (low, high) => ({ ...PLACES.linear(low, high), step: () => 1, grid: 1 }),
  log: (low, high) => {
    const decades = Math.log10(high / low);
    return {
      place: (value) => Math.log10(Math.max(value, low) / low) / decades,
      value: (place) => low * 10 ** (place * decades),
      ratio: 10 ** 0.02,
    };
  },
  weight: (low, high) => ({ // half of its length up to 1, where a hand comes to rest
    place: (value) => (value <= 1 ? value / 2 : 0.5 + (value - 1) / (high - 1) / 2),
    value: (place) => (place <= 0.5 ? 2 * place : 1 + (2 * place - 1) * (high - 1)),
    step: (value, up) => (value < 1 || (value === 1 && !up) ? 0.01 : nice((high - 1) / 200)),
    mark: 1,
  }),
};
const HANDLE = 24, REST = 4; // pixels: width of the handle, and how near to a mark it snaps
const EVERY = 30, PATIENCE = 5000; // ms between two moves sent, and for an answer

class Row {
  constructor(model, el) {
    this.model = model;
    this.spec = model.get("spec");
    this.page = Math.random().toString(36).slice(2);
    this.sent = 0;
    this.last = -Infinity;
    this.root = tag("div", "vitoolkit-control");
    this.root.__vitoolkit = this; // for those who look at the page from outside, such as tests
    const { name, words } = this.spec, line = tag("div", "vitoolkit-line"), track = tag("div", "vitoolkit-track");
    this.root.dataset.control = name;
    const title = tag("span", "vitoolkit-name", name);
    title.title = words;
    this.slider = tag("input", "vitoolkit-slider");
    Object.assign(this.slider, { type: "range", min: 0, max: 1, step: "any" });
    this.slider.setAttribute("aria-label", name);
    this.box = tag("input", "vitoolkit-box");
    Object.assign(this.box, { type: "number", step: this.spec.scale === "whole" ? 1 : "any" });
    this.box.setAttribute("aria-label", `${name}, number`);
    this.low = tag("span", "vitoolkit-low");
    this.high = tag("span", "vitoolkit-high");
    this.wheel = tag("button", "vitoolkit-wheel");
    this.wheel.type = "button";
    this.editor = new ScheduleEditor(this);
    track.append(this.slider);
    if (this.spec.scale === "weight") track.append(tag("span", "vitoolkit-one", "1"));
    line.append(title, this.low, track, this.high, this.box, this.wheel, this.editor.open);
    this.hint = tag("div", "vitoolkit-hint");
    this.hinted = tag("span");
    this.use = tag("button", "vitoolkit-button", "use it");
    this.use.type = "button";
    this.hint.append(this.hinted, this.use);
    this.root.append(line, this.hint, this.editor.root);
    el.append(this.root);
    this.hands();
    this.show();
  }

  hands() {
    const { slider, box, wheel } = this;
    slider.addEventListener("input", () => this.move(this.at(Number(slider.value))));
    slider.addEventListener("keydown", (event) => this.key(event));
    slider.addEventListener("pointerdown", () => (this.dragged = true));
    for (const end of ["pointerup", "pointercancel", "blur"]) slider.addEventListener(end, () => { this.dragged = false; this.show(); });
    box.addEventListener("input", () => (this.typed = true));
    box.addEventListener("change", () => this.enter());
    box.addEventListener("blur", () => { this.typed = false; this.show(); });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.enter();
      if (event.key === "Escape") { this.typed = false; this.show(); }
      if (event.key === "ArrowUp" || event.key === "ArrowDown") this.key(event);
    });
    this.use.addEventListener("click", () => this.move(this.model.get("state").suggestion));
    wheel.addEventListener("click", () => this.send({ kind: "wheel", auto: this.model.get("state").who !== "auto" }));
  }

  at(place) { // the value at a place, on a grid that is finer than a key's
    const { scale } = this, width = this.slider.clientWidth - HANDLE;
    if (scale.mark && Math.abs(place - scale.place(scale.mark)) * width < REST) return scale.mark;
    const value = scale.value(place);
    if (place <= 0 || place >= 1) return place <= 0 ? this.low_ : this.high_;
    if (scale.ratio) return this.within(digits(value, 3));
    const grid = scale.grid ?? scale.step(value, true) / 5;
    return this.within(digits(Math.round(value / grid) * grid, 12));
  }

  within(value) { return Math.min(Math.max(value, this.low_), this.high_); }

  key(event) {
    const { scale, value } = this, ways = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    const ends = { Home: this.low_, End: this.high_ }, many = ways[event.key];
    if (!(event.key in ends) && !many) return;
    event.preventDefault();
    let next = ends[event.key];
    if (many) {
      const step = scale.ratio ? 0 : scale.step(value, many > 0);
      next = scale.ratio ? digits(value * scale.ratio ** many, 3) : digits((Math.round(value / step) + many) * step, 12);
      if (scale.mark && (next - scale.mark) * (value - scale.mark) < 0) next = scale.mark;
    }
    this.move(this.within(next));
  }

  move(value) { // a hand has moved it: shown at once, and said at most every 30 ms
    if (value === this.value) return;
    this.put(value);
    this.box.value = number(value, 4);
    this.typed = false;
    this.root.dispatchEvent(new CustomEvent("vitoolkit-moved", { detail: value, bubbles: true }));
    const since = performance.now() - this.last;
    clearTimeout(this.later);
    const say = () => { this.last = performance.now(); this.ask(value); };
    this.await("soon");
    this.later = since < EVERY ? setTimeout(say, EVERY - since) : say();
  }

  enter() {
    if (!this.typed) return; // said already
    const value = this.box.valueAsNumber;
    this.typed = false;
    Number.isFinite(value) ? this.ask(value) : this.show();
  }

  ask(value) {
    this.await(`${this.page} ${++this.sent}`);
    this.send({ kind: "set", value, number: this.waiting });
  }

  await(answer) { // until then, or for a while, what is shown is the hand's
    clearTimeout(this.patience);
    this.waiting = answer;
    if (answer) this.patience = setTimeout(() => { this.waiting = ""; this.show(); }, PATIENCE);
  }

  send(message) { this.model.send(message); }

  put(value) {
    this.value = value;
    const place = this.scale.place(value);
    this.slider.value = place;
    this.slider.style.setProperty("--at", Math.min(Math.max(place, 0), 1));
    this.slider.setAttribute("aria-valuetext", short(value));
  }

  show() { // what Python says, except for what a hand is at
    const state = this.model.get("state"), { value, low, high, who, can, why } = state;
    if (low !== this.low_ || high !== this.high_) {
      [this.low_, this.high_] = [low, high];
      this.scale = PLACES[this.spec.scale](low, high);
      this.low.textContent = number(low, 3);
      this.high.textContent = number(high, 3);
    }
    if (this.waiting && state.heard === this.waiting) this.await("");
    if (!this.waiting && !this.dragged && !this.typed) {
      this.put(value);
      this.box.value = number(value, 4);
    }
    const used = who !== "not used";
    this.slider.disabled = this.box.disabled = !used;
    this.slider.title = used ? "" : why;
    this.wheel.disabled = !can;
    this.wheel.textContent = this.wheel.dataset.who = who;
    this.wheel.title = why;
    this.wheel.setAttribute("aria-label", `${who}: ${this.spec.name} ${why}`);
    this.editor.show(state);
    // Its line stays when it was used: no slider moves under a hand.
    const { suggestion } = state;
    this.hint.hidden = suggestion == null || !used;
    if (this.hint.hidden) return;
    this.hinted.textContent = `lr_find suggests ${number(suggestion, 3)}`;
    this.use.setAttribute("aria-label", `set ${this.spec.name} to ${number(suggestion, 3)}, as lr_find suggests`);
    this.use.disabled = value === suggestion;
  }

  close() {
    clearTimeout(this.later);
    clearTimeout(this.patience);
    this.root.remove();
  }
}


export default {
  render({ model, el }) {
    const row = new Row(model, el), show = () => row.show(), heard = (message) => row.editor.heard(message);
    model.on("change:state", show);
    model.on("msg:custom", heard);
    return () => { model.off("change:state", show); model.off("msg:custom", heard); row.close(); };
  },
};
