// The viewer's texts: strings/<language>.json. Texts from outside (names of layers, titles, tables) stay as they are.
// An element with data-text gets its text from here, one with data-label its aria-label, in the current language.

const LANGUAGE_KEY = "vaelens-language";
const relabels = new Set(); // of each panel on the page, called when the language changes

// Browsers may refuse storage to a file opened from disk. Then the choice lasts as long as the page.
function storedLanguage() {
  try {
    return localStorage.getItem(LANGUAGE_KEY);
  } catch {
    return null;
  }
}

const preferred = [storedLanguage(), ...navigator.languages].map((tag) => String(tag).split("-")[0]);
let language = preferred.find((tag) => Object.hasOwn(STRINGS, tag)) ?? "en";

// The text of that name with its {placeholders} filled in. The replacement is a function, as "$&" in a value would have
// a meaning in a string.
function say(name, values = {}) {
  return (STRINGS[language][name] ?? STRINGS.en[name]).replace(/\{(\w+)\}/g, (_, placeholder) => values[placeholder]);
}

function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = say(element.dataset.label); // a symbol alone isn't clear to everyone
  }
}

function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = language;
  translate(document);
  for (const button of document.querySelectorAll(".languages button"))
    button.setAttribute("aria-pressed", button.lang === language);
  for (const relabel of relabels) relabel();
}

// The buttons of the languages below an element.
function offerLanguages(root = document) {
  for (const group of root.querySelectorAll(".languages")) {
    if (!group.children.length)
      group.append(...Object.entries(STRINGS).map(([lang, { nativeName }]) =>
        Object.assign(document.createElement("button"), { type: "button", lang, textContent: nativeName })));
    group.hidden = false; // hidden at first: without scripts it does nothing
    group.addEventListener("click", (event) => {
      if (!event.target.lang) return;
      setLanguage(event.target.lang);
      try {
        localStorage.setItem(LANGUAGE_KEY, language);
      } catch {
        // the choice isn't stored
      }
    });
  }
  setLanguage(language);
}
