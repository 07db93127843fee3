// The panel by keyboard: its keys are not the notebook's, and Escape closes what a button has unfolded.
function keys(el) {
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
  };
  for (const [name, act] of Object.entries(heard)) document.addEventListener(name, act);
  return () => { for (const [name, act] of Object.entries(heard)) document.removeEventListener(name, act); };
}
