// The places that a blind test shows: square windows of an image, of one size, at labelled boxes, where two versions
// differ most, or anywhere.

const PLACES = 12; // of largest difference, for an image and a pair; and random ones, drawn at a time
const FEW = 4; // of them in an image, where there are enough images
const MOST_CELLS = 256; // along a side of a map of differences
const MUCH = 0.25; // of the largest sum of differences in a window: where they sum up to less, there is little to see

// The side of a window in an image's pixels is `side`, or less in an image that is smaller.
function windowIn(panel, side, left, top) {
  const [width, height] = [Math.min(side, panel.width), Math.min(side, panel.height)];
  const place = (at, most) => clamp(Math.round(at), 0, most);
  return { left: place(left, panel.width - width), top: place(top, panel.height - height), width, height };
}

// The kinds of boxes in panels: "letters" for all glyphs, else the boxes' labels; eyes first, then letters.
function boxKinds(panels) {
  const found = new Set(panels.flatMap((panel) => (panel.boxes ?? []).map(kindOf)));
  const rank = (kind) => ["eye", "letters"].indexOf(kind) >>> 0; // those that aren't among them come last
  return [...found].sort((a, b) => rank(a) - rank(b));
}

const OWN_KINDS = ["letters", "difference", "random"];

// A user's own label may be one of these words, too.
function kindOf(box) {
  if (box.glyph) return "letters";
  return OWN_KINDS.includes(box.label) ? `${box.label} (box)` : box.label;
}

// The window around a box's middle; of a box larger than the window, a random part.
function windowAt(panel, side, box) {
  const along = (low, high) => {
    const room = Math.floor(high - low - side);
    return room > 0 ? low + randomBelow(room + 1) : (low + high - side) / 2;
  };
  return windowIn(panel, side, along(box.left, box.right), along(box.top, box.bottom));
}

function randomWindow(panel, side) {
  const most = (length) => Math.max(0, length - side);
  return windowIn(panel, side, randomBelow(most(panel.width) + 1), randomBelow(most(panel.height) + 1));
}

// The windows with the largest sum of differences, the largest first; none overlaps another by more than a half of its
// side. Equal ones come in random order, so that two equal versions give random windows. levels: of `differences`.
function differingWindows(panel, side, levels, most) {
  const step = Math.max(1, side >> 2, Math.ceil(Math.max(panel.width, panel.height) / MOST_CELLS));
  const sums = cellSums(panel, levels, step);
  const across = Math.max(1, Math.round(side / step)); // cells of a window
  const [columns, rows] = [sums.columns, sums.rows];
  const all = [];
  for (let y = 0; y <= Math.max(0, rows - across); y++)
    for (let x = 0; x <= Math.max(0, columns - across); x++) {
      let sum = 0;
      for (let j = y; j < Math.min(rows, y + across); j++)
        for (let i = x; i < Math.min(columns, x + across); i++) sum += sums.of[j * columns + i];
      all.push({ x: x * step, y: y * step, sum });
    }
  const chosen = [];
  const sorted = shuffled(all).sort((a, b) => b.sum - a.sum);
  for (const one of sorted) {
    if (chosen.length === most || one.sum < MUCH * sorted[0].sum) break;
    const apart = (other) => Math.abs(one.x - other.x) >= side / 2 || Math.abs(one.y - other.y) >= side / 2;
    if (chosen.every(apart)) chosen.push(one);
  }
  return chosen.map((one) => windowIn(panel, side, one.x, one.y));
}

// The sum of the differences in each cell of step x step pixels.
function cellSums(panel, levels, step) {
  const [columns, rows] = [Math.ceil(panel.width / step), Math.ceil(panel.height / step)];
  const of = new Float64Array(columns * rows);
  for (let y = 0, at = 0; y < panel.height; y++) {
    const row = Math.floor(y / step) * columns;
    for (let x = 0; x < panel.width; x++, at++) of[row + Math.floor(x / step)] += levels[at];
  }
  return { columns, rows, of };
}

// For `planTrials`: the places of a kind for a pair of decoders. Where none of the images has a box of that kind, places
// anywhere. images: of `loadImages`.
function placeFinder(panels, images, { test, zoom }) {
  const side = windowSide(test, zoom);
  return (kind, pair) => {
    const suited = panels.map((_, image) => image).filter((image) => images[image] && suits(panels[image], pair, test));
    const most = Math.max(FEW, Math.ceil(PLACES / suited.length));
    const found = [];
    for (const image of shuffled(suited)) {
      if (kind === "difference" && found.length >= PLACES) break; // a map takes a moment
      const regions = regionsOf(kind, panels[image], side, pair.map(images[image]), most);
      found.push(...regions.map((region) => ({ image, region, kind })));
    }
    if (found.length) return found;
    return Array.from({ length: PLACES }, () => {
      const image = suited[randomBelow(suited.length)];
      return { image, region: randomWindow(panels[image], side), kind: "random" };
    });
  };
}

// The regions of a kind in one image; none of random ones, which are drawn over all images.
function regionsOf(kind, panel, side, [first, second], most) {
  if (kind === "random") return [];
  if (kind !== "difference") return (panel.boxes ?? []).filter((box) => kindOf(box) === kind).map((box) => windowAt(panel, side, box));
  const [a, b] = [first, second].map((image) => bytesOf(image, panel.width, panel.height));
  return differingWindows(panel, side, differences(a, b), most);
}
