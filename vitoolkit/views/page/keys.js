// The panel by keyboard: its keys are not the notebook's; the focus goes into what a button unfolds, and
// Escape closes that.
function keys(el) {
  const FIRST = "input, select, button";
  const within = (target) => {
    const panel = el.closest(".vitoolkit-panel");
    return panel?.contains(target) ? panel : null;
  };
  const heard = {
    focusin({ target }) { // else Enter and the arrows are the notebook's; Lumino asks the focus itself first
      if (within(target)) target.dataset.lmSuppressShortcuts = "true";
    },
    keydown({ key, target }) {
      const open = key === "Escape" && within(target)?.querySelector(".vitoolkit-buttons .mod-active");
      if (!open || target.closest(".vitoolkit-controls")) return;
      open.click();
      open.focus();
    },
    click({ target }) { // one goes on in what Note, Rewind and Export unfold
      const toggle = target.closest?.(".vitoolkit-buttons button"), drawer = within(target)?.querySelector(".vitoolkit-drawer");
      if (!toggle || !drawer) return;
      const look = new MutationObserver((changes) => {
        const added = changes.flatMap(({ addedNodes }) => [...addedNodes]).filter(({ matches }) => matches);
        const first = added.map((node) => (node.matches(FIRST) ? node : node.querySelector(FIRST))).find(Boolean);
        if (!first) return;
        look.disconnect();
        if (toggle.matches(".mod-active") && [toggle, document.body].includes(document.activeElement)) first.focus();
      });
      look.observe(drawer, { childList: true, subtree: true });
      setTimeout(() => look.disconnect(), 10000);
    },
  };
  // Heard on the way down: a text box of ipywidgets lets no key up.
  for (const [name, act] of Object.entries(heard)) document.addEventListener(name, act, true);
  return () => { for (const [name, act] of Object.entries(heard)) document.removeEventListener(name, act, true); };
}
