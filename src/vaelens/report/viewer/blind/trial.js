// One trial after another: the images of a trial in three views, by keys, mouse and touch, and the answers.
//
// The images are canvases of one size, drawn before they are shown: no address, no decoding, and the same element for
// whichever decoder. What is called A, B and X is all that an element says.

const SHOWN_KEYS = { a: "A", b: "B", x: "X", original: "original" };

// plan: of `planTrials`. images[i](decoder) draws from: the decoded image of a decoder of panel i, or of the original
// for null. Returns { root, relabel, close, done }: done gives [{ answer, ms, zoom }, ...] for the trials answered.
function showTrials(test, images) {
  const root = document.getElementById("blind-trial").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const [stage, choices] = [part("stage"), part("choices")];
  const answerButtons = [...root.querySelectorAll("[data-answer]")];
  const keys = { abx: ["a", "x", "b"], better: ["a", "b"], closer: ["a", "original", "b"] }[test.test];
  const sliderPairs = keys.length < 3 ? [keys] : [[keys[0], keys[1]], [keys[1], keys[2]], [keys[0], keys[2]]];
  const answers = [];
  let zoom = test.zoom;
  let view = test.test === "abx" || innerWidth < NARROW ? "flicker" : "beside";
  let divider = 50;
  let [shown, sides] = [0, 0]; // what flicker and slider show: indices of keys and sliderPairs
  let seen, startedAt, sources, drawnFor;
  let finish;
  const done = new Promise((resolve) => (finish = resolve));

  const figures = keys.map(() => {
    const figure = stage.appendChild(document.createElement("figure"));
    figure.append(document.createElement("canvas"), document.createElement("figcaption"));
    return figure;
  });
  const line = stage.appendChild(document.createElement("i")); // the divider
  line.className = "line";

  const label = (key) => (key === "original" ? say("original") : SHOWN_KEYS[key]);

  function next() {
    const trial = test.plan[answers.length];
    if (!trial) return finish(answers);
    seen = new Set();
    [shown, sides, divider] = [0, 0, 50];
    const decoders = { a: trial.a, b: trial.b, x: trial[trial.x], original: null };
    sources = keys.map((key) => ({ from: images[trial.image](decoders[key]), region: trial.region }));
    draw();
    startedAt = performance.now();
    relabel();
    stage.focus({ preventScroll: true });
    return undefined;
  }

  // Each image's pixel is a square of whole device pixels.
  function draw() {
    const by = devicePixels(zoom);
    drawnFor = devicePixelRatio;
    figures.forEach((figure, i) => {
      const { from, region } = sources[i];
      const canvas = figure.firstElementChild;
      Object.assign(canvas, { width: exactLength(region.width * by), height: exactLength(region.height * by) });
      Object.assign(canvas.style, { width: `${canvas.width / devicePixelRatio}px`, height: `${canvas.height / devicePixelRatio}px` });
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(from, region.left, region.top, region.width, region.height, 0, 0, region.width * by, region.height * by);
    });
    part("scale").textContent = `${zoom}×`;
    fitColumns();
    enter(view);
  }

  // CSS px in a row of images.
  function room() {
    const mat = part("mat");
    return mat.clientWidth - 2 * parseFloat(getComputedStyle(mat).paddingLeft);
  }

  // Beside each other: A and B always in one row or one column; the original between them or above.
  function fitColumns() {
    const each = figures[0].firstElementChild.width / devicePixelRatio + GAP;
    const columns = Math.floor((room() + GAP) / each);
    stage.dataset.columns = clamp(columns, 1, figures.length);
    root.querySelector("[data-view=beside]").hidden = test.test === "abx" || columns < 2;
    if (view === "beside" && columns < 2) enter("flicker");
    alignToScreen();
  }

  // Where an image began between two of the screen's pixels, the browser might resample it.
  function alignToScreen() {
    const images = figures.map((figure) => figure.firstElementChild);
    for (const image of images) Object.assign(image.style, { left: "", top: "" });
    const places = images.map((image) => image.getBoundingClientRect());
    const missing = (at) => `${exactLength(Math.round(at * devicePixelRatio)) / devicePixelRatio - at}px`;
    images.forEach((image, i) => Object.assign(image.style, { left: missing(places[i].left), top: missing(places[i].top) }));
  }

  function fits(magnification) {
    const width = (sources[0].region.width * devicePixels(magnification)) / devicePixelRatio;
    return (view === "beside" ? 2 * width + GAP : width) <= room();
  }

  // The next magnification up or down, if the image still fits.
  function zoomAfter(step) {
    const next = ZOOMS[ZOOMS.indexOf(zoom) + step];
    return step < 0 || (next && fits(next)) ? next : undefined;
  }

  // After the window has changed.
  function refit() {
    if (!sources) return;
    const before = zoom;
    while (view !== "beside" && !fits(zoom) && zoomAfter(-1)) zoom = zoomAfter(-1);
    if (drawnFor === devicePixelRatio && zoom === before) fitColumns();
    else draw();
  }

  function zoomBy(step) {
    if (!zoomAfter(step)) return;
    zoom = zoomAfter(step);
    draw();
  }

  function enter(next) {
    if (next === "beside" && root.querySelector("[data-view=beside]").hidden) return;
    [view, root.dataset.view] = [next, next];
    for (const button of root.querySelectorAll(".views button")) button.setAttribute("aria-pressed", button.dataset.view === view);
    const list = view === "slider" ? sliderPairs.map((pair) => pair.map(label).join(" | ")) : keys.map(label);
    choices.hidden = view === "beside";
    if (choices.children.length !== list.length)
      choices.replaceChildren(...list.map(() => Object.assign(document.createElement("button"), { type: "button" })));
    [...choices.children].forEach((button, i) => (button.textContent = list[i]));
    const byTouch = matchMedia("(pointer: coarse)").matches;
    const hint = view === "slider" ? (byTouch ? "dragHint" : "sliderKeys") : byTouch ? "tapHint" : "trialKeys";
    root.querySelector(".hint").textContent = say(hint, { keys: keys.map((key) => key[0].toUpperCase()).join(" ") });
    show();
    alignToScreen();
    for (const [name, step] of [["in", 1], ["out", -1]]) part(name).disabled = !zoomAfter(step);
  }

  // Shows what the view has chosen; only that counts as seen.
  function show() {
    const visible = { beside: keys, flicker: [keys[shown]], slider: sliderPairs[sides] }[view];
    figures.forEach((figure, i) => {
      figure.className = visible.includes(keys[i]) ? "visible" : "";
      figure.style.clipPath = view === "slider" && keys[i] === visible[0] ? `inset(0 ${100 - divider}% 0 0)` : "";
      figure.style.zIndex = view === "slider" && keys[i] === visible[0] ? "1" : "";
    });
    line.style.left = `${divider}%`;
    [...choices.children].forEach((button, i) => button.setAttribute("aria-pressed", i === (view === "slider" ? sides : shown)));
    visible.forEach((key) => seen.add(key));
    const looked = keys.every((key) => seen.has(key));
    for (const button of answerButtons) button.disabled = !looked;
    part("look").classList.toggle("done", looked);
  }

  function turn(by) {
    if (view === "slider") sides = (sides + by + sliderPairs.length) % sliderPairs.length;
    else if (view === "flicker") shown = (shown + by + keys.length) % keys.length;
    show();
  }

  function turnTo(key) {
    if (view !== "flicker") enter("flicker");
    shown = keys.indexOf(key);
    show();
  }

  function slide(percent) {
    divider = clamp(percent, 0, 100);
    show();
  }

  function answer(key) {
    if (answerButtons[0].disabled) return;
    answers.push({ answer: key, ms: Math.round(performance.now() - startedAt), zoom });
    next();
  }

  async function stop() {
    if (await confirmed("stopTitle", "stopAbout", "stopStay", "stop")) finish(answers);
    else stage.focus({ preventScroll: true });
  }

  function onKey(event) {
    const typing = event.target.closest?.("dialog") || (event.target.closest?.("button") && [" ", "Enter"].includes(event.key));
    if (event.repeat || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const along = (by) => (view === "slider" ? slide(divider + 5 * by) : turn(by));
    const actions = {
      1: () => answer("a"), 2: () => answer("b"), " ": () => turn(1), ArrowRight: () => along(1), ArrowLeft: () => along(-1),
      d: () => enter("beside"), f: () => enter("flicker"), s: () => enter("slider"),
      "+": () => zoomBy(1), "=": () => zoomBy(1), "-": () => zoomBy(-1), Escape: stop,
      ...Object.fromEntries(keys.map((key) => [key[0], () => turnTo(key)])),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  // In the slider a pointer drags the divider.
  function onPointer(event) {
    if (event.button !== 0 || view !== "slider") return;
    const box = figures[0].getBoundingClientRect();
    const to = (moved) => slide((100 * (moved.clientX - box.left)) / box.width);
    stage.setPointerCapture(event.pointerId);
    stage.onpointermove = to;
    stage.onpointerup = stage.onpointercancel = () => (stage.onpointermove = null);
    to(event);
  }

  function relabel() {
    const values = { number: Math.min(answers.length + 1, test.plan.length), count: test.plan.length };
    part("question").textContent = say(`${test.test}Question`);
    part("count").textContent = say("trialOf", values);
    Object.assign(part("progress"), { max: values.count, value: answers.length });
    figures.forEach((figure, i) => {
      figure.lastElementChild.textContent = label(keys[i]);
      figure.firstElementChild.setAttribute("role", "img");
      figure.firstElementChild.setAttribute("aria-label", say("imageNamed", { name: label(keys[i]) }));
    });
    for (const button of answerButtons)
      button.firstElementChild.textContent = say(`${test.test}Answer`, { name: SHOWN_KEYS[button.dataset.answer] });
    if (sources) enter(view);
  }

  document.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", onPointer);
  stage.addEventListener("click", () => view === "flicker" && turn(1));
  part("views").addEventListener("click", (event) => enter(event.target.closest("button")?.dataset.view ?? view));
  choices.addEventListener("click", (event) => {
    const i = [...choices.children].indexOf(event.target);
    if (i < 0) return;
    if (view === "slider") sides = i;
    else shown = i;
    show();
  });
  part("in").addEventListener("click", () => zoomBy(1));
  part("out").addEventListener("click", () => zoomBy(-1));
  part("stop").addEventListener("click", stop);
  // The second click of a double click would answer a trial that nobody has seen.
  for (const button of answerButtons) button.addEventListener("click", ({ detail }) => detail < 2 && answer(button.dataset.answer));
  // After a click the keys work again: space on a focused button would press it once more.
  root.addEventListener("click", ({ detail, target }) => detail && !target.closest("dialog, .stop") && stage.focus({ preventScroll: true }));
  const observer = new ResizeObserver(refit);
  observer.observe(part("mat"));
  addEventListener("resize", refit); // a page that is zoomed in a wide window keeps the width of its parts
  translate(root);

  function close() {
    observer.disconnect();
    removeEventListener("resize", refit);
    document.removeEventListener("keydown", onKey);
    root.remove();
  }

  return { root, relabel, close, done, start: next };
}

// Device pixels for an image's pixel at a magnification.
const devicePixels = (zoom) => zoom * Math.max(1, Math.round(devicePixelRatio));

// The browser lays out in 64ths of a CSS pixel. This is the next number of device pixels that is such a length: a canvas
// of another side, or at another place, would be resampled. What it has beyond its image is empty.
function exactLength(pixels) {
  const parts = (side) => (64 * side) / devicePixelRatio;
  const isExact = (side) => Math.abs(parts(side) - Math.round(parts(side))) < 1e-3; // a ratio such as 1.1 is a rounded number
  for (let side = pixels; side < pixels + 64; side++) if (isExact(side)) return side;
  return pixels;
}
