// The form and the server: what is asked in it, an upload, and how the server is asked.

const $ = (id) => document.getElementById(id);
const LARGEST = 32 * 2 ** 20; // bytes of an upload; the server counts, too
const SEEDS = { most: 16, low: -(2n ** 63n), high: 2n ** 64n - 1n };
const IN_MORE = ["steps", "cfg", "size", "scheduler", "negative"]; // what a fold hides

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const button = (text, act, className) => {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
};

// What the server answers. Throws an Error with its sentence, and its status where it answered at all.
async function ask(method, path, body, type = "application/json") {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: method === "GET" ? {} : { "Content-Type": type } });
  } catch {
    throw new Error(word("unreachable"));
  }
  const said = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error ?? `HTTP ${answer.status}`), { status: answer.status });
  return said;
}

// What is wrong, where it is seen: the form may be taller than the window.
function trouble(text) {
  $("trouble").textContent = text;
  if (text) $("trouble").scrollIntoView({ block: "nearest" });
}

// Whether it was done; if not, the page says why.
async function act(method, path) {
  try {
    await ask(method, path, method === "POST" ? "{}" : undefined);
    return true;
  } catch (error) {
    trouble(error.message);
    return false;
  }
}

// An upload.

async function upload(file) {
  trouble("");
  if (!file.type.startsWith("image/")) return trouble(word("notImage"));
  if (file.size > LARGEST) return trouble(word("tooLarge"));
  trouble(word("uploading", { name: file.name }));
  try {
    const { id, name } = await ask("POST", `/api/uploads?name=${encodeURIComponent(file.name || "image")}`, file, file.type);
    unpick();
    picked = { id, name, url: URL.createObjectURL(file) };
    trouble("");
    settleTicks();
  } catch (error) {
    trouble(error.message);
  }
}

function unpick() {
  if (picked) URL.revokeObjectURL(picked.url);
  picked = null;
  $("preview").removeAttribute("src");
  settleTicks();
}

// Only files: text that comes with an image, as from an office program, is what is meant where text can be typed.
const isImage = (data) => Boolean(data?.types.includes("Files")) && !data.types.includes("text/plain");

function paste(event) {
  if (!isImage(event.clipboardData) || !event.clipboardData.files[0]) return;
  event.preventDefault();
  upload(event.clipboardData.files[0]);
}

function drag(event) {
  const data = event.dataTransfer;
  const taken = isImage(data);
  $("drop").classList.toggle("over", taken && event.type === "dragover");
  if (event.type === "dragleave" || !data?.types.includes("Files")) return; // text goes where it is dropped
  if (taken || !event.target.closest?.("textarea, input")) event.preventDefault(); // else the browser would leave for it
  if (taken && event.type === "drop" && data.files[0]) upload(data.files[0]);
}

// Asking.

// The seeds that are typed, exactly; null where they aren't seeds.
function seedsTyped() {
  const typed = $("seeds").value.split(/[\s,、]+/).filter(Boolean);
  if (!typed.length || typed.length > SEEDS.most || !typed.every((seed) => /^-?\d{1,20}$/.test(seed))) return null;
  const seeds = typed.map(BigInt);
  return seeds.every((seed) => seed >= SEEDS.low && seed <= SEEDS.high) ? seeds : null;
}

// As many others, the next that none of these is: after 9 3 come 16 10.
function nextSeeds() {
  const seeds = seedsTyped();
  if (!seeds) return trouble(word("badSeeds"));
  const sorted = [...seeds].sort((a, b) => (a < b ? -1 : 1));
  const next = seeds.map((seed) => seed + (sorted.at(-1) - sorted[0] + 1n));
  if (next.some((seed) => seed > SEEDS.high)) return trouble(word("badSeeds"));
  return ($("seeds").value = next.join(" "));
}

// The number in a field, for the server to judge; undefined where nothing is typed.
function numberIn(id) {
  if ($(id).validity.badInput) {
    const name = word($(id).parentElement.firstElementChild.dataset.say);
    throw Object.assign(new Error(word("notNumber", { name })), { field: id }); // its value would be "", as if empty
  }
  return $(id).value === "" ? undefined : Number($(id).value);
}

// The body of the request, as JSON. Seeds go in digit by digit, as a Number would round large ones.
function asked() {
  const vaes = choices.vaes.filter((vae) => ticked.has(vae.id)).map((vae) => vae.id);
  if (!vaes.length) throw new Error(word("noVae"));
  if (picked) return JSON.stringify({ upload: picked.id, vaes, max_side: numberIn("max-side") });
  if (!$("prompt").value.trim()) throw new Error(word("noSubject"));
  const seeds = seedsTyped();
  if (!seeds) throw Object.assign(new Error(word("badSeeds")), { field: "seeds" });
  const made = { prompt: $("prompt").value.trim(), model: model()?.id, vaes, steps: numberIn("steps"), cfg: numberIn("cfg") };
  for (const id of ["size", "scheduler", "negative"]) if ($(id).value.trim()) made[id] = $(id).value.trim();
  return `{"seeds":[${seeds.join(",")}],${JSON.stringify(made).slice(1)}`;
}

// What was wrong, and the fold opened where that may lie in it.
function tell(error) {
  trouble(error.message);
  if (IN_MORE.includes(error.field) || (error.status === 422 && IN_MORE.some((id) => $(id).value.trim()))) $("more").open = true;
  if (error.field) $(error.field).focus();
}

function use(job) {
  unpick();
  const { settings } = job;
  const radio = [...document.querySelectorAll("[name=model]")].find((one) => one.value === settings.model);
  if (radio) radio.checked = true;
  $("prompt").value = settings.prompt ?? "";
  $("seeds").value = job.asked.seeds ?? "0";
  for (const id of IN_MORE) $(id).value = settings[id] ?? "";
  ticked = new Set(settings.vaes);
  settleTicks();
}
