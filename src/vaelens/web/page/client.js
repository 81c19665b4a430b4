// Requests to the server, uploads, and helpers to make elements.

// The page's content. A blind test takes it out of the document for a while; events find its elements all the same.
const content = document.getElementById("content");
const $ = (id) => content.querySelector(`#${id}`);

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const button = (text, onClick, className) => {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
};

// The server's response. Throws an Error with its message, and with its status if there was a response at all.
async function send(method, path, body, type = "application/json") {
  let response;
  try {
    response = await fetch(path, { method, body, headers: method === "GET" ? {} : { "Content-Type": type } });
  } catch {
    throw new Error(say("unreachable"));
  }
  const json = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(json.error ?? `HTTP ${response.status}`), { status: response.status });
  return json;
}

// Scrolled into view, as the form may be taller than the window.
function showError(text) {
  $("error").textContent = text;
  if (text) $("error").scrollIntoView({ block: "nearest" });
}

// Whether the request succeeded; if not, the page shows the error.
async function attempt(method, path) {
  try {
    await send(method, path, method === "POST" ? "{}" : undefined);
    return true;
  } catch (error) {
    showError(error.message);
    return false;
  }
}

// An image is refused without a word; where it is damaged, the page says so.
async function onImageError({ target }) {
  if (!target.src?.startsWith(`${location.origin}/api/`)) return;
  const error = await send("GET", target.src).catch((refused) => refused);
  if (error.status === 410) showError(error.message);
}

async function upload(file) {
  showError("");
  if (!file.type.startsWith("image/")) return showError(say("notImage"));
  const limit = choices.limits.upload_bytes; // the server checks it too
  if (file.size > limit) return showError(say("tooLarge", { limit: limit / 2 ** 20 }));
  showError(say("uploading", { name: file.name }));
  try {
    const path = `/api/uploads?name=${encodeURIComponent(file.name || "image")}`;
    const { id, name } = await send("POST", path, file, file.type);
    removeUpload();
    uploaded = { id, name, url: URL.createObjectURL(file) };
    showError("");
    updateForm();
  } catch (error) {
    showError(error.message);
  }
}

function removeUpload() {
  if (uploaded) URL.revokeObjectURL(uploaded.url);
  uploaded = null;
  $("preview").removeAttribute("src");
  updateForm();
}

// Files without text: office programs copy text together with an image of it, and the text is what is meant.
const holdsImage = (data) => Boolean(data?.types.includes("Files")) && !data.types.includes("text/plain");

function onPaste(event) {
  if (!content.isConnected) return; // during a blind test
  if (!holdsImage(event.clipboardData) || !event.clipboardData.files[0]) return;
  event.preventDefault();
  upload(event.clipboardData.files[0]);
}

function onDrag(event) {
  const data = event.dataTransfer;
  const image = holdsImage(data) && content.isConnected; // a blind test takes none
  $("drop").classList.toggle("over", image && event.type === "dragover");
  if (event.type === "dragleave" || !data?.types.includes("Files")) return; // text is dropped as usual
  if (image || !event.target.closest?.("textarea, input")) event.preventDefault(); // or the browser would open the file
  if (image && event.type === "drop" && data.files[0]) upload(data.files[0]);
}
