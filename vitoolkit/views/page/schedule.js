// The editor of a control's schedule: another end or length, and the shape that Apply would give it.

const SVG = "http://www.w3.org/2000/svg";
const shape = (name, attributes) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const WIDE = 96, HIGH = 26;

class ScheduleEditor {
  constructor(row) {
    this.row = row;
    this.asked = 0;
    this.open = tag("button", "vitoolkit-schedule");
    this.open.type = "button";
    this.open.title = "give its schedule another end or length";
    this.open.setAttribute("aria-label", `schedule of ${row.spec.name}: ${this.open.title}`);
    const icon = shape("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" });
    icon.append(shape("path", { d: "M1.5 2v12.5H14.5M3.5 11.5C8 11.5 8 4.5 13 4.5", fill: "none", stroke: "currentColor", "stroke-width": 1.6 }));
    this.open.append(icon);
    this.root = tag("div", "vitoolkit-editor");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", `schedule of ${row.spec.name}`);
    this.end = this.field("goes to", "vitoolkit-end");
    this.steps = this.field("at step", "vitoolkit-steps");
    this.apply = tag("button", "vitoolkit-button", "Apply");
    this.apply.type = "button";
    this.apply.title = "from the present value to this end, reached at this step";
    this.picture = shape("svg", { width: WIDE, height: HIGH, viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "vitoolkit-preview" });
    this.words = tag("span", "vitoolkit-refused");
    this.words.setAttribute("role", "alert");
    this.root.append(this.picture, this.apply, this.words);
    this.turn(false);
    this.open.addEventListener("click", () => (this.root.hidden ? this.begin() : this.done()));
    this.apply.addEventListener("click", () => this.ask("reschedule"));
    this.root.addEventListener("input", () => this.ask("preview"));
    this.root.addEventListener("keydown", ({ key, target }) => {
      if (key === "Escape") this.done();
      if (key === "Enter" && target !== this.apply) this.ask("reschedule");
    });
    this.steps.addEventListener("change", () => { if (this.numbers().steps) this.steps.value = count(this.numbers().steps); });
  }

  field(words, look) {
    const label = tag("label", "", words), input = tag("input", look);
    Object.assign(input, { type: "text", inputMode: "decimal", autocomplete: "off" });
    label.append(input);
    this.root.append(label);
    return input;
  }

  numbers() {
    const read = ({ value }) => (value.trim() === "" ? NaN : Number(value.replace(/[\s,_']/g, "")));
    return { end: read(this.end), steps: read(this.steps) };
  }

  turn(on) {
    this.root.hidden = !on;
    this.open.setAttribute("aria-expanded", String(on));
  }

  begin() {
    const { schedule, value } = this.row.model.get("state");
    this.end.value = schedule.end ?? number(value, 4);
    this.steps.value = schedule.steps == null ? "" : count(schedule.steps);
    this.turn(true);
    this.end.focus();
    this.end.select();
    this.ask("preview");
  }

  done() {
    this.turn(false);
    this.open.focus();
  }

  ask(kind) { this.row.send({ kind, ...this.numbers(), number: ++this.asked }); }

  show({ schedule, who }) {
    this.open.style.visibility = schedule && who !== "not used" ? "" : "hidden";
    if (!schedule) this.turn(false);
  }

  heard({ kind, number, values = [], error = "", applied = false }) {
    if (kind !== "preview" || number !== this.asked || this.root.hidden) return;
    if (applied) return this.done();
    this.words.textContent = error;
    this.draw(values);
  }

  draw(values) {
    const low = Math.min(...values), reach = Math.max(...values) - low || 1, n = values.length;
    const x = (i) => 3 + (i / (n - 1)) * (WIDE - 8), y = (value) => HIGH - 4 - ((value - low) / reach) * (HIGH - 8);
    this.picture.style.visibility = n ? "" : "hidden";
    this.picture.replaceChildren();
    if (!n) return;
    const line = values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    this.picture.append(shape("path", { d: line, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }));
    this.picture.append(shape("circle", { cx: x(n - 1), cy: y(values[n - 1]), r: 2.5, fill: "currentColor" }));
    this.picture.setAttribute("aria-label", `from ${short(values[0])} to ${short(values[n - 1])}, at step ${count(this.numbers().steps)}`);
  }
}
