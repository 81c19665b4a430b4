// The viewer as a page uses it: vaelensViewer.show(container, panels, blind, save), and the help on its keys.

const KEYS = [
  ["s f h", "keyModes"], [["keySpace"], "keySwap"], ["1 … 9", "keyNumber"], ["← → ↑ ↓", "keyArrows"],
  ["+ − 0", "keyZoom"], ["← → ↑ ↓", "keyRow"], ["n b", "keyJump"], ["p", "keyPixel"], ["?", "keyHelp"],
  [["wheel"], "wheelDoes"], [["drag"], "dragDoes"], [["double"], "doubleDoes"], [["tap"], "tapDoes"],
]; // keys, or in brackets the name of a text; and the name of what they do
const shownIn = new WeakMap(); // container -> its panels, and the offer of a blind test

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
// { title, note, width, height, layers: [{ name, note, src, decoder, latents }],
// boxes: [{ label, left, top, right, bottom, glyph }] }, where note and boxes are optional; src is a PNG of the panel's
// size, a data: URL or one of the page's own origin; decoder is null for an original, else its number in blind.decoders;
// latents the sha256 of what it decoded, or null. With `blind`, { page, vaelens, decoders: [{ name, encoder, decoder }] },
// a blind test is offered; save(text), a promise, stores its result.
function show(container, panels, blind = null, save = null) {
  const before = shownIn.get(container);
  for (const { relabel, close } of before?.built ?? []) {
    relabels.delete(relabel);
    close();
  }
  before?.offer?.remove();
  const offer = blind && offerBlindTest({ panels, blind, save, sealed: false });
  const built = panels.map(build);
  shownIn.set(container, { built, offer });
  if (offer) container.append(offer);
  for (const { root, relabel } of built) {
    relabels.add(relabel);
    container.append(root);
  }
}

function offerBlindTest(subject) {
  const offer = document.getElementById("blind-offer").content.firstElementChild.cloneNode(true);
  offer.querySelector(".begin").addEventListener("click", () => openBlindTest(subject));
  translate(offer);
  return offer;
}

// A page whose texts are sealed begins with the test, and shows itself afterwards.
async function openSealed({ sealed, images }) {
  const bytes = Uint8Array.from(atob(sealed), (one) => one.charCodeAt(0));
  const { title, body, panels, blind } = JSON.parse(new TextDecoder().decode(bytes));
  for (const panel of panels) for (const layer of panel.layers) layer.src = images[layer.src];
  await openBlindTest({ panels, blind, save: null, sealed: true });
  const page = Object.assign(document.createElement("template"), { innerHTML: body });
  document.body.prepend(page.content);
  document.title = title;
  offerLanguages();
  show(document.querySelector("main"), panels, blind);
}

window.vaelensViewer = { show };
offerLanguages();
const data = document.getElementById("data");
const content = data && JSON.parse(data.textContent);
if (content?.sealed) {
  data.remove();
  openSealed(content);
} else if (content) show(document.querySelector("main"), content.panels, content.blind);
