// The page: what is asked on the left, the job that is shown on the right, queue and history below. The server has the
// state; this only shows it, so that a reload changes nothing. All texts go in as textContent, never as markup.

const TOLD = ["queued", ...ENDS]; // the states that who can't see the page is told of
let source = null;

async function go(event) {
  event.preventDefault();
  if (event.repeat || $("go").disabled) return; // a key that is held down asks once
  trouble("");
  $("go").disabled = true;
  try {
    const job = await ask("POST", "/api/jobs", asked());
    if (!jobs.has(job.id)) learn([job]); // else an event was faster, and knows more
    location.hash = job.id;
  } catch (error) {
    tell(error);
  }
  $("go").disabled = false;
  showAll();
}

// What the server tells. A page that nobody sees doesn't listen: a browser has few connections to a server.

function learn(changed, before = jobs) {
  const news = changed.filter((job) => TOLD.includes(job.state) && before.get(job.id)?.state !== job.state);
  for (const job of changed) {
    jobs.set(job.id, job);
    if (hasEnded(job)) cancelling.delete(job.id);
  }
  if (news.length) $("told").textContent = news.map((job) => word("told", { title: titleOf(job), state: word(job.state) })).join(" ");
}

function forget(id) {
  jobs.delete(id);
  if (guest?.id === id) guest = null;
  if (inAddress() === id) history.replaceState(null, "", location.pathname);
}

function take({ jobs: changed, gone, past: count, bytes }) {
  total = { past: count, bytes };
  learn(changed);
  gone.forEach(forget);
  showNow();
  showQueue();
  if (gone.length || changed.some(hasEnded)) showHistory(); // not at each step of a job
}

async function takeAll({ jobs: all, past: count, bytes }) {
  const before = new Map(jobs);
  const had = past().length;
  total = { past: count, bytes };
  guest = current() ?? guest; // shown on until `seek` knows whether it is still there
  jobs.clear();
  learn(all.filter((job) => before.has(job.id)), before);
  for (const job of all) jobs.set(job.id, job); // those that weren't known aren't news: the page is new, or was away
  while (past().length < Math.min(had, total.past)) if (!(await older())) break;
  await seek();
  showAll();
}

// More of the history; gives how many came.
async function older() {
  try {
    const oldest = past().at(-1);
    const { jobs: more } = await ask("GET", oldest ? `/api/jobs?before=${oldest.id}` : "/api/jobs");
    for (const job of more) if (!jobs.has(job.id)) jobs.set(job.id, job);
    showHistory();
    return more.length;
  } catch (error) {
    trouble(error.message);
    return 0;
  }
}

// The job in the address, where it is too old to have been told.
async function seek() {
  const wanted = inAddress();
  if (!/^[0-9a-f]{32}$/.test(wanted) || jobs.has(wanted)) return;
  const found = await ask("GET", `/api/jobs/${wanted}`).catch(() => null);
  if (inAddress() === wanted) guest = found;
}

async function refresh() {
  const first = !choices.models.length;
  const found = await ask("GET", "/api/choices").catch(() => choices);
  if (JSON.stringify(found) === JSON.stringify(choices)) return; // what somebody is about to choose stays where it is
  choices = found;
  showModels();
  settleTicks();
  if (first && current()?.asked.prompt && !$("prompt").value) use(current()); // a reload keeps what was asked
}

function listen() {
  source?.close();
  source = null;
  if (document.hidden) return;
  const mine = (source = new EventSource("/api/events"));
  mine.addEventListener("state", async (event) => {
    $("lost").hidden = true;
    await takeAll(JSON.parse(event.data));
    refresh();
  });
  mine.addEventListener("change", (event) => take(JSON.parse(event.data)));
  mine.addEventListener("error", async () => {
    $("lost").textContent = word("lost");
    $("lost").hidden = document.hidden;
    if (mine.readyState !== EventSource.CLOSED) return;
    setTimeout(() => source === mine && listen(), 2000);
    const why = await ask("GET", "/api/choices").catch((error) => error); // it answers, and refuses: then it says why
    if (why.status) $("lost").textContent = why.message;
  });
}

function begin() {
  $("ask").addEventListener("submit", go);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && go(event));
  $("file").addEventListener("change", () => $("file").files[0] && upload($("file").files[0]).then(() => ($("file").value = "")));
  $("unpick").addEventListener("click", unpick);
  $("next-seed").addEventListener("click", nextSeeds);
  $("older").addEventListener("click", older);
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, drag);
  document.addEventListener("paste", paste);
  addEventListener("hashchange", async () => {
    showAll();
    if (matchMedia("(max-width: 900px)").matches) $("job").scrollIntoView(); // there it stands below the form
    await seek();
    showAll();
  });
  document.addEventListener("visibilitychange", listen);
  // The viewer hears of the language by itself, and keeps what it shows.
  new MutationObserver(() => (sayAll(), settleTicks(), showAll())).observe(document.documentElement, { attributeFilter: ["lang"] });
  sayAll();
  listen();
}

begin();
