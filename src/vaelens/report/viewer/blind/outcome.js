// The result of a blind test, shown once it has ended: numbers, names, and the file.

// save(text): a promise that the result is stored elsewhere, or null. Returns { root, relabel, close, done }: done gives
// "again" or "leave".
function showOutcome(result, save, sealed) {
  const root = document.getElementById("blind-outcome").content.firstElementChild.cloneNode(true);
  const part = (name) => root.querySelector(`.${name}`);
  const text = resultText(result);
  let kept = save ? "storing" : "notKept"; // the name of a text
  let reason = "";
  let finish;
  const done = new Promise((resolve) => (finish = resolve));

  function relabel() {
    const { trials, planned } = result;
    part("shown").textContent = say(trials.length < planned ? "stoppedAt" : "allTrials", { trials: trials.length, planned });
    part("found").replaceChildren(...(trials.length ? describe(result) : []));
    part("kept").textContent = say(kept, { reason });
    part("leave").textContent = say(sealed ? "showNames" : "backToPage");
  }

  async function store() {
    try {
      await save(text);
      kept = "stored";
      if (root.isConnected) guardResult(false); // otherwise another test may have begun
    } catch (error) {
      [kept, reason] = ["notStored", error.message.replace(/\.$/, "")];
    }
    relabel();
  }

  for (const name of ["save", "kept", "pool"]) part(name).hidden = !result.trials.length;
  part("save").addEventListener("click", () => {
    const person = result.person.toLowerCase().match(/[\p{L}\p{N}]+/gu)?.join("-");
    saveText(text, ["blind", person, result.test, result.run.slice(0, 8)].filter(Boolean).join("-") + ".json");
    if (kept !== "stored") kept = "saved";
    guardResult(false);
    relabel();
  });
  async function leave(how) {
    const isLost = result.trials.length && !["saved", "stored"].includes(kept);
    if (!isLost || (await confirmed("discardTitle", "discardAbout", "discardStay", "discard"))) finish(how);
  }

  part("again").addEventListener("click", () => leave("again"));
  part("leave").addEventListener("click", () => leave("leave"));
  translate(root);
  relabel();
  if (save && result.trials.length) store();
  return { root, relabel, done, close: () => root.remove() };
}

// Whether the person says yes. The arguments are names of texts: title, explanation, and the two answers.
function confirmed(title, about, no, yes) {
  if (document.querySelector("dialog[open]")) return Promise.resolve(false);
  const dialog = document.getElementById("blind-confirm").content.firstElementChild.cloneNode(true);
  [...dialog.querySelectorAll("h2, p, button")].forEach((element, i) => (element.textContent = say([title, about, no, yes][i])));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

const askBeforeLeaving = (event) => event.preventDefault();

// Whether the browser asks before the page goes away with an unsaved result.
function guardResult(on) {
  if (on) addEventListener("beforeunload", askBeforeLeaving);
  else removeEventListener("beforeunload", askBeforeLeaving);
}
