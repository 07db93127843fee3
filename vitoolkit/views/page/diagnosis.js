// The button of an ended fit that asks whether it can be trusted. It stands under the verdict: of the picture
// that took the panel's place, or in a panel that stayed.
const LABELS = { ready: "Diagnose", busy: "diagnosing …", done: "Diagnose again", failed: "Diagnose" };
const LATE = 1500; // ms until the notebook has put what was found into the picture, if it does

class Diagnosis {
  constructor(model) {
    this.model = model;
    this.root = tag("div", "vitoolkit vitoolkit-diagnosis");
    this.button = tag("button", "vitoolkit-plain");
    this.button.type = "button";
    this.button.title = "k-hat, widths by linear response, what still moves: takes seconds, beside other cells";
    this.button.onclick = () => { this.pressed = true; model.send({ kind: "diagnose" }); };
    this.words = tag("span", "vitoolkit-soft");
    this.words.setAttribute("role", "status");
    this.found = tag("div");
    this.root.append(this.found, this.button, this.words);
    this.show = this.show.bind(this);
    model.on("change:state", this.show);
    this.leave = whenGone(model, this.root, () => this.close());
    this.show();
  }

  show() {
    const { phase, found, words } = this.model.get("state"), place = this.model.get("_place");
    this.button.textContent = LABELS[phase];
    this.button.setAttribute("aria-disabled", String(phase === "busy"));
    const said = phase === "done" ? "diagnosed" : words;
    if (this.words.textContent !== said) this.words.textContent = said;
    this.words.classList.toggle("vitoolkit-spoken", phase === "done");
    clearTimeout(this.late);
    this.found.innerHTML = place ? "" : found;
    // A page that was loaded in mid-fit gets no word to the cell's output.
    if (place && found) this.late = setTimeout(() => { if (!this.kept) this.found.innerHTML = found; }, LATE);
  }

  get kept() { return Boolean(this.root.parentNode?.querySelector(":scope > .vitoolkit-diagnosed")); }

  async follow() { // into the picture, and into the next one when the notebook draws it anew
    const place = await appears(`[data-vitoolkit="${this.model.get("_place")}"]`), verdict = place?.querySelector(".vitoolkit-verdict");
    if (!verdict || this.closed) return;
    verdict.append(this.root);
    this.found.innerHTML = "";
    // Who pressed it, and does not write meanwhile, is where they were.
    if (this.pressed && !document.activeElement?.closest("input, textarea, [contenteditable=true]")) this.button.focus({ preventScroll: true });
    this.pressed = false;
    whenCleared(place, () => (document.querySelector(`[data-vitoolkit="${this.model.get("_place")}"]`) ? this.follow() : this.close()));
  }

  close() {
    this.closed = true;
    clearTimeout(this.late);
    this.model.off("change:state", this.show);
    this.leave();
    this.root.remove();
  }
}

export default {
  initialize({ model }) {
    if (!model.get("_place")) return;
    const diagnosis = new Diagnosis(model);
    diagnosis.follow();
    return () => diagnosis.close();
  },
  render({ model, el }) {
    const diagnosis = new Diagnosis(model);
    el.append(diagnosis.root);
    return () => diagnosis.close();
  },
};
