// What the viewer says, in English and Japanese, and which of them it speaks. Texts from outside (names of layers,
// titles, tables) stay as they are. An element with data-text gets its text from here, one with data-label its
// aria-label, whenever the language changes.

const STRINGS = {
  en: {
    images: "Images", measured: "Measured", made: "How it was made", sections: "Sections", language: "Language",
    modes: "View", slider: "Slider", flicker: "Flicker", heat: "Heat map",
    left: "Left", right: "Right", divider: "Divider",
    zoomIn: "Zoom in", zoomOut: "Zoom out", reset: "Reset", fit: "fit",
    rowLabel: "All versions, locked. Arrow keys move, + and - zoom, 0 resets.",
    stackLabel: "Large view. Press ? for its keys.",
    slideHint: "Drag the divider, or move it with ← →",
    automatic: "Automatic", off: "Off", flickerHint: "Space or a tap swaps, 1–9 choose",
    gain: "Gain", heatHint: "greatest difference of R, G, B", heatLabel: "Heat map of {left} against {right}, gain ×{gain}",
    jump: "Jump to", next: "Next", previous: "Previous",
    eye: "Eyes", iris: "Irises", mouth: "Mouths", face: "Faces", letters: "Letters", group: "{name} ({count})",
    pixel: "Crosshair", values: "Pixel values", pixelHint: "Point at an image to read its pixels",
    where: "x {x}, y {y}", altered: "This browser alters the pixels that a page reads: these values and the heat map are not exact.",
    crossLabel: "Crosshair. Arrow keys move it by one pixel, with Shift by ten; Escape removes it.",
    help: "Help", helpTitle: "Keys and gestures", close: "Close",
    helpFocus: "Keys work while the large view has the focus: click it, or reach it with Tab.",
    keyModes: "Slider, flicker, heat map", keySwap: "Flicker: left or right version; stops automatic flicker",
    keyNumber: "Flicker: this version", keyArrows: "Move the divider, next version, or gain", keySpace: "Space",
    keyZoom: "Zoom in, out, reset", keyRow: "Move all, while the row of images has the focus", keyJump: "Next and previous eye, letter or box",
    keyPixel: "Crosshair: arrows move it by 1 pixel, with Shift by 10; Esc removes it", keyHelp: "This help",
    wheel: "Wheel, pinch", wheelDoes: "Zoom all images", drag: "Drag", dragDoes: "Move the divider, or all images when zoomed",
    double: "Double-click", doubleDoes: "Show the whole image", tap: "Tap", tapDoes: "Flicker: the other version",
  },
  ja: {
    images: "画像", measured: "測定値", made: "作成条件", sections: "目次", language: "言語",
    modes: "表示方法", slider: "スライダー", flicker: "切り替え", heat: "差分マップ",
    left: "左", right: "右", divider: "境界線",
    zoomIn: "拡大", zoomOut: "縮小", reset: "リセット", fit: "全体",
    rowLabel: "すべての画像（連動）。矢印キーで移動、+ と - で拡大・縮小、0 でリセット。",
    stackLabel: "大きな表示。? でキー操作を表示。",
    slideHint: "境界線をドラッグ、または ← → で移動",
    automatic: "自動切り替え", off: "オフ", flickerHint: "スペースキーかタップで交互に、1～9 で選択",
    gain: "強調", heatHint: "R・G・B の差の最大値", heatLabel: "{left} と {right} の差分マップ、強調 ×{gain}",
    jump: "移動先", next: "次へ", previous: "前へ",
    eye: "目", iris: "虹彩", mouth: "口", face: "顔", letters: "文字", group: "{name}（{count}）",
    pixel: "十字カーソル", values: "画素値", pixelHint: "画像にポインターを重ねると画素値を表示します",
    where: "x {x}, y {y}", altered: "このブラウザーはページが読み取る画素値を変更するため、画素値と差分マップは正確ではありません。",
    crossLabel: "十字カーソル。矢印キーで 1 画素、Shift を押しながらで 10 画素移動。Esc で解除。",
    help: "ヘルプ", helpTitle: "キーとジェスチャー", close: "閉じる",
    helpFocus: "キー操作は、大きな表示をクリックするか Tab キーで選択すると使えます。",
    keyModes: "スライダー、切り替え、差分マップ", keySwap: "切り替え：左右の画像を交互に表示（自動切り替えは停止）",
    keyNumber: "切り替え：その番号の画像を表示", keyArrows: "境界線の移動、隣の画像、強調の増減", keySpace: "スペース",
    keyZoom: "拡大、縮小、リセット", keyRow: "画像の列を選択中：すべての画像を移動", keyJump: "次・前の目、文字、領域へ移動",
    keyPixel: "十字カーソル：矢印キーで 1 画素、Shift+矢印キーで 10 画素移動、Esc で解除", keyHelp: "このヘルプ",
    wheel: "ホイール、ピンチ", wheelDoes: "すべての画像を拡大・縮小", drag: "ドラッグ", dragDoes: "境界線を移動、拡大中はすべての画像を移動",
    double: "ダブルクリック", doubleDoes: "画像全体を表示", tap: "タップ", tapDoes: "切り替え：もう一方の画像を表示",
  },
};
const REMEMBERED = "vaelens-language";
const relabels = new Set(); // what each panel in the page does when the language changes

// A file from disk may be refused its storage: then the choice lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}

const spoken = [remembered(), ...navigator.languages].map((tag) => String(tag).split("-")[0]);
let language = spoken.find((tag) => Object.hasOwn(STRINGS, tag)) ?? "en";

// The text of that name, {places} filled in. A replacing function, as "$&" in a name would take effect in a string.
function say(name, values = {}) {
  return STRINGS[language][name].replace(/\{(\w+)\}/g, (_, place) => values[place]);
}

function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = say(element.dataset.label); // a sign alone isn't clear to all
  }
}

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = language;
  translate(document);
  for (const button of document.querySelectorAll(".languages button"))
    button.setAttribute("aria-pressed", button.lang === language);
  for (const relabel of relabels) relabel();
}

function offerLanguages() {
  for (const group of document.querySelectorAll(".languages")) {
    group.hidden = false; // without this script it would do nothing
    group.addEventListener("click", (event) => {
      if (!event.target.lang) return;
      speak(event.target.lang);
      try {
        localStorage.setItem(REMEMBERED, language);
      } catch {
        // Not remembered, but spoken.
      }
    });
  }
  speak(language);
}
