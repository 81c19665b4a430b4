// Steps from one labelled box to the next: eyes, letters and others.

const KNOWN = ["eye", "iris", "mouth", "face"]; // labels with a translated title; others are shown as they are

// Returns { step(by), relabel() }. Without boxes the control stays hidden and a step does nothing.
function makeBoxControl(panel, part, region) {
  const groups = new Map();
  for (const box of panel.boxes ?? []) {
    const key = box.glyph ? "letters" : box.label;
    const name = `${box.glyph ? "glyph" : "label"} ${key}`; // a user's label may be "letters", too
    if (!groups.has(name)) groups.set(name, { boxes: [], title: box.glyph || KNOWN.includes(key) ? key : null, label: key });
    groups.get(name).boxes.push(box);
  }
  const ordered = [...groups.values()].sort((a, b) => rank(a) - rank(b));
  const [choice, place] = [part("where-to"), part("which")];
  let at = null; // the index of the current box in its group, or null

  // Eyes first, then letters: what a decoder is chosen for.
  function rank({ title }) {
    return title === "eye" ? 0 : title === "letters" ? 1 : title ? 2 : 3;
  }

  function step(by) {
    if (!ordered.length) return;
    const { boxes } = ordered[choice.value];
    at = at === null ? (by > 0 ? 0 : boxes.length - 1) : (at + by + boxes.length) % boxes.length;
    region.lookAt(boxes[at]);
    showPlace();
  }

  function showPlace() {
    const { boxes, title } = ordered[choice.value];
    const letter = title === "letters" && at !== null ? `${boxes[at].label} ` : "";
    place.textContent = `${letter}${at === null ? "–" : at + 1} / ${boxes.length}`;
  }

  function relabel() {
    const names = ordered.map(({ title, label, boxes }) => say("group", { name: title ? say(title) : label, count: boxes.length }));
    [...choice.options].forEach((option, i) => (option.textContent = names[i]));
  }

  if (ordered.length) {
    part("jump").hidden = false;
    choice.append(...ordered.map((_, i) => new Option("", i)));
    choice.addEventListener("change", () => {
      at = null;
      step(1);
    });
    part("back").addEventListener("click", () => step(-1));
    part("next").addEventListener("click", () => step(1));
    relabel();
    showPlace();
  }
  return { step, relabel };
}
