// Each panel has one region (a scale and a corner), which all its views show. This file shows the region, and moves it
// by pointers and the wheel.

const MIN_SPAN = 8; // image pixels across a view at the highest zoom
const MAX_RATIO = 4; // between a view's sides, so that a 1 x 4096 image can be seen
const MARGIN = 0.5; // around a box, as a fraction of its side
const PAUSE = 250; // ms: a faster turn of the wheel continues what the last one did, scrolling or zooming
const TAP = { time: 400, way: 8 }; // ms and px: a longer or wider movement isn't a tap

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
let scrolledAt = -PAUSE;
let zoomedAt = -PAUSE;
addEventListener("scroll", () => (scrolledAt = performance.now()), { passive: true });

// views: the elements whose images are moved; changed(scale) is called after each move.
function makeRegion(panel, views, changed) {
  const ratio = clamp(panel.width / panel.height, 1 / MAX_RATIO, MAX_RATIO);
  const highest = Math.max(1, panel.width / MIN_SPAN, panel.height / MIN_SPAN);
  let [x, y, scale] = [0, 0, 1]; // x, y: its corner in parts of the view; scale 1: the whole image

  // Of a view: CSS pixels an image's pixel at scale 1, and the margins of an image longer than its view.
  function fit(view) {
    const [width, height] = [view.clientWidth, view.clientHeight];
    const by = Math.min(width / panel.width, height / panel.height);
    return { by, width, height, left: (width - by * panel.width) / 2, top: (height - by * panel.height) / 2 };
  }

  function show() {
    x = clamp(x, 0, 1 - 1 / scale);
    y = clamp(y, 0, 1 - 1 / scale);
    for (const view of views) {
      const magnified = scale * fit(view).by;
      for (const image of view.querySelectorAll("img, canvas")) {
        image.style.transform = `translate(${-100 * x * scale}%, ${-100 * y * scale}%) scale(${scale})`;
        const sharp = image.tagName === "CANVAS" ? magnified >= 1 : magnified >= 2;
        image.style.imageRendering = sharp ? "pixelated" : "auto";
      }
    }
    changed(scale);
  }

  function move(by, down, to = scale) {
    x += by;
    y += down;
    scale = to;
    show();
  }

  return {
    ratio,
    show,
    move,
    get scale() {
      return scale;
    },
    reset: () => move(0, 0, 1),

    // u, v: the point of the view, in parts of it, that stays where it is.
    zoom(factor, u = 0.5, v = 0.5) {
      const to = clamp(scale * factor, 1, highest);
      move(u / scale - u / to, v / scale - v / to, to);
    },

    // The image's pixel under a point of the window, or null beside the image.
    pixelAt(view, clientX, clientY) {
      const { by, width, height, left, top } = fit(view);
      const box = view.getBoundingClientRect();
      const px = Math.floor((x * width + (clientX - box.left) / scale - left) / by);
      const py = Math.floor((y * height + (clientY - box.top) / scale - top) / by);
      return px >= 0 && py >= 0 && px < panel.width && py < panel.height ? { x: px, y: py } : null;
    },

    // Where a pixel's middle lies in a view and how large it is there, in CSS pixels.
    placeOf(view, pixel) {
      const { by, width, height, left, top } = fit(view);
      const place = { x: scale * (left + (pixel.x + 0.5) * by - x * width), y: scale * (top + (pixel.y + 0.5) * by - y * height) };
      return { ...place, side: scale * by, inside: place.x >= 0 && place.y >= 0 && place.x <= width && place.y <= height };
    },

    // The pixel in the middle of what is seen.
    middle() {
      const { by, width, height, left, top } = fit(views[0]);
      const px = Math.floor(((x + 0.5 / scale) * width - left) / by);
      const py = Math.floor(((y + 0.5 / scale) * height - top) / by);
      return { x: clamp(px, 0, panel.width - 1), y: clamp(py, 0, panel.height - 1) };
    },

    // So far that a box in the image's pixels fills the view but for a margin, or only so that it is in view.
    lookAt(box, closely = true) {
      const { by, width, height, left, top } = fit(views[0]);
      const share = Math.max(((box.right - box.left) * by) / width, ((box.bottom - box.top) * by) / height);
      if (closely) scale = clamp(1 / (share * (1 + 2 * MARGIN)), 1, highest);
      x = (left + (by * (box.left + box.right)) / 2) / width - 0.5 / scale;
      y = (top + (by * (box.top + box.bottom)) / 2) / height - 0.5 / scale;
      show();
    },
  };
}

// One pointer moves the region, two pinch it. hold(event) is asked when a pointer comes down and may give a function
// of each later event and of the point in parts of the view: where that says true, it has used the movement itself.
// tapped(event): a pointer came and went in its place.
function follow(view, region, hold = () => null, tapped = () => {}) {
  const pointers = new Map();
  let held, last, start;

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
    held = hold(event);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    start = pointers.size === 1 ? { x: event.clientX, y: event.clientY, at: event.timeStamp } : null;
    last = gesture();
  });
  view.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (start && Math.hypot(event.clientX - start.x, event.clientY - start.y) > TAP.way) start = null;
    const now = gesture();
    if (pointers.size > 1 || !held?.(event, now)) {
      region.zoom(now.spread / last.spread, last.u, last.v);
      region.move((last.u - now.u) / region.scale, (last.v - now.v) / region.scale);
    }
    last = now;
  });
  for (const end of ["pointerup", "pointercancel"])
    view.addEventListener(end, (event) => {
      if (!pointers.delete(event.pointerId)) return;
      if (pointers.size) last = gesture();
      else if (start && end === "pointerup" && event.timeStamp - start.at < TAP.time) tapped(event);
    });
  view.addEventListener("wheel", (event) => {
    const now = performance.now();
    const scrolls = now - scrolledAt < PAUSE || (region.scale === 1 && event.deltaY >= 0 && now - zoomedAt > PAUSE);
    if (scrolls && !event.ctrlKey) return; // with ctrlKey it is a pinch on a touchpad
    event.preventDefault();
    zoomedAt = now;
    const box = view.getBoundingClientRect();
    const turn = clamp(event.deltaY * (event.deltaMode ? 30 : 1), -200, 200) * (event.ctrlKey ? 0.01 : 0.002);
    region.zoom(Math.exp(-turn), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  view.addEventListener("dblclick", region.reset);
}
