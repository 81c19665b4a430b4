// The jobs on the page: the one in the address with its viewer, the queue, the history.

const ENDED = ["done", "failed", "cancelled", "interrupted"];
const jobs = new Map();
let olderJob = null; // the job in the address, if it is older than those in `jobs`
let total = { ended: 0, bytes: 0 }; // of all jobs that have ended
const cancelling = new Set(); // ids
let shown = ""; // in the viewer: a job's id and its number of panels

const titleOf = (job) => job.summary.prompt ?? job.summary.upload ?? job.id.slice(0, 8);
const hasEnded = (job) => ENDED.includes(job.state);
const newest = () => [...jobs.values()].sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : 0));
const ended = () => newest().filter(hasEnded);
const idInAddress = () => location.hash.slice(1);
const current = () => jobs.get(idInAddress()) ?? (olderJob?.id === idInAddress() ? olderJob : undefined);

// Makes these elements the list's children. One that stays is not moved: it would lose its focus and reload its image.
function replaceLines(list, lines) {
  for (const line of [...list.children]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, i) => list.children[i] === line || list.insertBefore(line, list.children[i] ?? null));
}

async function cancel(job) {
  cancelling.add(job.id);
  showAll();
  if (await attempt("POST", `/api/jobs/${job.id}/cancel`)) return;
  cancelling.delete(job.id); // it can be tried again
  showAll();
}

function meter(job, old) {
  const line = old ?? make("div", "meter");
  if (!old) {
    const bar = line.appendChild(make("progress"));
    bar.max = 1;
    line.append(make("span", "quiet"), button("", () => cancel(job)));
  }
  const [bar, text, stop] = line.children;
  const { done = 0, total = 0, what = "" } = job.progress ?? {};
  bar.setAttribute("aria-label", say("progress"));
  if (job.state === "running" && !total) bar.removeAttribute("value");
  else bar.value = total ? done / total : 0;
  const count = total ? `${what} · ${say("stepOf", { done, total })}` : job.state === "running" ? say("loading") : say("queued");
  text.textContent = cancelling.has(job.id) ? say("cancelling") : count;
  stop.textContent = say("cancel");
  stop.disabled = cancelling.has(job.id);
  return line;
}

function showJob() {
  const job = current();
  $("nothing").hidden = Boolean(job);
  $("now").hidden = !job;
  if (!job) return (shown = ""), window.vaelensViewer.show($("viewer"), []);
  $("now-title").textContent = titleOf(job);
  const names = [job.summary.model, ...job.summary.vaes].filter(Boolean).join(" · ");
  $("now-summary").textContent = job.state === "done" ? names : `${names} · ${say(job.state)}`;
  const line = $("now-progress");
  if (hasEnded(job)) line.replaceChildren();
  else if (line.dataset.job !== job.id || !line.firstElementChild) line.replaceChildren(meter(job));
  else meter(job, line.firstElementChild);
  line.dataset.job = job.id;
  $("now-error").textContent = job.error ?? "";
  $("now-notes").replaceChildren(...job.notes.map((sentence) => make("li", "", sentence)));
  showDownloads(job);
  if (shown === `${job.id} ${job.panels.length}`) return;
  shown = `${job.id} ${job.panels.length}`;
  const src = (layer) => `/api/jobs/${job.id}/images/${layer.image}`;
  const layers = (panel) => panel.layers.map((layer) => ({ ...layer, src: src(layer) }));
  const note = (panel) => (panel.note === job.summary.prompt ? "" : panel.note);
  const panels = job.panels.map((panel) => ({ ...panel, note: note(panel), layers: layers(panel) }));
  const save = (text) => send("POST", `/api/jobs/${job.id}/blind`, text);
  window.vaelensViewer.show($("viewer"), panels, job.blind ?? null, save);
}

function showDownloads(job) {
  const { count } = job.blind_results;
  const key = [language(), job.id, job.state, job.panels.length, count].join(" ");
  if ($("downloads").dataset.key === key) return;
  $("downloads").dataset.key = key;
  const link = (text, path) => Object.assign(make("a", "button", text), { href: path, download: "" });
  const all = ["page", "sheet", "record"].map((what) => link(say(what), `/api/jobs/${job.id}/${what}`));
  if (count) all.push(link(say("blindResults", { count }), `/api/jobs/${job.id}/blind`));
  const several = job.panels.length > 1;
  for (const panel of job.panels)
    for (const layer of panel.layers)
      all.push(link(several ? `${panel.title}, ${layer.name}` : layer.name, `/api/jobs/${job.id}/images/${layer.image}?download=1`));
  const again = hasEnded(job) && job.summary.prompt ? [button(say("again"), () => (useSettings(job), $("prompt").focus()), "last")] : [];
  const what = job.panels.length ? [make("span", "", say("download")), ...all] : [];
  $("downloads").hidden = !what.length && !again.length;
  $("downloads").replaceChildren(...what, ...again);
}

function showQueue() {
  const open = newest().reverse().filter((job) => !hasEnded(job));
  $("queue").hidden = !open.length;
  const known = new Map([...$("waiting").children].map((line) => [line.dataset.job, line]));
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
  replaceLines($("waiting"), lines);
}

function showHistory() {
  const all = ended();
  $("history").hidden = !total.ended;
  $("history-size").textContent = `${total.ended} · ${(total.bytes / 1e6).toFixed(total.bytes < 1e7 ? 1 : 0)} MB`;
  $("older").hidden = all.length >= total.ended;
  const known = new Map([...$("ended").children].map((line) => [line.dataset.key, line]));
  const lines = all.map((job) => {
    const key = [language(), job.id, job.state, job.panels.length, job.blind_results.count].join(" ");
    const line = known.get(key) ?? historyLine(job);
    line.dataset.key = key;
    line.firstElementChild.setAttribute("aria-current", String(job === current()));
    return line;
  });
  replaceLines($("ended"), lines);
}

function historyLine(job) {
  const line = make("li", "ended");
  const link = line.appendChild(make("a"));
  link.href = `#${job.id}`;
  link.setAttribute("aria-label", say("show", { title: titleOf(job) }));
  const thumb = link.appendChild(make("span", "thumb", job.panels.length ? undefined : say(job.state).split(/[:：]/)[0]));
  if (job.panels.length) {
    const image = thumb.appendChild(new Image());
    image.loading = "lazy";
    image.alt = "";
    image.src = `/api/jobs/${job.id}/thumbnail`;
  }
  link.append(make("span", "caption", titleOf(job)));
  const { count } = job.blind_results;
  const question = count ? say("confirmDeleteBlind", { count }) : say("confirmDelete");
  const bin = line.appendChild(button("×", () => confirm(question) && attempt("DELETE", `/api/jobs/${job.id}`), "bin"));
  bin.setAttribute("aria-label", `${say("delete")}: ${titleOf(job)}`);
  return line;
}

function showAll() {
  showJob();
  showQueue();
  showHistory();
}
