// The form: models, VAEs, seeds, and an input for each option of sampling that the server lists; and the request's body.

const SEED_RANGE = [-(2n ** 63n), 2n ** 64n - 1n];
let choices = { models: [], vaes: [], options: [], limits: {} };
let uploaded = null; // { id, name, url }
let ticked = new Set(); // ids of VAEs
let unticked = new Set(); // ids of VAEs that the user has unticked

const model = () => choices.models.find((one) => one.id === content.querySelector("[name=model]:checked")?.value);

// The latent space that an upload is compared in: that of the first ticked VAE.
const tickedSpace = () => choices.vaes.find((vae) => ticked.has(vae.id))?.space;

// Whether a VAE can be ticked: it decodes the model's latents or, for an upload, shares the space of the ticked ones.
function fits(vae, chosen) {
  if (uploaded) return tickedSpace() === undefined || vae.space === tickedSpace();
  return vae.own_of ? vae.own_of === chosen?.id : vae.space === chosen?.space;
}

function choiceLine(type, name, one, about) {
  const line = make("label", "choice-line");
  const input = line.appendChild(Object.assign(make("input"), { type, name, value: one.id }));
  line.append(make("span", "", one.name), make("span", "about", about));
  return [line, input];
}

function showModels() {
  const before = model()?.id;
  const focused = document.activeElement?.name === "model" ? document.activeElement.value : null;
  $("models").replaceChildren($("models").firstElementChild);
  for (const one of choices.models) {
    const [line, input] = choiceLine("radio", "model", one, one.title);
    input.checked = one.id === (before ?? choices.models[0].id);
    input.addEventListener("change", () => {
      [ticked, unticked] = [new Set(), new Set()];
      updateForm();
    });
    $("models").append(line);
    if (one.id === focused) input.focus();
  }
}

// Drops ticks that don't fit. With none left, ticks the preselected VAEs; without any in this space, the first three.
function updateForm() {
  const open = choices.vaes.filter((vae) => fits(vae, model()));
  for (const id of [...ticked]) if (!open.some((vae) => vae.id === id)) ticked.delete(id);
  if (!ticked.size && !unticked.size) {
    const candidates = open.filter((vae) => !uploaded || vae.space === open[0].space);
    const preselected = candidates.filter((vae) => vae.preselected);
    for (const vae of preselected.length ? preselected : candidates.slice(0, 3)) ticked.add(vae.id);
  }
  showVAEs();
  showFields();
}

function showVAEs() {
  const focused = document.activeElement?.name === "vae" ? document.activeElement.value : null;
  $("vaes").replaceChildren($("vaes").firstElementChild);
  const sorted = [true, false].flatMap((open) => choices.vaes.filter((vae) => fits(vae, model()) === open));
  for (const one of sorted) {
    const open = fits(one, model());
    const owner = choices.models.find((other) => other.id === one.own_of);
    const why = owner && !uploaded ? say("ownVAEOf", { name: owner.name }) : say("otherSpace", { space: one.space ?? "?" });
    const [line, input] = choiceLine("checkbox", "vae", one, open ? one.title : why);
    input.disabled = !open;
    input.checked = open && ticked.has(one.id);
    input.addEventListener("change", () => {
      (input.checked ? ticked : unticked).add(one.id);
      (input.checked ? unticked : ticked).delete(one.id);
      if (uploaded) showVAEs();
    });
    $("vaes").append(line);
    if (one.id === focused) input.focus();
  }
}

// The inputs of the options of sampling; the id of each is the option's name.
function makeOptions() {
  const attributes = {
    integer: { type: "number", step: "1" },
    number: { type: "number", step: "any" },
    boolean: { type: "checkbox" },
    size: { type: "text" },
    text: { type: "text" },
  };
  $("options").replaceChildren(...choices.options.map((option) => {
    const input = make(option.kind === "choice" ? "select" : "input");
    Object.assign(input, { id: option.name }, attributes[option.kind]);
    if (input.type === "number") Object.assign(input, { min: option.minimum ?? "", max: option.maximum ?? "" });
    if (option.kind === "choice") input.append(new Option("", ""), ...option.choices.map((name) => new Option(name, name)));
    const label = make("label", option.kind === "text" ? "field wide-field" : "field");
    label.append(make("span"), input);
    label.title = option.help;
    return label;
  }));
  choices.options.forEach((option) => setOption(option, option.default));
}

const setOption = (option, value) => {
  if (option.kind === "boolean") $(option.name).checked = value ?? option.default;
  else $(option.name).value = value ?? option.default ?? "";
};

