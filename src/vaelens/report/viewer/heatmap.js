// The bytes of the layers' PNGs, and the map of the differences between two of them.

// Decoded layers of one panel, 4 bytes per pixel: a page may hold hundreds of panels.
let cache = { panel: null, layers: new Map() };

// A promise of the layer's RGBA bytes, row by row.
function pixelsOf(panel, layer) {
  if (cache.panel !== panel) cache = { panel, layers: new Map() };
  const { layers } = cache;
  if (!layers.has(layer)) {
    const decoded = decode(layer.src, panel.width, panel.height);
    decoded.catch(() => layers.delete(layer)); // so that it is retried
    layers.set(layer, decoded);
  }
  return layers.get(layer);
}

function release(panel) {
  if (cache.panel === panel) cache = { panel: null, layers: new Map() };
}

// Exact: our PNGs are opaque and have no profile, so they are sRGB to the browser, as a canvas is, whatever the
// screen's profile may be.
async function decode(src, width, height) {
  const image = new Image();
  image.src = src;
  await image.decode();
  return bytesOf(image, width, height);
}

// A decoded image's RGBA bytes, row by row.
function bytesOf(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

// Some browsers alter what a page reads from a canvas, against fingerprinting. Then the page warns the reader.
const readsExactly = (() => {
  let known;
  return () => {
    if (known !== undefined) return known;
    const [width, height] = [64, 16];
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    const sent = context.createImageData(width, height);
    sent.data.forEach((_, i, all) => (all[i] = i % 4 === 3 ? 255 : (i * 89) % 256));
    context.putImageData(sent, 0, 0);
    const got = context.getImageData(0, 0, width, height).data;
    return (known = sent.data.every((value, i) => value === got[i]));
  };
})();

// The largest of the three channels' differences: a mean would hide one in a single channel.
function differences(a, b) {
  const found = new Uint8Array(a.length / 4);
  for (let i = 0, j = 0; i < found.length; i++, j += 4)
    found[i] = Math.max(Math.abs(a[j] - b[j]), Math.abs(a[j + 1] - b[j + 1]), Math.abs(a[j + 2] - b[j + 2]));
  return found;
}

// 256 colours as RGBA bytes: black, violet, red, orange, pale yellow. OKLab's lightness rises evenly, so that their
// order can be seen without telling hues apart; the hue goes once around from blue to yellow.
function colours() {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let i = 0; i < 256; i++) {
    const t = i / 255;
    const lightness = 0.16 + 0.82 * t;
    const chroma = 0.03 + 0.17 * Math.sin(Math.PI * t ** 0.85) + 0.05 * t;
    const hue = ((275 + 190 * t) * Math.PI) / 180;
    bytes.set([...srgb(lightness, chroma * Math.cos(hue), chroma * Math.sin(hue)), 255], 4 * i);
  }
  return bytes;
}

// OKLab (Björn Ottosson, 2020) to sRGB bytes; what lies outside is clipped.
function srgb(lightness, a, b) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((v) => 255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055));
}

let scale; // the colours as 32-bit pixels, made when first needed

function draw(canvas, levels, gain) {
  scale ??= new Uint32Array(colours().buffer);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const of = Uint32Array.from({ length: 256 }, (_, level) => scale[Math.min(255, gain * level)]);
  for (let i = 0; i < pixels.length; i++) pixels[i] = of[levels[i]];
  context.putImageData(image, 0, 0);
}

// All colours from left to right.
function drawLegend(canvas) {
  Object.assign(canvas, { width: 256, height: 1 });
  draw(canvas, Uint8Array.from({ length: 256 }, (_, level) => level), 1);
}
