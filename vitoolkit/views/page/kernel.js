// A kernel that is gone: restarted, dead, or shut down in mid-fit.
const GONE = ["dead", "restarting", "autorestarting", "terminating"];

function whenGone(model, el, act) {
  const cut = () => { if (el.classList.contains("jupyter-widgets-disconnected")) act(); };
  const soon = () => setTimeout(cut); // when the view has taken note
  const told = (kernel, status) => { if (GONE.includes(status)) act(); };
  const kernel = model.widget_manager?.kernel, signals = [kernel?.statusChanged, kernel?.disposed];
  const over = () => act();
  model.on("comm_live_update", soon);
  signals[0]?.connect(told);
  signals[1]?.connect(over);
  return () => {
    model.off("comm_live_update", soon);
    signals[0]?.disconnect(told);
    signals[1]?.disconnect(over);
  };
}

function goneWords(s) {
  const at = s.done ? ` after step ${count(s.done)}` : "";
  const left = s.saved ? `what was exported is in ${s.saved}` : "the record went with it, the charts show what was drawn before";
  return `the kernel is gone${at}: ${left}`;
}
