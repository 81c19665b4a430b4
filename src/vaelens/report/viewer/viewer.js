// The viewer. Each photograph has one region (a scale and a corner), and every picture of it shows that region:
// the two behind the divider and those side by side. All texts go in as textContent, never as markup.
"use strict";

const CLOSEST = 8; // at the highest zoom so many picture pixels span a view
const LONGEST = 4; // a view's sides differ by no more than this factor, so that 1 x 4096 has a place to be seen in
const STEP = 1.5; // zoom by a button or a key
const PAUSE = 250; // ms in which a turn of the wheel goes on with what it began: scrolling the page, or zooming
const GAP = 16; // px between pictures of the row, as in the style

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
let scrolledAt = -PAUSE;
let zoomedAt = -PAUSE;
addEventListener("scroll", () => (scrolledAt = performance.now()), { passive: true });

function build(panel) {
  const root = document.getElementById("panel").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const [stack, row, handle, under, over] = ["stack", "row", "handle", "under", "over"].map(part);
  const ratio = clamp(panel.width / panel.height, 1 / LONGEST, LONGEST);
  const region = { x: 0, y: 0, scale: 1 }; // x, y: its corner in parts of the view; scale 1: the whole picture
  const highest = Math.max(1, panel.width / CLOSEST, panel.height / CLOSEST);
  let divider = 50;

  const views = [stack, ...panel.layers.map(addToRow)];
  part("name").textContent = panel.title;
  part("why").textContent = panel.note;
  part("size").textContent = `${panel.width} × ${panel.height}`;

  function addToRow(layer) {
    const figure = row.appendChild(document.createElement("figure"));
    const view = figure.appendChild(document.createElement("div"));
    view.className = "view";
    const image = view.appendChild(new Image());
    image.src = layer.src;
    image.alt = layer.name;
    image.draggable = false;
    label(figure.appendChild(document.createElement("figcaption")), layer);
    return view;
  }

  function label(place, layer) {
    place.replaceChildren();
    for (const of of ["name", "note"]) {
      const line = place.appendChild(document.createElement("span"));
      line.className = of;
      line.textContent = layer[of];
    }
  }

  // Sizes: whole multiples of the picture's pixels where they fit, so that at rest no pixel is resampled.
  function layout() {
    const room = row.clientWidth;
    const count = panel.layers.length;
    const each = Math.max((room - GAP * (count - 1)) / count, Math.min(220, (room - GAP) / 2));
    views.forEach((view, i) => {
      const most = Math.min(i ? each : room, 0.8 * Math.max(innerHeight, 400) * ratio);
      const natural = Math.max(panel.width, panel.height * ratio);
      const times = Math.max(1, Math.floor(Math.min(most, i ? 320 : 640) / natural));
      view.style.width = `${Math.min(most, times * natural)}px`;
      view.style.aspectRatio = ratio;
    });
    show();
  }

  function show() {
    region.x = clamp(region.x, 0, 1 - 1 / region.scale);
    region.y = clamp(region.y, 0, 1 - 1 / region.scale);
    const { x, y, scale } = region;
    for (const view of views) {
      const magnified = scale * Math.min(view.clientWidth / panel.width, view.clientHeight / panel.height);
      for (const image of view.querySelectorAll("img")) {
        image.style.transform = `translate(${-100 * x * scale}%, ${-100 * y * scale}%) scale(${scale})`;
        image.style.imageRendering = magnified >= 2 ? "pixelated" : "auto";
      }
    }
    root.classList.toggle("zoomed", scale > 1);
    part("scale").textContent = scale > 1 ? `${scale.toFixed(1)}×` : "fit";
  }

  // u, v: the point of the view, in parts of it, that stays where it is.
  function zoom(factor, u = 0.5, v = 0.5) {
    const scale = clamp(region.scale * factor, 1, highest);
    move(u / region.scale - u / scale, v / region.scale - v / scale, scale);
  }

  function move(x, y, scale = region.scale) {
    region.x += x;
    region.y += y;
    region.scale = scale;
    show();
  }

  const reset = () => move(0, 0, 1);
  const chosen = (side) => panel.layers[part(side).value];

  function slide(percent) {
    divider = clamp(percent, 0, 100);
    over.style.clipPath = `inset(0 ${100 - divider}% 0 0)`;
    handle.style.left = `${divider}%`;
    handle.setAttribute("aria-valuenow", Math.round(divider));
    handle.setAttribute("aria-valuetext", `${Math.round(divider)}% ${chosen("left").name}`);
  }

  function choose() {
    for (const [side, place] of [["left", over], ["right", under]]) {
      place.firstElementChild.src = chosen(side).src;
      place.firstElementChild.alt = chosen(side).name;
      label(part(`${side}-label`), chosen(side));
    }
    slide(divider);
  }

  // One pointer moves the region, two pinch it; over the stack one pointer moves the divider while there is
  // nothing to move, and always when it began on the divider.
  function follow(view) {
    const pointers = new Map();
    let onHandle, last;

    function gesture() {
      const box = view.getBoundingClientRect();
      const points = [...pointers.values()];
      const mean = (axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
      const [a, b] = points;
      const spread = b ? Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)) : 1;
      return { u: (mean("x") - box.left) / box.width, v: (mean("y") - box.top) / box.height, spread };
    }

    view.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      view.setPointerCapture(event.pointerId);
      onHandle = event.target === handle;
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      last = gesture();
    });
    view.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const now = gesture();
      if (view === stack && pointers.size === 1 && (onHandle || region.scale === 1)) slide(100 * now.u);
      else {
        zoom(now.spread / last.spread, last.u, last.v);
        move((last.u - now.u) / region.scale, (last.v - now.v) / region.scale);
      }
      last = now;
    });
    for (const end of ["pointerup", "pointercancel"])
      view.addEventListener(end, (event) => {
        if (pointers.delete(event.pointerId) && pointers.size) last = gesture();
      });
    view.addEventListener("wheel", (event) => {
      const now = performance.now();
      const scrolls = now - scrolledAt < PAUSE || (region.scale === 1 && event.deltaY >= 0 && now - zoomedAt > PAUSE);
      if (scrolls && !event.ctrlKey) return; // with ctrlKey it is a pinch on a touchpad
      event.preventDefault();
      zoomedAt = now;
      const box = view.getBoundingClientRect();
      const turn = clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200) * (event.ctrlKey ? 0.01 : 0.002);
      zoom(Math.exp(-turn), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    }, { passive: false });
    view.addEventListener("dblclick", reset);
  }

  function onKey(element, actions) {
    element.addEventListener("keydown", (event) => {
      if (!(event.key in actions) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  const by = (amount) => () => slide(divider + amount);
  const to = (x, y) => () => move((0.1 * x) / region.scale, (0.1 * y) / region.scale);
  const [closer, farther] = [() => zoom(STEP), () => zoom(1 / STEP)];
  onKey(handle, {
    ArrowLeft: by(-1), ArrowDown: by(-1), ArrowRight: by(1), ArrowUp: by(1),
    PageDown: by(-10), PageUp: by(10), Home: () => slide(0), End: () => slide(100),
  });
  onKey(row, {
    ArrowLeft: to(-1, 0), ArrowRight: to(1, 0), ArrowUp: to(0, -1), ArrowDown: to(0, 1),
    "+": closer, "=": closer, "-": farther, 0: reset,
  });
  part("in").addEventListener("click", closer);
  part("out").addEventListener("click", farther);
  part("reset").addEventListener("click", reset);
  part("differ").addEventListener("click", () => {
    part("differ").setAttribute("aria-pressed", root.classList.toggle("difference"));
  });
  for (const side of ["left", "right"]) {
    part(side).append(...panel.layers.map((layer, i) => new Option(layer.name, i)));
    part(side).addEventListener("change", choose);
  }
  part("right").value = Math.min(1, panel.layers.length - 1);
  choose();
  views.forEach(follow);
  new ResizeObserver(layout).observe(row);
  return root;
}

for (const panel of JSON.parse(document.getElementById("data").textContent))
  document.querySelector("main").append(build(panel));
