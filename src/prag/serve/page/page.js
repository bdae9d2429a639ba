// The page of `prag serve`: ask four ways, switch passages off, add and withdraw documents.
// What comes from the service becomes text nodes only, so nothing in a document can run here.

const METHODS = [
  ["closed-book", "Closed-book", "The model alone, without any passage."],
  ["in-context", "In-context", "The passages’ text in the prompt, as is usual."],
  ["parametric", "Parametric", "The passages’ adapters in the weights, no text in the prompt."],
  ["combined", "Combined", "Both: adapters in the weights and text in the prompt."],
];
const STAGES = {
  // what is done, and what is counted
  load: ["loading the model", ""],
  wait: ["waiting for another process that writes to the library", ""],
  augment: ["writing question-answer pairs", "passages"],
  read: ["reading the texts that adapters are to leave alone", "texts"],
  check: ["checking the adapters that are there", "adapters"],
  encode: ["training adapters", "tokens"],
  store: ["storing adapters", "adapters"],
  index: ["putting it into the search index", "passages"],
};
const LISTED = 50; // documents shown at once: a library may have millions

const byId = (id) => document.getElementById(id);
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const plural = (n, thing) => `${n.toLocaleString("en-GB")} ${thing}${n === 1 ? "" : "s"}`;
const seconds = (s) => (s === undefined || s === null ? "–" : `${s.toFixed(2)} s`);
const joined = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** An element with properties and children; strings become text. */
function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const paragraph = (className, ...children) => el("p", { className }, ...children);

function button(label, onClick, className = "") {
  const made = el("button", { type: "button", className }, ...[label].flat());
  made.addEventListener("click", onClick);
  return made;
}

/** Text for screen readers: what a button is about, where the eye sees it beside it. */
const hidden = (text) => el("span", { className: "visually-hidden" }, text);

/** Brings a part of the page into sight, and puts the focus where the reader goes on. */
function goTo(part, focused = byId(part)) {
  byId(part).scrollIntoView({ block: "start" });
  if (focused.tabIndex < 0) focused.tabIndex = -1; // a heading, where a button has gone
  focused.focus({ preventScroll: true });
}

/** Makes `list` show `items`, keeping the elements that are there: focus and open parts stay. */
function reconcile(list, items, keyOf, make, update) {
  const there = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const child = there.get(key) ?? make(item);
    child.dataset.key = key;
    there.delete(key);
    update(child, item);
    return child;
  });
  for (const gone of there.values()) gone.remove();
  wanted.forEach((child, i) => {
    if (list.children[i] !== child) list.insertBefore(child, list.children[i] ?? null);
  });
}

// Messages

function say(text, ...buttons) {
  byId("status").replaceChildren(text, ...buttons.flatMap((button) => [" ", button]));
  byId("error").textContent = "";
  showMessages();
}

function complain(error) {
  if (error.name === "AbortError") return;
  byId("status").textContent = "";
  byId("error").textContent = capital(error.message);
  showMessages();
}

function showMessages() {
  const shown = byId("status").textContent !== "" || byId("error").textContent !== "";
  byId("messages").classList.toggle("shown", shown);
  byId("dismiss").hidden = !shown;
}

byId("dismiss").addEventListener("click", () => say(""));

// The service

class ServiceError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let keyGiven = null; // resolves once a key is typed; shared by all calls that wait for one

function askForKey() {
  if (keyGiven) return keyGiven;
  const form = byId("key-form");
  form.hidden = false;
  byId("key").focus();
  keyGiven = new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("prag-key", byId("key").value.trim());
      byId("key").value = "";
      form.hidden = true;
      keyGiven = null;
      byId("question").focus();
      done();
    };
  });
  return keyGiven;
}

/** Rejects when `signal` aborts, so that what waits for a key can be stopped too. */
const stopped = (signal) =>
  new Promise((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

/** A response of the service; asks for the key and tries again where one is missing. */
async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("prag-key");
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError("the service does not answer: is it running?", 0);
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    // Another call may have brought a key while this one was under way.
    if (key === sessionStorage.getItem("prag-key")) {
      if (key) complain(error); // it is a wrong one
      await Promise.race([askForKey(), stopped(options.signal)]);
      say("");
    }
  }
}

