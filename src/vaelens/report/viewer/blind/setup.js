// What a blind test should be: asked before the first trial. Names of decoders appear here only where the page has shown
// them already.

const ZOOMS = [1, 2, 3, 4, 6, 8, 12, 16];
const DEFAULT_ZOOM = 4;
const TRIALS = { least: 4, most: 200, usual: 16 }; // the last for each pair
const OFTEN = 0.75; // right, or of one mind: three times out of four
const NARROW = 720; // CSS px of a window in which images beside each other would be too small
const VIEW = { least: 160, most: 480, widest: 1080, beside: 40, around: 350, aroundNarrow: 430 }; // CSS px of a trial's images, and around them

// subject: see `openBlindTest`. Returns { root, relabel, close, done }: done() gives { test, pairs, decoders, kinds, zoom, count,
// person }, or null for someone who leaves.
function showSetup(subject, before) {
  const root = document.getElementById("blind-setup").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const chosen = (name) => [...root.querySelectorAll(`[name=${name}]:checked`)].map((input) => input.value);
  const kinds = [...boxKinds(subject.panels), "difference", "random"];
  let typed = Boolean(before); // whether the person has chosen the number of trials
  let finish;

  const decoders = subject.blind.decoders.map((_, i) => i).filter((i) => subject.panels.some((panel) => shows(panel, i)));
  part("decoders").hidden = subject.sealed || decoders.length < 3;
  for (const i of decoders) {
    const name = addOption("decoders", "decoder", i, before?.decoders.includes(i) ?? true);
    if (!subject.sealed) name.textContent = subject.blind.decoders[i].name;
  }
  const kindNames = kinds.map((kind) => [kind, addOption("kinds", "kind", kind, before?.kinds.includes(kind) ?? true)]);
  part("closer").hidden = !subject.panels.some(originalOf);
  part("magnification").append(...ZOOMS.map((zoom) => new Option(`${zoom}×`, zoom)));
  part("magnification").value = before?.zoom ?? DEFAULT_ZOOM;
  if (before) {
    part("trials").value = before.count;
    part("person").value = before.person;
    root.querySelector(`[value=${before.test}]`).checked = true;
  }
  part("leave").hidden = subject.sealed;

  function addOption(place, name, value, checked) {
    const label = part(place).appendChild(document.createElement("label"));
    label.className = "option";
    label.append(Object.assign(document.createElement("input"), { type: "checkbox", name, value, checked }));
    return label.appendChild(document.createElement("span"));
  }

  function read() {
    const trials = part("trials");
    const count = trials.validity.badInput || trials.value.trim() === "" ? NaN : Number(trials.value);
    const test = chosen("test")[0];
    const pairs = pairsShown(subject.panels, chosen("decoder").map(Number), test);
    return {
      test, pairs, kinds: chosen("kind"), count, zoom: Number(part("magnification").value),
      decoders: chosen("decoder").map(Number), person: wholeCharacters(part("person").value.trim()),
    };
  }

  // What is wrong with the settings, or "".
  function refusal({ count, pairs, kinds, test }) {
    if (!(Number.isInteger(count) && count >= TRIALS.least && count <= TRIALS.most)) return say("badTrials", TRIALS);
    if (!pairs.length) return say(test === "closer" ? "noOriginal" : "twoDecoders");
    if (pairs.length > count) return say("moreTrials", { pairs: pairs.length });
    return kinds.length ? "" : say("noPlaces");
  }

  function relabel() {
    for (const [kind, place] of kindNames) place.textContent = kindName(kind);
    if (!typed) part("trials").value = Math.min(TRIALS.most, TRIALS.usual * Math.max(1, read().pairs.length));
    const settings = read();
    const bad = refusal(settings);
    part("refusal").textContent = "";
    part("power").textContent = bad ? "" : powerHint(settings);
  }

  part("trials").addEventListener("input", () => (typed = true));
  root.addEventListener("input", relabel);
  root.addEventListener("submit", (event) => {
    event.preventDefault();
    const settings = read();
    const bad = refusal(settings);
    part("refusal").textContent = bad;
    if (bad) return;
    part("primary").disabled = true; // until the images are loaded
    part("power").textContent = say("loadingImages");
    finish(settings);
  });
  part("leave").addEventListener("click", () => finish(null));
  translate(root);
  relabel();

  // The next settings; `refused` says why the last ones couldn't be used.
  function done(refused = "") {
    part("refusal").textContent = refused;
    part("primary").disabled = false;
    return new Promise((resolve) => (finish = resolve));
  }

  return { root, relabel, done, close: () => root.remove() };
}

// A browser may cut what is pasted in the middle of a character.
const wholeCharacters = (text) => text.replace(/\p{Surrogate}/gu, "");

// The one-sided p to reach: a preference may go either way.
const levelOf = (test) => (test === "abx" ? 0.05 : 0.025);

function powerHint({ test, count, pairs }) {
  const each = Math.floor(count / pairs.length);
  const abx = test === "abx";
  const chance = percent(power(each, OFTEN, levelOf(test)));
  const values = { count: each, chance, same: sameCount(test, count) };
  const tooFew = fewestHits(each, levelOf(test)) === null;
  const hint = say(tooFew ? "tooFewPower" : abx ? "abxPower" : "preferencePower", values);
  return [pairs.length > 1 ? say("pairsOf", { pairs: pairs.length, count: each }) : "", hint, abx ? "" : say("sameAbout", values)].filter(Boolean).join(" ");
}

const shows = (panel, decoder) => panel.layers.some((layer) => layer.decoder === decoder);
const originalOf = (panel) => panel.layers.find((layer) => layer.decoder === null);
// Whether a panel can be used for a pair in a test.
const suits = (panel, [i, j], test) => shows(panel, i) && shows(panel, j) && (test !== "closer" || originalOf(panel));
const pairsShown = (panels, decoders, test) => pairsOf(decoders).filter((pair) => panels.some((panel) => suits(panel, pair, test)));

// The side of the windows to show, in an image's pixels: so that a test's images fit beside each other, where the window
// is wide, or one of them alone.
function windowSide(test, zoom) {
  const narrow = innerWidth < NARROW;
  const across = narrow ? 1 : { abx: 1, better: 2, closer: 3 }[test];
  const row = Math.min(innerWidth - 2 * clamp(0.03 * innerWidth, 12, 40), VIEW.widest) - VIEW.beside; // as body in viewer.css
  const room = (row - GAP * (across - 1)) / across;
  const side = clamp(Math.min(room, innerHeight - (narrow ? VIEW.aroundNarrow : VIEW.around)), VIEW.least, VIEW.most);
  return Math.max(8, Math.floor((side * devicePixelRatio) / devicePixels(zoom)));
}
