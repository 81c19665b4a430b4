// The page: what is asked on the left, the job that is shown on the right, queue and history below. The server has the
// state; this only shows it, so that a reload changes nothing. All texts go in as textContent, never as markup.

const ENDS = ["done", "failed", "cancelled", "interrupted"];
const jobs = new Map();
const cancelling = new Set();
let shown = ""; // what the viewer shows: a job's id and how many panels
let source = null;

async function go(event) {
  event.preventDefault();
  trouble("");
  $("go").disabled = true;
  try {
    const job = await ask("POST", "/api/jobs", JSON.stringify(asked()));
    jobs.set(job.id, job);
    location.hash = job.id;
  } catch (error) {
    trouble(error.message);
  }
  $("go").disabled = false;
  showAll();
}

// What is shown of the jobs.

const titleOf = (job) => job.asked.prompt ?? job.asked.upload ?? job.id.slice(0, 8);
const newest = () => [...jobs.values()].sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : 0));
const current = () => jobs.get(location.hash.slice(1));

function meter(job, old) {
  const line = old ?? make("div", "meter");
  if (!old) {
    const bar = line.appendChild(make("progress"));
    bar.max = 1;
    line.append(make("span", "quiet"), button("", () => (cancelling.add(job.id), act("POST", `/api/jobs/${job.id}/cancel`), showAll())));
  }
  const [bar, what, stop] = line.children;
  const { done = 0, total = 0, what: doing = "" } = job.progress ?? {};
  bar.setAttribute("aria-label", word("progress"));
  if (job.state === "running" && !total) bar.removeAttribute("value");
  else bar.value = total ? done / total : 0;
  const count = total ? `${doing} · ${word("stepOf", { done, total })}` : job.state === "running" ? word("loading") : word("queued");
  what.textContent = cancelling.has(job.id) ? word("cancelling") : count;
  stop.textContent = word("cancel");
  stop.disabled = cancelling.has(job.id);
  return line;
}

function showNow() {
  const job = current();
  $("nothing").hidden = Boolean(job);
  $("now").hidden = !job;
  if (!job) return (shown = ""), window.vaelensViewer.show($("viewer"), []);
  $("now-title").textContent = titleOf(job);
  const made = [job.asked.model, ...job.asked.vaes].filter(Boolean).join(" · ");
  $("now-what").textContent = job.state === "done" ? made : `${made} · ${word(job.state)}`;
  const line = $("now-progress");
  if (ENDS.includes(job.state)) line.replaceChildren();
  else if (line.dataset.job !== job.id || !line.firstElementChild) line.replaceChildren(meter(job));
  else meter(job, line.firstElementChild);
  line.dataset.job = job.id;
  $("now-error").textContent = job.error ?? "";
  $("now-said").replaceChildren(...job.said.map((sentence) => make("li", "", sentence)));
  if (shown === `${job.id} ${job.panels.length}`) return;
  shown = `${job.id} ${job.panels.length}`;
  const src = (layer) => `/api/jobs/${job.id}/pictures/${layer.picture}`;
  const layers = (panel) => panel.layers.map((layer) => ({ ...layer, src: src(layer) }));
  window.vaelensViewer.show($("viewer"), job.panels.map((panel) => ({ ...panel, note: panel.note === job.asked.prompt ? "" : panel.note, layers: layers(panel) })));
  showDownloads(job);
}

function showDownloads(job) {
  const link = (text, path) => Object.assign(make("a", "button", text), { href: path, download: "" });
  const all = ["page", "sheet", "record"].map((what) => link(word(what), `/api/jobs/${job.id}/${what}`));
  const several = job.panels.length > 1;
  for (const panel of job.panels)
    for (const layer of panel.layers)
      all.push(link(several ? `${panel.title}, ${layer.name}` : layer.name, `/api/jobs/${job.id}/pictures/${layer.picture}?download=1`));
  $("downloads").hidden = !job.panels.length;
  const again = job.asked.prompt ? [button(word("again"), () => (use(job), $("prompt").focus()), "last")] : [];
  $("downloads").replaceChildren(make("span", "", word("download")), ...all, ...again);
}

