// What is asked: models and VAEs to choose, an upload, the form; and how the server is asked.

const $ = (id) => document.getElementById(id);
const LARGEST = 32 * 2 ** 20; // bytes of an upload; the server counts, too
let choices = { models: [], vaes: [], schedulers: [] };
let picked = null; // { id, name, url } of an upload
let unticked = new Set(); // VAEs that somebody has unticked
let ticked = new Set();

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

async function ask(method, path, body, type = "application/json") {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: method === "GET" ? {} : { "Content-Type": type } });
  } catch {
    throw new Error(word("unreachable"));
  }
  const said = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error ?? `HTTP ${answer.status}`);
  return said;
}

const trouble = (text) => ($("trouble").textContent = text);
const act = (method, path) => ask(method, path, method === "POST" ? "{}" : undefined).catch((error) => trouble(error.message));

// What can be chosen.

const model = () => choices.models.find((one) => one.id === document.querySelector("[name=model]:checked")?.value);

// Whether a VAE may be ticked: it decodes what the model makes, or, for an upload, shares the space of what is ticked.
function fits(vae, chosen) {
  if (picked) return spaceOfTicks() === undefined || vae.space === spaceOfTicks();
  return vae.own_of ? vae.own_of === chosen?.id : vae.space === chosen?.space;
}

// With an upload no model says the space: the first VAE that is ticked does.
function spaceOfTicks() {
  const first = choices.vaes.find((vae) => ticked.has(vae.id));
  return first?.space;
}

function tick(kind, name, one, about) {
  const line = make("label", "tick");
  const input = line.appendChild(Object.assign(make("input"), { type: kind, name, value: one.id }));
  line.append(make("span", "", one.title), make("span", "about", about));
  return [line, input];
}

function showModels() {
  const before = model()?.id;
  $("models").replaceChildren($("models").firstElementChild);
  for (const one of choices.models) {
    const [line, input] = tick("radio", "model", one, one.title === one.name ? "" : one.name);
    input.checked = one.id === (before ?? choices.models[0].id);
    input.addEventListener("change", chooseModel);
    $("models").append(line);
  }
  $("models").hidden = picked !== null;
}

function chooseModel() {
  ticked = new Set();
  unticked = new Set();
  settleTicks();
}

// Those that are compared in a space are ticked from the beginning; where there are none, the first two.
function settleTicks() {
  const open = choices.vaes.filter((vae) => fits(vae, model()));
  for (const id of [...ticked]) if (!open.some((vae) => vae.id === id)) ticked.delete(id);
  if (!ticked.size && !unticked.size) {
    const space = picked ? open[0]?.space : undefined;
    const usual = open.filter((vae) => vae.usual && (space === undefined || vae.space === space));
    for (const vae of usual.length ? usual : open.filter((one) => space === undefined || one.space === space).slice(0, 3)) ticked.add(vae.id);
  }
  showVaes();
  showForm();
}

function showVaes() {
  const focused = document.activeElement?.name === "vae" ? document.activeElement.value : null;
  $("vaes").replaceChildren($("vaes").firstElementChild);
  const sorted = [true, false].flatMap((open) => choices.vaes.filter((vae) => fits(vae, model()) === open));
  for (const one of sorted) {
    const open = fits(one, model());
    const owner = choices.models.find((other) => other.id === one.own_of);
    const why = owner && !picked ? word("ownOf", { name: owner.name }) : word("notSpace", { space: one.space ?? "?" });
    const [line, input] = tick("checkbox", "vae", one, open ? (one.title === one.name ? "" : one.name) : why);
    input.disabled = !open;
    input.checked = open && ticked.has(one.id);
    input.addEventListener("change", () => {
      (input.checked ? ticked : unticked).add(one.id);
      (input.checked ? unticked : ticked).delete(one.id);
      if (picked) showVaes();
    });
    $("vaes").append(line);
    if (one.id === focused) input.focus();
  }
}

function showForm() {
  const chosen = model();
  $("examples").replaceChildren();
  for (const text of picked || !chosen ? [] : chosen.examples)
    $("examples").append(button(word("try", { text }), () => (($("prompt").value = text), $("prompt").focus())));
  $("steps").placeholder = chosen?.steps ?? "";
  $("cfg").placeholder = chosen?.guidance ?? "";
  const before = $("scheduler").value;
  $("scheduler").replaceChildren(new Option(word("modelsOwn"), ""), ...choices.schedulers.map((name) => new Option(name, name)));
  $("scheduler").value = before;
  for (const id of ["models", "seed-line", "more", "examples"]) $(id).hidden = picked !== null;
  $("prompt").parentElement.hidden = picked !== null;
  $("picked").hidden = picked === null;
  $("drop").hidden = picked !== null;
  if (picked) [$("picked-name").textContent, $("preview").src] = [picked.name, picked.url];
}

// An upload.

async function upload(file) {
  trouble("");
  if (!file.type.startsWith("image/")) return trouble(word("notPicture"));
  if (file.size > LARGEST) return trouble(word("tooLarge"));
  trouble(word("uploading", { name: file.name }));
  try {
    const { id, name } = await ask("POST", `/api/uploads?name=${encodeURIComponent(file.name || "picture")}`, file, file.type);
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

// Asking.

function asked() {
  const seeds = $("seeds").value.split(/[\s,、]+/).filter(Boolean);
  const vaes = choices.vaes.filter((vae) => ticked.has(vae.id)).map((vae) => vae.id);
  if (!vaes.length) throw new Error(word("noVae"));
  if (picked) return { upload: picked.id, vaes };
  if (!$("prompt").value.trim()) throw new Error(word("noSubject"));
  if (!seeds.length || seeds.length > 16 || !seeds.every((seed) => /^\d{1,15}$/.test(seed))) throw new Error(word("badSeeds"));
  const made = { prompt: $("prompt").value.trim(), model: model()?.id, vaes, seeds: seeds.map(Number) };
  for (const id of ["steps", "cfg"]) if ($(id).value !== "") made[id] = Number($(id).value);
  for (const id of ["size", "scheduler", "negative"]) if ($(id).value.trim()) made[id] = $(id).value.trim();
  return made;
}

function use(job) {
  unpick();
  const { settings } = job;
  const radio = [...document.querySelectorAll("[name=model]")].find((one) => one.value === settings.model);
  if (radio) radio.checked = true;
  $("prompt").value = settings.prompt ?? "";
  $("seeds").value = (settings.seeds ?? [0]).join(" ");
  for (const id of ["steps", "cfg", "size", "scheduler", "negative"]) $(id).value = settings[id] ?? "";
  ticked = new Set(settings.vaes);
  settleTicks();
}
