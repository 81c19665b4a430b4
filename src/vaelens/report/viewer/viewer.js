// The viewer as a page uses it: vaelensViewer.show(container, panels), and the help on its keys.

const KEYS = [
  ["s f h", "keyModes"], [["keySpace"], "keySwap"], ["1 … 9", "keyNumber"], ["← → ↑ ↓", "keyArrows"],
  ["+ − 0", "keyZoom"], ["← → ↑ ↓", "keyRow"], ["n b", "keyJump"], ["p", "keyPixel"], ["?", "keyHelp"],
  [["wheel"], "wheelDoes"], [["drag"], "dragDoes"], [["double"], "doubleDoes"], [["tap"], "tapDoes"],
]; // keys, or in brackets the name of a text; and the name of what they do
const shownIn = new WeakMap(); // container -> its panels

function showHelp() {
  const dialog = document.getElementById("help").content.firstElementChild.cloneNode(true);
  const list = dialog.querySelector("dl");
  for (const [keys, does] of KEYS) {
    const term = list.appendChild(document.createElement("dt"));
    term.textContent = Array.isArray(keys) ? say(keys[0]) : keys;
    list.appendChild(document.createElement("dd")).textContent = say(does);
  }
  translate(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  document.body.append(dialog);
  dialog.showModal();
}

// Shows panels in a container and closes those shown in it before. A panel is
// { title, note, width, height, layers: [{ name, note, src }], boxes: [{ label, left, top, right, bottom, glyph }] },
// where note and boxes are optional; src is a PNG of the panel's size, a data: URL or one of the page's own origin.
function show(container, panels) {
  for (const { relabel, close } of shownIn.get(container) ?? []) {
    relabels.delete(relabel);
    close();
  }
  const built = panels.map(build);
  shownIn.set(container, built);
  for (const { root, relabel } of built) {
    relabels.add(relabel);
    container.append(root);
  }
}

window.vaelensViewer = { show };
offerLanguages();
const data = document.getElementById("data");
if (data) show(document.querySelector("main"), JSON.parse(data.textContent));
