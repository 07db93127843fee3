// Where the panel is on the page: scrolled into view once, and its handles at hand beside the charts.

function scroller(el) { // what scrolls the panel through the window
  for (let at = el.parentElement; at; at = at.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(at).overflowY) && at.scrollHeight > at.clientHeight + 1) return at;
  }
  return document.scrollingElement;
}

// For a moment after it has appeared and has its size, which a busy machine brings late: the notebook
// still makes room for it and for the next cell. Only until a person does anything else.
function bringIntoView(panel, key) {
  if (sessionStorage.getItem(key)) return () => {}; // a page that is loaded again
  sessionStorage.setItem(key, "shown");
  let began = performance.now(), size = 0;
  const hands = ["wheel", "touchstart", "pointerdown", "keydown"];
  let timer;
  const stop = () => { clearInterval(timer); for (const name of hands) document.removeEventListener(name, stop, true); };
  for (const name of hands) document.addEventListener(name, stop, { capture: true, passive: true });
  const look = () => {
    const view = scroller(panel), window_ = view.getBoundingClientRect();
    const top = view === document.scrollingElement ? 0 : window_.top, height = view.clientHeight;
    if (panel.offsetHeight !== size) { size = panel.offsetHeight; began = performance.now(); }
    const { top: above, bottom } = panel.getBoundingClientRect();
    const far = above > top + 2 * height || bottom < top - height; // somebody reads elsewhere
    if (performance.now() - began > 3000 || far) return stop();
    if (above < top || bottom > top + height) {
      const room = above - top - 8; // the whole panel if it fits, its upper part otherwise
      const wanted = Math.min(room, Math.max(bottom - top - height + 8, room > 0 ? 0 : room));
      if (Math.abs(wanted) > 1) view.scrollTop += wanted;
    }
  };
  timer = setInterval(look, 100);
  return stop;
}

// The handles stay on top while one scrolls the charts, unless they would cover half of what is seen.
function keepAtHand(panel, helm) {
  const look = () => {
    const fits = helm.offsetHeight < 0.5 * scroller(panel).clientHeight;
    panel.classList.toggle("vitoolkit-at-hand", fits);
  };
  const observer = new ResizeObserver(look);
  observer.observe(helm);
  window.addEventListener("resize", look);
  return () => { observer.disconnect(); window.removeEventListener("resize", look); };
}