function showQueue() {
  const open = newest().reverse().filter((job) => !ENDS.includes(job.state));
  $("queue").hidden = !open.length;
  const known = new Map([...$("queued").children].map((line) => [line.dataset.job, line]));
  const lines = open.map((job) => {
    const line = known.get(job.id) ?? make("li");
    if (!line.dataset.job) {
      const name = line.appendChild(make("a", "name", titleOf(job)));
      name.href = `#${job.id}`;
      line.append(meter(job));
      line.dataset.job = job.id;
    } else meter(job, line.lastElementChild);
    return line;
  });
  if (lines.length !== known.size || lines.some((line, i) => line !== $("queued").children[i])) $("queued").replaceChildren(...lines);
}

function showHistory() {
  const past = newest().filter((job) => ENDS.includes(job.state));
  const bytes = past.reduce((sum, job) => sum + (job.bytes ?? 0), 0);
  $("history").hidden = !past.length;
  $("history-size").textContent = `${past.length} · ${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  const key = JSON.stringify([tongue(), location.hash, past.map((job) => [job.id, job.state, job.panels.length])]);
  if ($("past").dataset.key === key) return;
  $("past").dataset.key = key;
  $("past").replaceChildren(...past.map(pastOne));
}

function pastOne(job) {
  const line = make("li", "past");
  const link = line.appendChild(make("a"));
  link.href = `#${job.id}`;
  link.setAttribute("aria-current", String(job === current()));
  link.setAttribute("aria-label", word("show", { title: titleOf(job) }));
  const thumb = link.appendChild(make("span", "thumb", job.panels.length ? undefined : word(job.state).split(/[:：]/)[0]));
  if (job.panels.length) {
    const image = thumb.appendChild(new Image());
    image.loading = "lazy";
    image.alt = "";
    image.src = `/api/jobs/${job.id}/pictures/${job.panels[0].layers.at(-1).picture}`;
  }
  link.append(make("span", "words", titleOf(job)));
  const bin = line.appendChild(button("×", () => confirm(word("sureDelete")) && act("DELETE", `/api/jobs/${job.id}`), "bin"));
  bin.setAttribute("aria-label", `${word("delete")}: ${titleOf(job)}`);
  return line;
}

function showAll() {
  showNow();
  showQueue();
  showHistory();
}

// What the server tells. A page that nobody sees doesn't listen: a browser has few connections to a server.

function take({ jobs: changed, gone }, all) {
  if (all) jobs.clear();
  for (const job of changed) {
    jobs.set(job.id, job);
    if (ENDS.includes(job.state)) cancelling.delete(job.id);
  }
  for (const id of gone) jobs.delete(id);
  showAll();
}

async function refresh() {
  const first = !choices.models.length;
  choices = await ask("GET", "/api/choices").catch(() => choices);
  showModels();
  settleTicks();
  if (first && current()?.asked.prompt && !$("prompt").value) use(current()); // a reload keeps what was asked
}

function listen() {
  source?.close();
  source = null;
  if (document.hidden) return;
  const mine = (source = new EventSource("/api/events"));
  mine.addEventListener("state", (event) => ((($("lost").hidden = true), take(JSON.parse(event.data), true), refresh())));
  mine.addEventListener("change", (event) => take(JSON.parse(event.data), false));
  mine.addEventListener("error", () => {
    $("lost").hidden = document.hidden;
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => source === mine && listen(), 2000);
  });
}

function begin() {
  $("ask").addEventListener("submit", go);
  $("prompt").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && go(event));
  $("file").addEventListener("change", () => $("file").files[0] && upload($("file").files[0]).then(() => ($("file").value = "")));
  $("unpick").addEventListener("click", unpick);
  $("next-seed").addEventListener("click", () => {
    const seeds = $("seeds").value.split(/[\s,、]+/).filter((seed) => /^\d{1,15}$/.test(seed)).map(Number);
    $("seeds").value = seeds.map((seed) => seed + (seeds.at(-1) - seeds[0] + 1)).join(" ") || "0";
  });
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      if (kind !== "dragleave") event.preventDefault(); // else the browser would leave for the dropped file
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer?.files[0]) upload(event.dataTransfer.files[0]);
    });
  document.addEventListener("paste", (event) => event.clipboardData?.files[0] && upload(event.clipboardData.files[0]));
  addEventListener("hashchange", () => {
    showAll();
    if (matchMedia("(max-width: 900px)").matches) $("job").scrollIntoView(); // there it stands below the form
  });
  document.addEventListener("visibilitychange", listen);
  new MutationObserver(() => (sayAll(), showModels(), settleTicks(), (shown = ""), showAll())).observe(document.documentElement, { attributeFilter: ["lang"] });
  sayAll();
  listen();
}

begin();