function showFields() {
  const chosen = model();
  const examples = uploaded || !chosen ? [] : chosen.examples;
  const use = (text) => (($("prompt").value = text), $("prompt").focus());
  $("examples").replaceChildren(...examples.map((text) => button(say("example", { text }), () => use(text))));
  for (const { name, kind } of choices.options) {
    $(name).previousElementSibling.textContent = say(name);
    if (kind === "choice") $(name).options[0].textContent = say("modelDefault");
    else $(name).placeholder = chosen?.defaults[name] ?? "";
  }
  $("max-side").placeholder = choices.limits.max_side ?? "";
  for (const id of ["models", "seed-field", "more", "examples", "drop"]) $(id).hidden = uploaded !== null;
  $("prompt").parentElement.hidden = uploaded !== null;
  for (const id of ["upload", "max-side-field"]) $(id).hidden = uploaded === null;
  if (uploaded) [$("upload-name").textContent, $("preview").src] = [uploaded.name, uploaded.url];
}

const badSeeds = () => Object.assign(new Error(say("badSeeds", { limit: choices.limits.seeds })), { field: "seeds" });

// The seeds as BigInts. Throws an Error that names the field.
function seeds() {
  const found = $("seeds").value.split(/[\s,、]+/).filter(Boolean).flatMap(seedsOf);
  if (!found.length || found.length > choices.limits.seeds) throw badSeeds();
  return checkRange(found);
}

// The seeds of "5" or "0-7".
function seedsOf(text) {
  const parts = /^(-?\d{1,20})(?:-(\d{1,20}))?$/.exec(text);
  if (!parts) throw badSeeds();
  const first = BigInt(parts[1]);
  const count = BigInt(parts[2] ?? parts[1]) - first + 1n;
  if (count < 1n || count > choices.limits.seeds) throw badSeeds();
  return Array.from({ length: Number(count) }, (_, i) => first + BigInt(i));
}

function checkRange(numbers) {
  if (numbers.some((seed) => seed < SEED_RANGE[0] || seed > SEED_RANGE[1])) throw badSeeds();
  return numbers;
}

// The same number of seeds, shifted so that all are new: 9 3 becomes 16 10.
function nextSeeds() {
  try {
    const now = seeds();
    const sorted = [...now].sort((a, b) => (a < b ? -1 : 1));
    $("seeds").value = checkRange(now.map((seed) => seed + (sorted.at(-1) - sorted[0] + 1n))).join(" ");
  } catch (error) {
    showError(error.message);
  }
}

// What is in a field, undefined if it is empty; the server checks limits. Throws an Error for an unfinished number.
function valueOf(id) {
  const field = $(id);
  if (field.type === "checkbox") return field.checked;
  if (field.validity.badInput) {
    const name = field.parentElement.firstElementChild.textContent;
    throw Object.assign(new Error(say("notNumber", { name })), { field: id }); // its value is "", as if it were empty
  }
  const text = field.value.trim();
  return text === "" ? undefined : field.type === "number" ? Number(text) : text;
}

// The request's body as JSON. Seeds go in as text, as a Number would round large ones.
function requestBody() {
  const vaes = choices.vaes.filter((vae) => ticked.has(vae.id)).map((vae) => vae.id);
  if (!vaes.length) throw new Error(say("noVAE"));
  if (uploaded) return JSON.stringify({ upload: uploaded.id, vaes, max_side: valueOf("max-side") });
  if (!$("prompt").value.trim()) throw new Error(say("noPrompt"));
  const options = Object.fromEntries(choices.options.map(({ name }) => [name, valueOf(name)]));
  const body = { prompt: $("prompt").value.trim(), model: model()?.id, vaes, ...options };
  return `{"seeds":[${seeds().join(",")}],${JSON.stringify(body).slice(1)}`;
}

// Shows an error, and unfolds the options if one of them may be wrong.
function showFormError(error) {
  showError(error.message);
  const names = choices.options.map((option) => option.name);
  if (names.includes(error.field) || (error.status === 422 && names.some((name) => $(name).value.trim()))) $("more").open = true;
  if (error.field) $(error.field).focus();
}

// Fills the form with a job's settings.
function useSettings(job) {
  removeUpload();
  const { request, summary } = job;
  const radio = [...content.querySelectorAll("[name=model]")].find((one) => one.value === request.model);
  if (radio) radio.checked = true;
  $("prompt").value = request.prompt ?? "";
  $("seeds").value = summary.seeds ?? "0";
  for (const option of choices.options) setOption(option, request[option.name]);
  ticked = new Set(request.vaes);
  updateForm();
}
