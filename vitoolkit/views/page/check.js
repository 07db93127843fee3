// A slider that measures how soon Python answers it.
const PATIENCE = 3000;

function renderCheck({ model, el }) {
  const root = tag("div", "vitoolkit vitoolkit-check"), words = tag("p"), late = tag("p", "vitoolkit-soft");
  const slider = tag("input");
  Object.assign(slider, { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", "a slider to test with");
  words.setAttribute("role", "status");
  slider.dataset.lmSuppressShortcuts = "true"; // the arrows would be taken by the notebook
  root.append(words, slider, late);
  el.append(root);
  const sent = new Map();
  let number = 0, timer = 0;
  slider.addEventListener("input", () => {
    sent.set(++number, performance.now());
    model.send({ kind: "moved", number });
    clearTimeout(timer);
    timer = setTimeout(() => {
      late.textContent = `No answer to ${sent.size === 1 ? "a move" : `${sent.size} moves`} in ${PATIENCE / 1000} s: the kernel hears nothing while it is busy, `
        + "or this page has no kernel. Wait for the end of the cell; then move the slider again.";
    }, PATIENCE);
  });
  const heard = (content) => {
    if (content?.kind !== "heard" || !sent.has(content.number)) return;
    const ms = performance.now() - sent.get(content.number);
    sent.delete(content.number);
    if (!sent.size) { clearTimeout(timer); late.textContent = ""; }
    model.send({ kind: "measured", when: content.when, ms });
  };
  const say = () => { words.textContent = model.get("words"); };
  model.on("msg:custom", heard);
  model.on("change:words", say);
  say();
  model.send({ kind: "here" });
  return () => { clearTimeout(timer); model.off("msg:custom", heard); model.off("change:words", say); root.remove(); };
}

export default { render: renderCheck };
