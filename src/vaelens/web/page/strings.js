// The page's texts around the viewer: strings/<language>.json. The viewer sets the language: <html lang>.

const language = () => (Object.hasOwn(STRINGS, document.documentElement.lang) ? document.documentElement.lang : "en");
const spaced = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

// The text of that name with its {placeholders} filled in; an option without a text shows its own name.
// The replacement is a function, as "$&" in a value would have a meaning in a string.
function say(name, values = {}) {
  const text = STRINGS[language()][name] ?? STRINGS.en[name] ?? spaced(name);
  return text.replace(/\{(\w+)\}/g, (_, placeholder) => values[placeholder]);
}

function translatePage() {
  for (const element of content.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
}
