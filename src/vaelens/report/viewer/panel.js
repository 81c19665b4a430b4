// One image's panel: the large view in three modes (slider, flicker, heat map) and all versions in a row.
// Texts are set as textContent, never as markup.

const STEP = 1.5; // zoom by a button or a key
const GAP = 16; // px between images of the row, as in viewer.css
const MODES = ["slider", "flicker", "heat"];
const MAX_GAIN = 6; // as a power of two
const DEFAULT_GAIN = 3; // likewise; x8 shows what a good decoder still gets wrong

// Returns { root, relabel(), close() }; close stops timers and observers.
function build(panel) {
  const root = document.getElementById("panel").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const [stack, row, handle, under, over, flick, canvas] = ["stack", "row", "handle", "under", "over", "flick", "heat"].map(part);
  const { layers } = panel;
  let mode = "slider";
  let divider = 50;
  let shown = 0; // the layer that flicker shows
  let timer = 0; // of automatic flicker
  let mapped = null; // the two layers of the heat map, and their differences
  let closed = false;

  part("name").textContent = panel.title;
  part("why").textContent = panel.note ?? "";
  part("size").textContent = `${panel.width} × ${panel.height}`;
  Object.assign(canvas, { width: 1, height: 1 }); // until the heat map is shown
  const views = [stack, ...layers.map(addToRow)];
  const region = makeRegion(panel, views, (scale) => {
    root.classList.toggle("zoomed", scale > 1);
    part("scale").textContent = scale > 1 ? `${scale.toFixed(1)}×` : say("fit");
    readout?.place();
  });
  let readout = null;
  readout = makeReadout(panel, part, views, region);
  const jump = makeBoxControl(panel, part, region);

  function image(place, layer) {
    const image = place.appendChild(new Image());
    image.src = layer.src;
    image.alt = layer.name;
    image.draggable = false;
    return image;
  }

  function addToRow(layer) {
    const figure = row.appendChild(document.createElement("figure"));
    const view = figure.appendChild(document.createElement("div"));
    view.className = "view";
    image(view, layer);
    label(figure.appendChild(document.createElement("figcaption")), layer);
    return view;
  }

  function label(place, layer) {
    place.replaceChildren();
    for (const of of ["name", "note"]) {
      const line = place.appendChild(document.createElement("span"));
      line.className = of;
      line.textContent = layer[of] ?? "";
    }
  }

  // Sizes: whole multiples of the image's pixels where they fit, so that at rest no pixel is resampled.
  function layout() {
    const room = row.clientWidth;
    const count = layers.length;
    const each = Math.max((room - GAP * (count - 1)) / count, Math.min(220, (room - GAP) / 2));
    views.forEach((view, i) => {
      const most = Math.min(i ? each : room, 0.8 * Math.max(innerHeight, 400) * region.ratio);
      const natural = Math.max(panel.width, panel.height * region.ratio);
      const times = Math.max(1, Math.floor(Math.min(most, i ? 320 : 640) / natural));
      view.style.width = `${Math.min(most, times * natural)}px`;
      view.style.aspectRatio = region.ratio;
    });
    region.show();
  }

  const number = (side) => Number(part(side).value);
  const chosen = (side) => layers[number(side)];

  function enter(next) {
    if (next === mode) return;
    const focused = stack.contains(document.activeElement) && !document.activeElement.matches(".cross");
    [mode, root.dataset.mode] = [next, next];
    for (const button of root.querySelectorAll(".modes button"))
      button.setAttribute("aria-pressed", button.dataset.mode === mode);
    stack.tabIndex = mode === "slider" ? -1 : 0; // there the handle has the focus
    if (focused) (mode === "slider" ? handle : stack).focus({ preventScroll: true });
    if (mode === "flicker") turnTo(number("left"));
    else flickerAt(0);
    if (mode === "heat") map();
  }

  function slide(percent) {
    divider = clamp(percent, 0, 100);
    over.style.clipPath = `inset(0 ${100 - divider}% 0 0)`;
    handle.style.left = `${divider}%`;
    handle.setAttribute("aria-valuenow", Math.round(divider));
    handle.setAttribute("aria-valuetext", `${Math.round(divider)}% ${chosen("left").name}`);
  }

  // All layers lie over each other, decoded when shown (decoding = "sync"), so that none ever blinks.
  function turnTo(layer) {
    if (!flick.children.length) {
      for (const each of layers) image(flick, each).decoding = "sync";
      region.show();
    }
    shown = layer;
    [...flick.children].forEach((image, i) => (image.style.visibility = i === shown ? "inherit" : "hidden"));
    label(part("shown-label"), layers[shown]);
  }

  const swap = () => turnTo(shown === number("left") ? number("right") : number("left"));

  function byHand(turn) {
    const automatic = timer !== 0;
    flickerAt(0);
    if (mode === "flicker" && automatic) return; // keep the layer that was just shown
    enter("flicker");
    turn();
  }

  // Changes per second; 0 is off. Automatic changes are not announced to screen readers: that would never end.
  function flickerAt(often) {
    clearInterval(timer);
    timer = often ? setInterval(swap, 1000 / often) : 0;
    part("shown-label").setAttribute("aria-live", often ? "off" : "polite");
    for (const button of root.querySelectorAll(".often button"))
      button.setAttribute("aria-pressed", Number(button.dataset.often) === often);
  }

  async function map() {
    const [left, right] = [chosen("left"), chosen("right")];
    const gain = 2 ** part("gain").value;
    const names = { left: left.name, right: right.name, gain };
    canvas.setAttribute("aria-label", say("heatLabel", names));
    part("gain").setAttribute("aria-valuetext", `×${gain}`);
    part("gained").textContent = `×${gain}`;
    part("top").textContent = `≥ ${Math.ceil(255 / gain)} / 255`; // the smallest difference in the brightest colour
    if (mode !== "heat") return;
    if (mapped?.left !== left || mapped.right !== right) {
      stack.setAttribute("aria-busy", "true");
      const bytes = await Promise.all([left, right].map((layer) => pixelsOf(panel, layer))).catch(() => null);
      if (closed || left !== chosen("left") || right !== chosen("right")) return; // the selection has changed since
      stack.removeAttribute("aria-busy");
      if (!bytes) {
        mapped = null; // show no heat map rather than that of other layers
        return void Object.assign(canvas, { width: 1, height: 1 }); // which also empties it
      }
      mapped = { left, right, levels: differences(...bytes) };
      Object.assign(canvas, { width: panel.width, height: panel.height });
    }
    part("altered").hidden = readsExactly();
    draw(canvas, mapped.levels, 2 ** part("gain").value);
  }

  function gainTo(power) {
    part("gain").value = clamp(power, 0, MAX_GAIN);
    map();
  }

  function choose(side) {
    for (const [from, place] of [["left", over], ["right", under]]) {
      place.firstElementChild.src = chosen(from).src;
      place.firstElementChild.alt = chosen(from).name;
      label(part(`${from}-label`), chosen(from));
    }
    slide(divider);
    if (mode === "flicker" && side) turnTo(number(side));
    map();
  }

  function hold(event) {
    if (event.target === part("cross")) return readout.drag(event);
    const onHandle = event.target === handle;
    return (_, point) => {
      const slides = mode === "slider" && (onHandle || region.scale === 1);
      if (slides) slide(100 * point.u);
      return slides;
    };
  }

  function onKey(element, actions) {
    element.addEventListener("keydown", (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const action = actions[event.key];
      if (!action || action() === false) return;
      event.preventDefault();
    });
  }

  const [closer, farther] = [() => region.zoom(STEP), () => region.zoom(1 / STEP)];
  const to = (x, y) => () => region.move((0.1 * x) / region.scale, (0.1 * y) / region.scale);
  const common = {
    "+": closer, "=": closer, "-": farther, 0: region.reset,
    n: () => jump.step(1), b: () => jump.step(-1), p: readout.toggle, "?": showHelp,
    s: () => enter("slider"), f: () => enter("flicker"), h: () => enter("heat"),
  };
  // What the arrows do in each mode; false leaves the key to the page.
  const neighbour = (by) => byHand(() => turnTo((shown + by + layers.length) % layers.length));
  const inMode = (actions) => () => (actions[mode] ?? (() => false))();
  const along = (by) => inMode({
    slider: () => slide(divider + by), flicker: () => neighbour(by), heat: () => gainTo(Number(part("gain").value) + by),
  });
  const up = (by) => inMode({ slider: () => slide(divider + by), heat: () => gainTo(Number(part("gain").value) + by) });
  const onSlider = (action) => inMode({ slider: action });
  onKey(stack, {
    ...common,
    ...Object.fromEntries(layers.slice(0, 9).map((_, i) => [i + 1, () => byHand(() => turnTo(i))])),
    " ": () => byHand(swap),
    ArrowLeft: along(-1), ArrowRight: along(1), ArrowDown: up(-1), ArrowUp: up(1),
    PageDown: onSlider(() => slide(divider - 10)), PageUp: onSlider(() => slide(divider + 10)),
    Home: onSlider(() => slide(0)), End: onSlider(() => slide(100)),
  });
  onKey(row, { ...common, ArrowLeft: to(-1, 0), ArrowRight: to(1, 0), ArrowUp: to(0, -1), ArrowDown: to(0, 1) });

  const click = (name, action) => part(name).addEventListener("click", action);
  click("in", closer);
  click("out", farther);
  click("reset", region.reset);
  click("ask", showHelp);
  click("modes", (event) => {
    if (!event.target.dataset.mode) return;
    enter(event.target.dataset.mode);
    if (event.detail) (mode === "slider" ? handle : stack).focus({ preventScroll: true }); // by a pointer: the keys follow
  });
  click("often", (event) => event.target.dataset.often && flickerAt(Number(event.target.dataset.often)));
  part("gain").max = MAX_GAIN;
  part("gain").value = DEFAULT_GAIN;
  part("gain").addEventListener("input", map);
  for (const side of ["left", "right"]) {
    part(side).append(...layers.map((layer, i) => new Option(layer.name, i)));
    part(side).addEventListener("change", () => choose(side));
  }
  part("right").value = Math.min(1, layers.length - 1);
  drawLegend(part("bar"));
  choose();
  follow(stack, region, hold, () => mode === "flicker" && byHand(swap));
  for (const view of views.slice(1)) follow(view, region);
  const observer = new ResizeObserver(layout);
  observer.observe(row);

  function relabel() {
    region.show();
    readout.relabel();
    jump.relabel();
    map();
  }

  function close() {
    closed = true;
    observer.disconnect();
    clearInterval(timer);
    release(panel);
    root.remove();
  }

  translate(root);
  return { root, relabel, close };
}
