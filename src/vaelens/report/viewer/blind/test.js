// A blind test from the first screen to the last. Meanwhile the document holds nothing else: what it showed, its data
// and its title are kept in memory, and so is the key to the trials.

const MOST_PANELS = 24; // of a page, which may hold hundreds: each is loaded in all its versions

// subject: { panels, blind, sealed, save }: the panels of `show`; blind is { page, vaelens, decoders }; sealed says that
// the page hasn't shown the names yet; save(text) stores a result elsewhere, or is null.
async function openBlindTest(subject) {
  const panels = subject.panels.filter((panel) => panel.layers.filter((layer) => layer.decoder !== null).length > 1);
  const only = { ...subject, panels };
  const restore = clearPage();
  const screen = document.querySelector(".blind .screen");
  let settings = null;
  for (let again = true; again;) {
    const setup = enterScreen(screen, showSetup(only, settings));
    const test = await prepared(setup, only);
    leaveScreen(setup);
    if (!test) break;
    settings = test;
    guardResult(true);
    const trials = enterScreen(screen, showTrials(test, test.images));
    trials.start();
    test.answers = await trials.done;
    leaveScreen(trials);
    if (!test.answers.length) guardResult(false);
    const outcome = enterScreen(screen, showOutcome(makeResult(test, only), subject.save, subject.sealed));
    again = (await outcome.done) === "again";
    leaveScreen(outcome);
    guardResult(false);
  }
  restore();
}

// The settings with plan and images; null for someone who leaves. What can't be loaded is said on the setup's screen.
async function prepared(setup, subject) {
  for (let refused = ""; ;) {
    const settings = await setup.done(refused);
    if (!settings) return null;
    try {
      return await makeTest(settings, subject);
    } catch (error) {
      refused = say("notLoaded", { reason: error.message.replace(/\.$/, "") });
    }
  }
}

async function makeTest(settings, { panels }) {
  const images = await loadImages(panels, choosePanels(panels, settings));
  const plan = planTrials({ ...settings, places: placeFinder(panels, images, settings) });
  return { ...settings, plan, run: randomHex(16), images };
}

function enterScreen(place, screen) {
  relabels.add(screen.relabel);
  place.replaceChildren(screen.root);
  scrollTo(0, 0);
  screen.root.querySelector("h1").focus({ preventScroll: true });
  return screen;
}

function leaveScreen(screen) {
  relabels.delete(screen.relabel);
  screen.close();
}

// Takes everything but the templates out of the document and puts the test's frame there; the function that it returns
// puts all back.
function clearPage() {
  const [title, at, focused] = [document.title, [scrollX, scrollY], document.activeElement];
  const all = [...document.body.childNodes];
  for (const node of all) if (node.nodeName !== "TEMPLATE") node.remove();
  const frame = document.getElementById("blind-page").content.firstElementChild.cloneNode(true);
  document.body.prepend(frame);
  offerLanguages(frame);
  const retitle = () => (document.title = say("blindTitle"));
  relabels.add(retitle);
  retitle();
  return () => {
    relabels.delete(retitle);
    frame.remove();
    document.body.append(...all);
    document.title = title;
    setLanguage(language);
    requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(...at))); // once the panels have their sizes again
    focused?.focus?.({ preventScroll: true });
  };
}

// The panels that a test shows: random ones, at least one for each pair of decoders.
function choosePanels(panels, { pairs, test }) {
  const order = shuffled(panels);
  const first = pairs.map((pair) => order.find((panel) => suits(panel, pair, test)));
  const useful = order.filter((panel) => pairs.some((pair) => suits(panel, pair, test)));
  return [...new Set([...first, ...useful])].slice(0, Math.max(MOST_PANELS, pairs.length));
}

// For each of the chosen panels a function from a decoder's number, or null for the original, to its decoded image; for
// the others null. All are loaded before the first trial, in random order.
async function loadImages(panels, chosen) {
  const images = new Map();
  for (const layer of shuffled(chosen.flatMap((panel) => panel.layers))) {
    const image = Object.assign(new Image(), { src: layer.src });
    await image.decode();
    images.set(layer, image);
  }
  performance.clearResourceTimings();
  const layerOf = (panel) => (decoder) => images.get(panel.layers.find((layer) => layer.decoder === decoder));
  return panels.map((panel) => (chosen.includes(panel) ? layerOf(panel) : null));
}
