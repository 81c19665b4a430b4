// The values of one pixel in every layer: the one under the pointer, or under a crosshair moved by keys or touch.

// part(name): the panel's element of that class. views: the large view first.
function makeReadout(panel, part, views, region) {
  const [stack] = views;
  const [cross, values, where, announcement, button] = ["cross", "values", "where", "announcement", "probe"].map(part);
  const marks = views.slice(1).map((view) => {
    const mark = view.appendChild(document.createElement("i"));
    mark.className = "mark";
    mark.hidden = true;
    return mark;
  });
  const cells = panel.layers.map((layer) => {
    const line = values.appendChild(document.createElement("tr"));
    const name = line.appendChild(document.createElement("th"));
    name.scope = "row";
    name.append(document.createElement("i"), document.createElement("span"));
    name.lastChild.textContent = name.title = layer.name;
    return { swatch: name.firstChild, numbers: ["r", "g", "b"].map(() => line.appendChild(document.createElement("td"))) };
  });
  let crossed = null; // the crosshair's pixel, or null while there is none
  let shown = null; // the pixel to show
  let under = null; // the view under the pointer, which needs no mark

  // aloud: announce the values to screen readers. Only on a key, as a pointer moves all the time.
  async function read(pixel, aloud = false) {
    shown = pixel;
    place();
    if (!pixel) return write(null);
    const all = await Promise.all(panel.layers.map((layer) => pixelsOf(panel, layer))).catch(() => null);
    if (shown !== pixel) return undefined; // the pointer has moved on
    if (!all) return write(null); // no values rather than those of the previous pixel
    const start = 4 * (pixel.y * panel.width + pixel.x);
    write(pixel, all.map((bytes) => [...bytes.slice(start, start + 3)]), aloud);
    return undefined;
  }

  function write(pixel, colours = [], aloud = false) {
    part("altered").hidden = !pixel || readsExactly();
    where.textContent = pixel ? say("pixelAt", pixel) : say("pixelHint");
    cells.forEach(({ swatch, numbers }, i) => {
      swatch.style.background = pixel ? `rgb(${colours[i]})` : "none";
      numbers.forEach((number, channel) => (number.textContent = pixel ? colours[i][channel] : "–"));
    });
    if (!aloud) return;
    const spoken = panel.layers.map((layer, i) => `${layer.name} ${colours[i].join(" ")}`);
    announcement.textContent = [say("pixelAt", pixel), ...spoken].join("; ");
  }

  function place() {
    const put = (element, view, pixel) => {
      const at = pixel && region.placeOf(view, pixel);
      element.hidden = !at?.inside;
      if (!at) return;
      element.style.left = `${at.x}px`;
      element.style.top = `${at.y}px`;
      element.style.setProperty("--side", `${at.side}px`);
    };
    put(cross, stack, crossed);
    marks.forEach((mark, i) => put(mark, views[i + 1], views[i + 1] === under ? null : shown));
  }

  function moveCross(x, y, aloud = true) {
    crossed = { x: clamp(crossed.x + x, 0, panel.width - 1), y: clamp(crossed.y + y, 0, panel.height - 1) };
    if (!region.placeOf(stack, crossed).inside)
      region.lookAt({ left: crossed.x, right: crossed.x + 1, top: crossed.y, bottom: crossed.y + 1 }, false);
    read(crossed, aloud);
  }

  function toggle() {
    const had = cross === document.activeElement;
    crossed = crossed ? null : region.middle();
    button.setAttribute("aria-pressed", crossed !== null);
    read(crossed, crossed !== null);
    if (crossed) cross.focus({ preventScroll: true });
    else if (had) part(cross.closest("[data-mode=slider]") ? "handle" : "stack").focus({ preventScroll: true });
  }

  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  cross.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") toggle();
    else if (event.key in steps) moveCross(...steps[event.key].map((step) => step * (event.shiftKey ? 10 : 1)));
    else return;
    event.preventDefault();
  });
  button.addEventListener("click", toggle);
  for (const view of views) {
    view.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return; // a finger hides what is under it
      under = view;
      const pixel = region.pixelAt(view, event.clientX, event.clientY);
      if (pixel?.x !== shown?.x || pixel?.y !== shown?.y) read(pixel ?? crossed);
    });
    view.addEventListener("pointerleave", () => {
      under = null;
      read(crossed);
    });
  }
  write(null);

  return {
    place,
    toggle,
    relabel: () => (shown ? read(shown) : write(null)),

    // For `follow`: a pointer pressed on the crosshair drags it along, beside the finger.
    drag(event) {
      const at = region.placeOf(stack, crossed);
      const box = stack.getBoundingClientRect();
      const [beside, below] = [box.left + at.x - event.clientX, box.top + at.y - event.clientY];
      return (moved) => {
        const pixel = region.pixelAt(stack, moved.clientX + beside, moved.clientY + below);
        if (pixel) moveCross(pixel.x - crossed.x, pixel.y - crossed.y, false);
        return true;
      };
    },
  };
}
