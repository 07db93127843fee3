// What is told outside the panel: the title of the browser's tab, and a notification.
const TITLED = /^(?:▶ \d+ %|▶|⏸ \d+ %|⏸|compiling) · /;

const untitled = () => { // whatever stands there now, by whomever, without our words
  const plain = document.title.replace(TITLED, "");
  if (plain !== document.title) document.title = plain;
};

function titled(s) {
  const share = s.n > 0 && s.done != null ? ` ${Math.floor((100 * s.done) / s.n)} %` : "";
  const words = { compiling: "compiling", running: `▶${share}`, paused: `⏸${share}` }[s.phase];
  if (!words) return untitled();
  const title = `${words} · ${document.title.replace(TITLED, "")}`;
  if (title !== document.title) document.title = title;
}

// A browser asks for leave only when a person has just clicked.
function askLeave({ target }) {
  if (target.closest?.("button") && window.Notification?.permission === "default") Notification.requestPermission();
}

function notifier() {
  let phase = null, told = false;
  return (s) => {
    const ended = phase != null && phase !== s.phase && !["compiling", "running", "paused", "waiting"].includes(s.phase);
    const words = ended ? `${s.phase}: ${s.message || `${count(s.done ?? 0)} steps`}` : told ? "" : s.verdict ?? "";
    [phase, told] = [s.phase, Boolean(s.verdict)];
    if (words && !document.hasFocus() && window.Notification?.permission === "granted") {
      new Notification(`Fit in ${document.title.replace(TITLED, "")}`, { body: words, tag: "vitoolkit" });
    }
  };
}
