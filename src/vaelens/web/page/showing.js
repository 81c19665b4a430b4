// What is shown of the jobs: the one in the address with its viewer, the queue, the history.

const ENDS = ["done", "failed", "cancelled", "interrupted"];
const jobs = new Map();
let guest = null; // the job in the address where it is older than those in `jobs`
let total = { past: 0, bytes: 0 }; // of all jobs that have ended
const cancelling = new Set();
let shown = ""; // what the viewer shows: a job's id and how many panels

const titleOf = (job) => job.asked.prompt ?? job.asked.upload ?? job.id.slice(0, 8);
const hasEnded = (job) => ENDS.includes(job.state);
const newest = () => [...jobs.values()].sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : 0));
const past = () => newest().filter(hasEnded);
const inAddress = () => location.hash.slice(1);
const current = () => jobs.get(inAddress()) ?? (guest?.id === inAddress() ? guest : undefined);

// Puts these elements into the list, and moves none that stays: that would lose its focus, and load its image again.
function put(list, lines) {
  for (const line of [...list.children]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, i) => list.children[i] === line || list.insertBefore(line, list.children[i] ?? null));
}

async function cancel(job) {
  cancelling.add(job.id);
  showAll();
  if (await act("POST", `/api/jobs/${job.id}/cancel`)) return;
  cancelling.delete(job.id); // so that it can be tried again
  showAll();
}

function meter(job, old) {
  const line = old ?? make("div", "meter");
  if (!old) {
    const bar = line.appendChild(make("progress"));
    bar.max = 1;
    line.append(make("span", "quiet"), button("", () => cancel(job)));
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
  if (hasEnded(job)) line.replaceChildren();
  else if (line.dataset.job !== job.id || !line.firstElementChild) line.replaceChildren(meter(job));
  else meter(job, line.firstElementChild);
  line.dataset.job = job.id;
  $("now-error").textContent = job.error ?? "";
  $("now-said").replaceChildren(...job.said.map((sentence) => make("li", "", sentence)));
  showDownloads(job);
  if (shown === `${job.id} ${job.panels.length}`) return;
  shown = `${job.id} ${job.panels.length}`;
  const src = (layer) => `/api/jobs/${job.id}/images/${layer.image}`;
  const layers = (panel) => panel.layers.map((layer) => ({ ...layer, src: src(layer) }));
  window.vaelensViewer.show($("viewer"), job.panels.map((panel) => ({ ...panel, note: panel.note === job.asked.prompt ? "" : panel.note, layers: layers(panel) })));
}

function showDownloads(job) {
  const key = [tongue(), job.id, job.state, job.panels.length].join(" ");
  if ($("downloads").dataset.key === key) return;
  $("downloads").dataset.key = key;
  const link = (text, path) => Object.assign(make("a", "button", text), { href: path, download: "" });
  const all = ["page", "sheet", "record"].map((what) => link(word(what), `/api/jobs/${job.id}/${what}`));
  const several = job.panels.length > 1;
  for (const panel of job.panels)
    for (const layer of panel.layers)
      all.push(link(several ? `${panel.title}, ${layer.name}` : layer.name, `/api/jobs/${job.id}/images/${layer.image}?download=1`));
  const again = hasEnded(job) && job.asked.prompt ? [button(word("again"), () => (use(job), $("prompt").focus()), "last")] : [];
  const what = job.panels.length ? [make("span", "", word("download")), ...all] : [];
  $("downloads").hidden = !what.length && !again.length;
  $("downloads").replaceChildren(...what, ...again);
}

function showQueue() {
  const open = newest().reverse().filter((job) => !hasEnded(job));
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
  put($("queued"), lines);
}

function showHistory() {
  const ended = past();
  $("history").hidden = !total.past;
  $("history-size").textContent = `${total.past} · ${(total.bytes / 1e6).toFixed(total.bytes < 1e7 ? 1 : 0)} MB`;
  $("older").hidden = ended.length >= total.past;
  const known = new Map([...$("past").children].map((line) => [line.dataset.key, line]));
  const lines = ended.map((job) => {
    const key = [tongue(), job.id, job.state, job.panels.length].join(" ");
    const line = known.get(key) ?? pastOne(job);
    line.dataset.key = key;
    line.firstElementChild.setAttribute("aria-current", String(job === current()));
    return line;
  });
  put($("past"), lines);
}

function pastOne(job) {
  const line = make("li", "past");
  const link = line.appendChild(make("a"));
  link.href = `#${job.id}`;
  link.setAttribute("aria-label", word("show", { title: titleOf(job) }));
  const thumb = link.appendChild(make("span", "thumb", job.panels.length ? undefined : word(job.state).split(/[:：]/)[0]));
  if (job.panels.length) {
    const image = thumb.appendChild(new Image());
    image.loading = "lazy";
    image.alt = "";
    image.src = `/api/jobs/${job.id}/thumbnail`;
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