async function errorOf(response) {
  const fallback = `the service answered ${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    return new ServiceError(error.message || fallback, response.status);
  } catch {
    return new ServiceError(fallback, response.status);
  }
}

const json = async (path, options) => (await call(path, options)).json();
const post = (path, body, signal) =>
  call(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

/** The data of server-sent events, parsed, up to `[DONE]`. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// Answers

const cards = new Map(METHODS.map(([method, ...about]) => [method, makeCard(method, ...about)]));

function makeCard(method, name, what) {
  const figure = (label) => {
    const value = el("dd", {}, "–");
    return [value, el("div", {}, el("dt", {}, label), value)];
  };
  const [tokens, tokensBox] = figure("Prompt tokens");
  const [first, firstBox] = figure("First token");
  const [total, totalBox] = figure("Total");
  const answer = el("p", { className: "answer pending" }, "–");
  answer.setAttribute("aria-live", "polite");
  answer.setAttribute("aria-atomic", "true");
  const whole = el("p", { className: "fine whole", hidden: true });
  const notes = el("p", { className: "fine notes", hidden: true });
  const agrees = el("p", { className: "agrees" });
  const box = el(
    "article",
    { className: "card" },
    el("h3", { id: `card-${method}` }, name),
    el("p", { className: "fine what" }, what),
    answer,
    whole,
    notes,
    el("dl", { className: "figures" }, tokensBox, firstBox, totalBox),
    agrees,
  );
  box.dataset.method = method;
  box.setAttribute("aria-labelledby", `card-${method}`);
  byId("cards").append(box);
  return { box, answer, whole, notes, tokens, first, total, agrees };
}

function setCard(card, state, text) {
  card.box.dataset.state = state;
  const coming = state === "asking" || state === "streaming"; // read out when it has ended
  card.answer.setAttribute("aria-busy", String(coming));
  card.answer.classList.toggle("pending", state === "asking" || state === "stopped");
  card.answer.classList.toggle("failed", state === "failed");
  card.answer.textContent = text;
}

function clearCard(card) {
  setCard(card, "asking", "Asking …");
  card.whole.hidden = card.notes.hidden = true;
  card.agrees.textContent = "";
  for (const figure of [card.tokens, card.first, card.total]) figure.textContent = "–";
}

let asked = null; // the question that the page shows, and its passages that are switched off
let asking = null; // the AbortController of what is under way

/** Asks one method and shows its answer as it comes. */
async function answer(method, question, prag, signal) {
  const card = cards.get(method);
  const request = {
    model: `prag/${method}`,
    messages: [{ role: "user", content: question }],
    stream: true,
    stream_options: { include_usage: true },
    prag,
  };
  let text = "";
  let about = null;
  for await (const chunk of events(await post("v1/chat/completions", request, signal))) {
    if (chunk.error) throw new ServiceError(chunk.error.message, 0);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) {
      text += piece;
      setCard(card, "streaming", text.trimStart());
    }
    about = chunk.prag ?? about;
    if (chunk.usage) card.tokens.textContent = chunk.usage.prompt_tokens.toLocaleString("en-GB");
  }
  if (about === null) throw new ServiceError("the answer broke off before its end", 0);
  card.first.textContent = seconds(about.timings.first_token);
  card.total.textContent = seconds(about.timings.total);
  const short = about.answer.trim();
  setCard(card, "done", short || "No answer.");
  card.whole.textContent = `In full: ${text.trim()}`;
  card.whole.hidden = normalised(text) === normalised(short);
  card.notes.textContent = (about.notes ?? []).map((note) => `${capital(note)}.`).join(" ");
  card.notes.hidden = !card.notes.textContent;
  return about;
}

/** Asks all four at the same time; the service answers them as one batch. */
async function ask(question, off = []) {
  asking?.abort(new DOMException("asked anew", "AbortError"));
  const mine = (asking = new AbortController());
  asked = { question, off };
  say("");
  byId("stop").disabled = false;
  byId("ask-again").disabled = true;
  byId("agreement").textContent = "Asking all four methods …";
  for (const card of cards.values()) clearCard(card);

  const topK = Number(byId("top-k").value);
  const prag = { top_k: topK };
  if (off.length) prag.filter = { without_passages: off.map((passage) => passage.id) };
  else {
    byId("passages").replaceChildren(); // a new question: what it finds is switched on
    findPassages(question, topK, mine.signal);
  }

  const answers = new Map();
  const tries = METHODS.map(async ([method]) => {
    try {
      const about = await answer(method, question, prag, mine.signal);
      if (mine !== asking) return;
      answers.set(method, about);
      if (method !== "closed-book") showPassages(about.passages);
    } catch (error) {
      if (mine !== asking) return; // its card belongs to a later question
      if (error.name === "AbortError") setCard(cards.get(method), "stopped", "Stopped.");
      else setCard(cards.get(method), "failed", capital(error.message));
    }
  });
  await Promise.all(tries);
  if (mine !== asking) return;
  asking = null;
  if (document.activeElement === byId("stop")) byId("question").focus();
  byId("stop").disabled = true;
  compare(answers);
  offerAgain();
}

/** As answers are compared: lower case, without punctuation and articles (those of SQuAD). */
const normalised = (text) =>
  text
    .toLowerCase()
    .replace(/[\p{P}\p{S}]/gu, "")
    .replace(/\b(a|an|the)\b/g, " ")
    .replace(/\s+/g, " ")
    .trim();

/** Says in words which answers are the same. */
function compare(answers) {
  const groups = new Map();
  for (const [method] of METHODS) {
    const said = normalised(answers.get(method)?.answer ?? "");
    if (said) groups.set(said, [...(groups.get(said) ?? []), method]);
  }
  for (const methods of groups.values())
    for (const method of methods) {
      const others = methods.filter((other) => other !== method);
      cards.get(method).agrees.textContent = others.length
        ? `Agrees with ${joined(others)}.`
        : "Agrees with none of the others.";
    }
  const shared = [...groups.values()].filter((methods) => methods.length > 1);
  const alone = [...groups.values()].filter((methods) => methods.length === 1).flat();
  const missing = METHODS.length - shared.flat().length - alone.length;
  const parts = shared.map((methods) =>
    methods.length === METHODS.length
      ? "All four methods agree."
      : `${capital(joined(methods))} agree.`,
  );
  if (shared.length === 0 && alone.length > 1) parts.push("No two answers agree.");
  else if (alone.length === 1) parts.push(`${capital(alone[0])} says something else.`);
  else if (alone.length > 1) parts.push(`${capital(joined(alone))} each say something else.`);
  if (missing) parts.push(`${missing} of 4 gave no answer.`);
  byId("agreement").textContent = parts.join(" ");
}

byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(byId("question").value.trim());
});
byId("stop").addEventListener("click", () =>
  asking?.abort(new DOMException("stopped", "AbortError")),
);

// Passages

/** The search alone is quicker than an answer: its passages are shown while the model writes. */
async function findPassages(question, topK, signal) {
  try {
    const query = new URLSearchParams({ q: question, top_k: topK });
    const { passages } = await json(`search?${query}`, { signal });
    if (!signal.aborted && asked.question === question) showPassages(passages);
  } catch (error) {
    complain(error);
  }
}

/** Those found, and behind them those switched off, so that they can be switched on again. */
function showPassages(passages) {
  const found = new Set(passages.map((passage) => passage.id));
  const off = asked.off.filter((passage) => !found.has(passage.id));
  const all = [...passages.map((passage) => ({ ...passage, on: true })), ...off];
  byId("passages-empty").hidden = all.length > 0;
  byId("passages-empty").textContent = "The search found none.";
  reconcile(byId("passages"), all, (passage) => passage.id, makePassage, updatePassage);
  offerAgain();
}

function makePassage(passage) {
  const use = el("input", { type: "checkbox", checked: passage.on ?? false });
  use.addEventListener("change", () => {
    use.closest("li").classList.toggle("off", !use.checked);
    offerAgain();
  });
  const title = passage.title || "Without a title";
  return el(
    "li",
    { className: use.checked ? "" : "off" },
    el("div", { className: "title" }, el("h3", {}, title), el("span", { className: "fine score" })),
    paragraph("text", passage.text),
    paragraph("fine", `From ${joined(passage.documents)}`),
    paragraph("fine adapter"),
    el("label", { className: "use" }, use, el("span", {}, "Use this passage ", hidden(title))),
  );
}

function updatePassage(item, passage) {
  // An answer that used the text alone names no adapter: the one that the search named stays.
  item.passage = { ...passage, adapter: passage.adapter ?? item.passage?.adapter };
  const score = passage.on ? `score ${passage.score.toFixed(2)}` : "switched off";
  item.querySelector(".score").textContent = score;
  item.querySelector(".adapter").replaceChildren(...adapterName(item.passage.adapter));
}

/** The three parts of a key, shortened: passage, base model and recipe. */
function adapterName(key, none = "No adapter") {
  if (!key) return [none];
  const short = key.split("-").map((part) => part.slice(0, 6)).join("-");
  return ["Adapter ", el("code", { title: key, ariaLabel: key }, short)];
}

const passagesOff = () =>
  [...byId("passages").children]
    .filter((item) => !item.querySelector("input").checked)
    .map((item) => ({ ...item.passage, on: false }));

/** Asking again makes sense once the choice differs from that of the answers shown. */
function offerAgain() {
  const before = new Set(asked?.off.map((passage) => passage.id));
  const now = passagesOff();
  const same = now.length === before.size && now.every((passage) => before.has(passage.id));
  byId("ask-again").disabled = asked === null || same;
}

byId("ask-again").addEventListener("click", () => {
  const off = passagesOff();
  goTo("answers-title");
  ask(asked.question, off);
});

// Documents

const documentPath = (name) => `documents/${encodeURIComponent(name)}`;

/** A document's name that opens to its passages and what they were trained on. */
function documentView(name, open = false) {
  const content = el("div", { className: "content" });
  const view = el("details", { open }, el("summary", {}, name), content);
  const note = (text) => paragraph("muted", text);
  let shown = "";
  view.refresh = async () => {
    if (!view.open) return;
    try {
      const answer = await json(documentPath(name));
      const now = JSON.stringify(answer);
      if (now === shown) return; // what is the same stays, with its open parts
      shown = now;
      const passages = answer.passages.map((passage) => passageView(passage, answer.state));
      content.replaceChildren(...(passages.length ? passages : [note("No passages yet.")]));
    } catch (error) {
      if (error.status !== 404) complain(error);
      else if (!shown) content.replaceChildren(note("Not read yet."));
    }
  };
  view.addEventListener("toggle", view.refresh);
  return view;
}

function passageView(passage, state) {
  const none = state === "adding" ? "No adapter yet" : "No adapter";
  return el(
    "div",
    { className: "passage" },
    el("h4", {}, passage.title || "Without a title"),
    el("p", {}, passage.text),
    paragraph("fine", ...adapterName(passage.adapter, none)),
    ...augmentationView(passage.augmentation),
  );
}

/** What a passage is trained on: rewrites, pairs, and what was rejected, with the reasons. */
function augmentationView(made) {
  if (!made) return [paragraph("muted", "Not augmented yet.")];
  const { rewrites, pairs, rejects, origin } = made;
  const pair = ({ question, answer }) =>
    el("div", {}, el("dt", {}, question), el("dd", {}, answer));
  const reject = ({ text, reason }) =>
    el("li", {}, `${text} `, el("span", { className: "muted" }, `(${reason})`));
  return [
    rewrites.length ? el("h4", {}, plural(rewrites.length, "rewrite")) : null,
    ...rewrites.map((text) => el("p", {}, text)),
    el("h4", {}, plural(pairs.length, "question-answer pair")),
    el("dl", { className: "pairs" }, ...pairs.map(pair)),
    rejects.length
      ? el(
          "details",
          { className: "rejects" },
          el("summary", {}, `${rejects.length} rejected`),
          el("ul", {}, ...rejects.map(reject)),
        )
      : paragraph("fine", "None rejected."),
    paragraph("fine", `Origin: ${origin}`),
  ];
}

let library = [];

async function readLibrary() {
  try {
    library = (await json("documents")).documents;
    showLibrary();
  } catch (error) {
    complain(error);
  }
}

function showLibrary() {
  const part = byId("find").value.toLowerCase();
  const fitting = library.filter(({ name }) => name.toLowerCase().includes(part));
  const shown = fitting.slice(0, LISTED);
  byId("find-row").hidden = library.length <= 10;
  byId("library-note").textContent = libraryNote(fitting.length, shown.length, part);
  reconcile(byId("documents"), shown, ({ name }) => name, makeDocument, (item, about) => {
    const state = about.state === "adding" ? "being added" : plural(about.passages, "passage");
    item.querySelector(".state").textContent = state;
  });
}

function libraryNote(fitting, shown, part) {
  if (library.length === 0) return "No documents yet.";
  const found = part ? `, ${fitting.toLocaleString("en-GB")} with this in their name` : "";
  const cut = fitting > shown ? `; the first ${shown} are shown` : "";
  return `${plural(library.length, "document")}${found}${cut}.`;
}

function makeDocument({ name }) {
  const line = el("div", { className: "line" });
  const ask = (event) => confirmWithdrawal(name, line, event.currentTarget);
  const withdraw = button(["Withdraw ", hidden(name)], ask, "withdraw");
  line.append(documentView(name), el("span", { className: "fine state" }), withdraw);
  return el("li", {}, line);
}

/** Asks in the page whether a document is to go; Escape keeps it. */
function confirmWithdrawal(name, line, withdraw) {
  const keep = () => {
    box.remove();
    withdraw.disabled = false;
    withdraw.focus();
  };
  const go = async () => {
    yes.disabled = no.disabled = true;
    try {
      const job = await json(documentPath(name), { method: "DELETE" });
      say(`${name} is withdrawn: no answer rests on it any more.`, ...askLast());
      await readLibrary();
      goTo("library-title"); // the button has gone with its document
      watch(job);
    } catch (error) {
      keep();
      complain(error);
    }
  };
  const yes = button("Withdraw it", go, "yes");
  const no = button("Keep it", keep);
  const question = `Withdraw ${name}? Its passages and their adapters are deleted.`;
  const box = el("div", { className: "confirm", role: "group" }, el("span", {}, question), yes, no);
  box.addEventListener("keydown", (event) => event.key === "Escape" && keep());
  withdraw.disabled = true;
  line.append(box);
  yes.focus();
}

/** A button that asks the last question again, if there is one. */
function askLast() {
  if (asked === null) return [];
  const { question } = asked;
  const again = () => {
    byId("question").value = question;
    goTo("ask-title", byId("question"));
    ask(question);
  };
  return [button(`Ask again: ${question}`, again, "ask-last")];
}

async function addDocuments(body) {
  try {
    say("Sending …");
    const files = body instanceof FormData;
    const sent = files ? call("documents", { method: "POST", body }) : post("documents", body);
    const job = await (await sent).json();
    say("Accepted.");
    watch(job, true);
    await readLibrary();
    return true;
  } catch (error) {
    complain(error);
    return false;
  }
}

/** A name that no document has: one that is added under a known name replaces the document. */
function freshName() {
  const known = new Set(library.map(({ name }) => name));
  let n = 1;
  const name = () => (n === 1 ? "note.txt" : `note-${n}.txt`);
  while (known.has(name())) n += 1;
  return name();
}

function addFiles(files) {
  if (files.length === 0) return;
  const body = new FormData();
  for (const file of files) body.append("files", file);
  addDocuments(body);
}

byId("files").addEventListener("change", (event) => {
  addFiles([...event.target.files]);
  event.target.value = ""; // the same file can be chosen again
});
byId("paste-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = byId("paste-name").value.trim();
  const added = await addDocuments({ documents: [{ name, text: byId("paste-text").value }] });
  if (!added) return;
  byId("paste-text").value = "";
  byId("paste-name").value = freshName();
});
byId("paste-text").addEventListener("paste", (event) => {
  if (event.clipboardData.files.length === 0) return; // text goes into the field by itself
  event.preventDefault();
  addFiles([...event.clipboardData.files]);
});
byId("find").addEventListener("input", showLibrary);

// Beside a small zone a dropped file would make the browser leave the page: all of it takes them.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) byId("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files.length === 0) return; // text falls where it is dropped
  event.preventDefault();
  addFiles([...event.dataTransfer.files]);
});

// Jobs

const watched = new Set();
const ended = (job) => job.state === "done" || job.state === "failed";

/** Follows a job to its end, once a second. */
async function watch(job, open = false) {
  if (watched.has(job.id)) return;
  watched.add(job.id);
  const shown = makeJob(job, open);
  byId("jobs").prepend(shown.item);
  byId("jobs-title").hidden = false;
  let missed = 0;
  while (!ended(job)) {
    shown.update(job);
    await sleep(1000);
    try {
      job = await json(`jobs/${encodeURIComponent(job.id)}`);
      missed = 0;
    } catch (error) {
      const passing = !error.status || error.status >= 500 || error.status === 429;
      if (!passing) return complain(error);
      if (++missed === 3) complain(error); // a service that is started again goes on
    }
  }
  shown.update(job);
  await readLibrary();
  const names = joined(job.documents);
  if (job.state === "failed") complain(new Error(`${names}: ${job.error}`));
  else if (job.kind === "add") say(`${names} can be asked about now.`);
}

function makeJob(job, open) {
  const adding = job.kind === "add";
  const many = job.documents.length > 3;
  const what = many ? plural(job.documents.length, "document") : joined(job.documents);
  const title = `${adding ? "Adding" : "Withdrawing"} ${what}`;
  const stage = paragraph("fine stage");
  const bar = el("progress", { max: 1, ariaLabel: title });
  const about = button("Ask about it", () => goTo("ask-title", byId("question")), "ask-about");
  const remove = button(["Put away ", hidden(title)], () => {
    item.remove();
    byId("jobs-title").hidden = byId("jobs").children.length === 0;
    goTo("documents-title");
  });
  const views = adding
    ? job.documents.slice(0, LISTED).map((name) => documentView(name, open && !many))
    : [];
  const buttons = el("span", { className: "buttons" }, about, remove);
  const head = el("div", { className: "line" }, el("strong", {}, title), buttons);
  const item = el("li", {}, head, stage, bar, ...views);
  item.dataset.job = job.id;
  const update = (now) => {
    item.dataset.state = now.state;
    stage.textContent = stageOf(now);
    if (now.total) bar.value = now.done / now.total;
    else bar.removeAttribute("value");
    bar.hidden = ended(now);
    remove.hidden = !ended(now);
    about.hidden = !adding || now.state !== "done";
    for (const view of views) view.refresh();
  };
  return { item, update };
}

function stageOf(job) {
  if (job.state === "failed") return `Failed: ${job.error}`;
  if (job.state === "done")
    return job.kind === "add" ? "Done: it can be asked about." : "Done: its adapters are deleted.";
  if (job.state === "waiting") return "Waiting for its turn.";
  const begun = job.kind === "add" ? "reading" : "deleting its adapters";
  const [what, unit] = STAGES[job.stage] ?? [begun, ""];
  const [done, total] = [job.done, job.total].map((n) => n.toLocaleString("en-GB"));
  return capital(job.total ? `${what}: ${done} of ${total} ${unit}` : `${what} …`);
}

// The beginning

/** Says why the service is not ready, and looks again until it is. */
async function untilReady() {
  for (;;) {
    try {
      const response = await fetch("readyz");
      if (response.ok) break;
      byId("ready").textContent = capital((await errorOf(response)).message);
    } catch {
      byId("ready").textContent = "The service does not answer.";
    }
    await sleep(2000);
  }
  byId("ready").textContent = "Ready.";
}

async function begin() {
  untilReady();
  await readLibrary();
  byId("paste-name").value = freshName();
  try {
    const { jobs } = await json("jobs");
    for (const job of jobs) if (!ended(job)) watch(job);
  } catch (error) {
    complain(error);
  }
}

begin();
