// The status line: where the fit stands. The page counts the seconds of compiling by itself.
const PHASES = {
  waiting: "waiting", compiling: "compiling", running: "running", paused: "paused",
  finished: "finished", stopped: "stopped", interrupted: "interrupted", failed: "failed", gone: "kernel gone",
};
const LIVE = ["waiting", "compiling", "running", "paused"];
const HOLD = { start: "waits for Start before its first step", resume: "will pause before its first step" };
const BUTTON = { "": ["Pause", "pause"], start: ["Start", "play"], resume: ["Resume", "play"] };

function renderStatus({ model, el }) {
  const root = tag("div", "vitoolkit vitoolkit-status");
  const phase = tag("span", "vitoolkit-phase"), dot = tag("i", "vitoolkit-dot"), word = tag("span");
  const bar = tag("div", "vitoolkit-bar"), fill = tag("div"), message = tag("div", "vitoolkit-message");
  const spoken = tag("div", "vitoolkit-spoken"); // to those who listen: what changes rarely
  spoken.setAttribute("role", "status");
  const [steps, speed, left, loss, elbo] = ["19ch", "12ch", "8ch", "11ch", "12ch"].map((width) => {
    const cell = tag("span");
    cell.style.minWidth = width;
    return cell;
  });
  phase.append(dot, word);
  bar.append(fill);
  root.append(phase, steps, speed, left, loss, elbo, bar, message, spoken);
  el.append(root);

  let heard = performance.now(), pressed = null, gone = false;
  const number = (cell, name, value) => {
    cell.replaceChildren();
    if (value != null) cell.append(tag("span", "vitoolkit-soft", `${name} `), tag("b", "", short(value)));
  };
  const compileWords = (s, holding) => [
    s.compiles, s.before && `took ${s.before < 10 ? s.before.toFixed(1) : Math.round(s.before)} s last time`, HOLD[holding],
  ].filter(Boolean).join("; ");
  const show = () => {
    const s = model.get("status"), since = (performance.now() - heard) / 1000;
    const at = gone ? "gone" : s.phase, compiling = at === "compiling", holding = pressed ?? s.holding ?? "";
    word.textContent = compiling
      ? `compiling (${Math.floor((s.seconds ?? 0) + since)} s)` : at === "paused" && holding === "start" ? "ready" : PHASES[at] ?? at;
    root.classList.toggle("vitoolkit-busy", compiling || at === "running");
    root.dataset.phase = at;
    const known = s.n > 0;
    fill.style.width = known ? `${Math.min(100, (100 * (s.done ?? 0)) / s.n)}%` : "0";
    if (known) steps.style.minWidth = `${2 * count(s.n).length + 7}ch`;
    steps.textContent = s.done == null ? "" : known ? `step ${count(s.done)} of ${count(s.n)}` : `step ${count(s.done)}`;
    speed.textContent = at === "running" && s.rate ? `${s.rate < 100 ? short(s.rate) : count(s.rate)} steps/s` : "";
    left.textContent = at === "running" && s.left != null ? `${duration(s.left)} left`
      : s.took != null ? `took ${duration(s.took)}` : "";
    number(loss, "loss", s.loss);
    number(elbo, "ELBO", s.elbo);
    const silent = at === "running" && since > 30 ? `no word from the kernel for ${duration(since)}` : "";
    const soft = compiling ? compileWords(s, holding) : at === "paused" && holding === "start"
      ? "press Start; what you set before is in force from the first step" : silent || s.verdict || (at === "running" && s.prepared) || "";
    message.textContent = gone ? goneWords(s) : s.message || soft;
    message.title = message.textContent;
    message.classList.toggle("vitoolkit-quiet", !gone && !s.message);
    root.classList.toggle("vitoolkit-over", !LIVE.includes(at));
    const said = compiling ? `compiling ${s.compiles ?? ""}` : gone ? goneWords(s) : at === "failed" ? "the fit has failed" : `the fit is ${word.textContent}`;
    if (spoken.textContent !== said) spoken.textContent = said;
    gone ? untitled() : titled(s);
  };
  const notify = model.get("_notify") ? notifier() : () => {};
  const changed = () => { heard = performance.now(); pressed = null; show(); notify(model.get("status")); };
  model.on("change:status", changed);
  const timer = setInterval(() => { if (["compiling", "running"].includes(model.get("status").phase) && !gone) show(); }, 500);
  const undo = [() => clearInterval(timer), () => model.off("change:status", changed), untitled];
  show();
  // While the kernel compiles it hears nothing: the page says that it has heard.
  const press = async ({ target }) => {
    const s = model.get("status");
    if (s.phase !== "compiling" || gone || !target.closest?.(".vitoolkit-pause")) return;
    pressed = (pressed ?? s.holding) ? "" : "resume";
    show();
    const button = await model.widget_manager.get_model(model.get("_pause").replace("IPY_MODEL_", ""));
    const [description, icon] = BUTTON[pressed];
    button.set("description", description);
    button.set("icon", icon);
  };
  const dies = () => {
    if (gone || !LIVE.includes(model.get("status").phase)) return;
    gone = true;
    el.closest(".vitoolkit-panel")?.classList.add("vitoolkit-gone");
    show();
  };
  const settle = () => { // when it is on the page
    if (!el.isConnected) return void requestAnimationFrame(settle);
    model.send({ kind: "here" });
    const panel = el.closest(".vitoolkit-panel"), helm = el.closest(".vitoolkit-helm");
    undo.push(whenGone(model, el, dies));
    if (!panel || !helm) return;
    panel.addEventListener("click", press, true);
    if (model.get("_notify")) panel.addEventListener("click", askLeave, true);
    undo.push(keepAtHand(panel, helm));
    if (["waiting", "compiling"].includes(model.get("status").phase)) undo.push(bringIntoView(panel, `vitoolkit ${el.id || model.get("_pause")}`));
  };
  requestAnimationFrame(settle);
  undo.push(keys(el));
  return () => { for (const act of undo) act(); root.remove(); };
}

export default { render: renderStatus };
