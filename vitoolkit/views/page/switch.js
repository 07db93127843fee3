// One switch: a check box with its name. Only a click is sent to Python, with a number; what is shown
// is the hand's until Python has heard it, or for a while.
const LONGEST = 5000; // ms for an answer

export default {
  render({ model, el }) {
    const { name, words } = model.get("spec"), page = Math.random().toString(36).slice(2);
    const root = tag("label", "vitoolkit-toggle"), box = tag("input");
    let sent = 0, waiting = "", patience;
    const show = () => {
      const { on, heard } = model.get("state");
      if (heard === waiting) waiting = "";
      if (!waiting) box.checked = on;
    };
    box.type = "checkbox";
    box.addEventListener("change", () => {
      waiting = `${page} ${++sent}`;
      clearTimeout(patience);
      patience = setTimeout(() => { waiting = ""; show(); }, LONGEST);
      model.send({ kind: "set", on: box.checked, number: waiting });
    });
    root.title = words;
    root.append(box, tag("span", "", name));
    el.append(root);
    model.on("change:state", show);
    show();
    return () => { clearTimeout(patience); model.off("change:state", show); root.remove(); };
  },
};
