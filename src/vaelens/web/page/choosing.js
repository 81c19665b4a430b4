// What is chosen: the model, and the VAEs that fit it or the upload.

let choices = { models: [], vaes: [], schedulers: [] };
let picked = null; // { id, name, url } of an upload
let unticked = new Set(); // VAEs that somebody has unticked
let ticked = new Set();

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
  const focused = document.activeElement?.name === "model" ? document.activeElement.value : null;
  $("models").replaceChildren($("models").firstElementChild);
  for (const one of choices.models) {
    const [line, input] = tick("radio", "model", one, one.title === one.name ? "" : one.name);
    input.checked = one.id === (before ?? choices.models[0].id);
    input.addEventListener("change", chooseModel);
    $("models").append(line);
    if (one.id === focused) input.focus();
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
  $("size").placeholder = chosen?.side ? `${chosen.side}x${chosen.side}` : "";
  $("max-side").placeholder = choices.max_side ?? "";
  const before = $("scheduler").value;
  $("scheduler").replaceChildren(new Option(word("modelsOwn"), ""), ...choices.schedulers.map((name) => new Option(name, name)));
  $("scheduler").value = before;
  for (const id of ["models", "seed-line", "more", "examples"]) $(id).hidden = picked !== null;
  $("prompt").parentElement.hidden = picked !== null;
  for (const id of ["picked", "side-line"]) $(id).hidden = picked === null;
  $("drop").hidden = picked !== null;
  if (picked) [$("picked-name").textContent, $("preview").src] = [picked.name, picked.url];
}
