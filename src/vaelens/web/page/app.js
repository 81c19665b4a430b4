// The page: the form on the left, a job on the right, queue and history below. The server has all state, so a reload
// changes nothing. Texts are set as textContent, never as markup.

const ANNOUNCED = ["queued", ...ENDED]; // states that screen readers announce
let stream = null; // of the server's events

async function submit(event) {
  event.preventDefault();
  if (event.repeat || $("run").disabled) return; // a key held down submits once
  showError("");
  $("run").disabled = true;
  try {
    const job = await send("POST", "/api/jobs", requestBody());
    if (!jobs.has(job.id)) update([job]); // otherwise an event was faster, and is newer
    location.hash = job.id;
  } catch (error) {
    showFormError(error);
  }
  $("run").disabled = false;
  showAll();
}

// Events from the server. A hidden page closes its stream, as browsers limit the connections to a server.

function update(changed, before = jobs) {
  const news = changed.filter((job) => ANNOUNCED.includes(job.state) && before.get(job.id)?.state !== job.state);
  for (const job of changed) {
    jobs.set(job.id, job);
    if (hasEnded(job)) cancelling.delete(job.id);
  }
  const text = (job) => say("announcement", { title: titleOf(job), state: say(job.state) });
  if (news.length) $("announcement").textContent = news.map(text).join(" ");
}

function remove(id) {
  jobs.delete(id);
  if (olderJob?.id === id) olderJob = null;
  if (idInAddress() === id) history.replaceState(null, "", location.pathname);
}

function onChange({ jobs: changed, deleted, ended: count, bytes }) {
  total = { ended: count, bytes };
  update(changed);
  deleted.forEach(remove);
  showJob();
  showQueue();
  if (deleted.length || changed.some(hasEnded)) showHistory(); // not at every step of a job
}

async function onState({ jobs: all, ended: count, bytes }) {
  const before = new Map(jobs);
  const had = ended().length;
  total = { ended: count, bytes };
  olderJob = current() ?? olderJob; // shown until `findJob` knows whether it still exists
  jobs.clear();
  update(all.filter((job) => before.has(job.id)), before);
  for (const job of all) jobs.set(job.id, job); // new ones are not announced: the page was just opened, or hidden
  while (ended().length < Math.min(had, total.ended)) if (!(await loadOlder())) break;
  await findJob();
  showAll();
}

// Loads more of the history; returns how many jobs came.
async function loadOlder() {
  try {
    const oldest = ended().at(-1);
    const { jobs: more } = await send("GET", oldest ? `/api/jobs?before=${oldest.id}` : "/api/jobs");
    for (const job of more) if (!jobs.has(job.id)) jobs.set(job.id, job);
    showHistory();
    return more.length;
  } catch (error) {
    showError(error.message);
    return 0;
  }
}

// Loads the job in the address, if it is too old to have come with the state.
async function findJob() {
  const id = idInAddress();
  if (!/^[0-9a-f]{32}$/.test(id) || jobs.has(id)) return;
  const found = await send("GET", `/api/jobs/${id}`).catch(() => null);
  if (idInAddress() === id) olderJob = found;
}

async function loadChoices() {
  const first = !choices.models.length;
  const found = await send("GET", "/api/choices").catch(() => choices);
  if (JSON.stringify(found) === JSON.stringify(choices)) return; // an unchanged form keeps focus and input
  const sameOptions = JSON.stringify(found.options) === JSON.stringify(choices.options);
  choices = found;
  showModels();
  if (!sameOptions) makeOptions(); // keeps their input otherwise
  updateForm();
  if (first) $("run").disabled = false;
  if (first && current()?.summary.prompt && !$("prompt").value) useSettings(current()); // a reload keeps the form
}

function listen() {
  stream?.close();
  stream = null;
  if (document.hidden) return;
  const mine = (stream = new EventSource("/api/events"));
  mine.addEventListener("state", async (event) => {
    $("lost").hidden = true;
    await onState(JSON.parse(event.data));
    loadChoices();
  });
  mine.addEventListener("change", (event) => onChange(JSON.parse(event.data)));
  mine.addEventListener("error", async () => {
    $("lost").textContent = say("lost");
    $("lost").hidden = document.hidden;
    if (mine.readyState !== EventSource.CLOSED) return;
    setTimeout(() => stream === mine && listen(), 2000);
    const why = await send("GET", "/api/choices").catch((error) => error); // a server that refuses the stream says why
    if (why.status) $("lost").textContent = why.message;
  });
}

function start() {
  $("form").addEventListener("submit", submit);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event));
  $("file").addEventListener("change", () => $("file").files[0] && upload($("file").files[0]).then(() => ($("file").value = "")));
  $("remove-upload").addEventListener("click", removeUpload);
  $("next-seed").addEventListener("click", nextSeeds);
  $("older").addEventListener("click", loadOlder);
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, onDrag);
  document.addEventListener("paste", onPaste);
  document.addEventListener("error", onImageError, true); // of images, which don't pass it on
  addEventListener("hashchange", async () => {
    showAll();
    if (matchMedia("(max-width: 900px)").matches) $("job").scrollIntoView(); // there it is below the form
    await findJob();
    showAll();
  });
  document.addEventListener("visibilitychange", listen);
  // The viewer changes its own language.
  new MutationObserver(() => (translatePage(), updateForm(), showAll())).observe(document.documentElement, { attributeFilter: ["lang"] });
  translatePage();
  listen();
}

start();
