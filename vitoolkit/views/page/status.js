// The status line: where the fit stands. The page counts the seconds of compiling by itself.
const PHASES = {
  waiting: "waiting", compiling: "compiling", running: "running", paused: "paused",
  finished: "finished", stopped: "stopped", interrupted: "interrupted", failed: "failed",
};

// Notebook 7 takes the arrow keys for its shortcuts, unless the very element that has the focus refuses.
if (!window.__vitoolkit_keys) {
  window.__vitoolkit_keys = true;
  document.addEventListener("focusin", ({ target }) => {
    if (target.closest?.(".vitoolkit-panel")) target.setAttribute("data-lm-suppress-shortcuts", "true");
  });
}

function renderStatus({ model, el }) {
  const root = tag("div", "vitoolkit vitoolkit-status");
  root.setAttribute("role", "status");
  const phase = tag("span", "vitoolkit-phase"), dot = tag("i", "vitoolkit-dot"), word = tag("span");
  const bar = tag("div", "vitoolkit-bar"), fill = tag("div"), message = tag("span", "vitoolkit-message");
  const [steps, speed, left, loss, elbo] = ["19ch", "12ch", "9ch", "9ch", "10ch"].map((width) => {
    const cell = tag("span");
    cell.style.minWidth = width;
    return cell;
  });
  phase.append(dot, word);
  bar.append(fill);
  root.append(phase, steps, speed, left, loss, elbo, bar, message);
  el.append(root);

  let heard = performance.now();
  const number = (cell, name, value) => {
    cell.replaceChildren();
    if (value != null) cell.append(tag("span", "vitoolkit-soft", `${name} `), tag("b", "", short(value)));
  };
  const show = () => {
    const s = model.get("status"), since = (performance.now() - heard) / 1000;
    const compiling = s.phase === "compiling";
    word.textContent = compiling
      ? `compiling (${Math.floor((s.seconds ?? 0) + since)} s)` : PHASES[s.phase] ?? s.phase;
    root.classList.toggle("vitoolkit-busy", compiling || s.phase === "running");
    root.dataset.phase = s.phase;
    const known = s.n != null && s.n > 0;
    fill.style.width = known ? `${Math.min(100, (100 * (s.done ?? 0)) / s.n)}%` : "0";
    steps.textContent = s.done == null ? s.compiles ?? "" : known ? `step ${count(s.done)} of ${count(s.n)}` : `step ${count(s.done)}`;
    speed.textContent = s.rate ? `${s.rate < 100 ? short(s.rate) : count(s.rate)} steps/s` : "";
    left.textContent = s.phase === "running" && s.left != null ? `${duration(s.left)} left`
      : s.took != null ? `took ${duration(s.took)}` : "";
    number(loss, "loss", s.loss);
    number(elbo, "ELBO", s.elbo);
    message.textContent = s.message || s.advice || (s.phase === "running" && s.prepared) || "";
    message.classList.toggle("vitoolkit-advice", !s.message);
  };
  const changed = () => { heard = performance.now(); show(); };
  model.on("change:status", changed);
  const timer = setInterval(() => model.get("status").phase === "compiling" && show(), 250);
  show();
  const away = keys(el);
  return () => { away(); clearInterval(timer); model.off("change:status", changed); root.remove(); };
}

export default { render: renderStatus };
