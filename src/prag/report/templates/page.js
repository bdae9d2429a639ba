"use strict";
// Browses the rows. All that comes from a run is put in as text (textContent), never as HTML.
(() => {
  const PAGE = 50;
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  if (!form) return;

  const rows = data.rows.map((r) => ({
    question: data.questions[r[0]], at: r[0], method: r[1], raw: r[2], answer: r[3], measures: r[4],
    error: r[5], hits: r[6], seconds: r[7], tokens: r[8], golds: r[9], remarks: r[10],
  }));
  const byMethod = data.methods.map(() => new Map()); // question -> row
  for (const row of rows) byMethod[row.method].set(row.at, row);

  const $ = (id) => document.getElementById(id);
  const right = (row) => !row.error && row.measures.presence >= 1;
  const golds = (row) => row.golds || row.question[4];

  function element(tag, text, name) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  function fill(select, options, keep) {
    const before = select.value;
    select.replaceChildren(...options.map(([value, text]) => {
      const option = element("option", text);
      option.value = value;
      return option;
    }));
    if (keep && options.some(([value]) => String(value) === before)) select.value = before;
  }

  const numbered = (names) => names.map((name, i) => [i, name]);
  fill($("by-run"), [["", "all"], ...numbered(data.runs)]);
  fill($("by-type"), [["", "all"], ...data.types.map((type) => [type, type])]);
  fill($("by-method"), [["", "all"], ...numbered(data.methods)]);
  fill($("by-other"), [["", "nothing"], ...numbered(data.methods)]);

  function outcomes() {
    const alone = [["", "all"], ["right", "right"], ["wrong", "wrong"], ["error", "errors"]];
    const beside = [["", "all"], ["differ", "answers differ"], ["one", "one right, one wrong"],
      ["first", "only the first right"], ["second", "only the second right"],
      ["both", "both right"], ["neither", "neither right"], ["error", "errors"]];
    fill($("by-outcome"), comparing() ? beside : alone, true);
  }

  const comparing = () => $("by-method").value !== "" && $("by-other").value !== "";

  const text = (row) => [row.question[1], row.question[3], golds(row).join("\n"), row.raw, row.answer,
    row.error, ...row.hits.map(([passage]) => data.passages[passage].join("\n"))].join("\n").toLowerCase();

  function passes(sides, outcome) {
    const [a, b] = sides;
    switch (outcome) {
      case "right": return right(a);
      case "wrong": return !a.error && !right(a);
      case "error": return sides.some((row) => row.error);
      case "differ": return a.raw !== b.raw || a.error !== b.error;
      case "one": return right(a) !== right(b);
      case "first": return right(a) && !right(b);
      case "second": return right(b) && !right(a);
      case "both": return right(a) && right(b);
      case "neither": return !right(a) && !right(b);
      default: return true;
    }
  }

  function found() {
    const run = $("by-run").value, type = $("by-type").value, method = $("by-method").value;
    const outcome = $("by-outcome").value, words = $("by-text").value.trim().toLowerCase();
    const other = comparing() ? byMethod[$("by-other").value] : null;
    const items = [];
    for (const row of method === "" ? rows : byMethod[method].values()) {
      if (run !== "" && row.question[0] !== Number(run)) continue;
      if (type !== "" && row.question[2] !== type) continue;
      const sides = other ? [row, other.get(row.at)] : [row];
      if (sides.includes(undefined) || !passes(sides, outcome)) continue;
      if (words && !sides.some((side) => text(side).includes(words))) continue;
      items.push(sides);
    }
    return items;
  }

  function side(row) {
    const box = element("div", undefined, "side");
    const head = element("p");
    head.append(element("strong", data.methods[row.method]), " ");
    const verdict = row.error ? ["error", "bad"] : right(row) ? ["✓ right", "good"] : ["✗ wrong", "bad"];
    head.append(element("span", row.measures.presence === undefined && !row.error ? "not scored" : verdict[0],
      row.measures.presence === undefined && !row.error ? "" : verdict[1]));
    box.append(head);
    if (row.error) {
      box.append(element("p", row.error, "raw bad"));
    } else {
      box.append(element("p", "Answer: " + (row.answer || "(nothing)")), element("p", row.raw || "(nothing)", "raw"));
    }
    if (row.golds) box.append(element("p", "Golden here: " + row.golds.join(" | ")));
    const figures = Object.entries(row.measures).map(([name, value]) => name + " " + value);
    if (typeof row.seconds === "number") figures.push(row.seconds.toFixed(3) + " s");
    if (typeof row.tokens === "number") figures.push(row.tokens + " prompt tokens");
    const last = element("p");
    last.append(element("small", [...figures, ...row.remarks].join(" · ")));
    if (row.hits.length) {
      const list = element("ul");
      for (const [passage, bits] of row.hits) {
        const [id, title] = data.passages[passage];
        const marks = [bits & 4 && "gold", bits & 1 && "in the prompt", bits & 2 && "adapter"].filter(Boolean);
        const item = element("li", (title || "(no title)") + " ");
        item.append(element("small", [id, ...marks].join(" · ")));
        list.append(item);
      }
      box.append(list);
    }
    box.append(last);
    return box;
  }

  function card(sides) {
    const [run, id, type, question, known] = sides[0].question;
    const item = element("li"), both = element("div", undefined, "sides");
    item.append(element("h3", question));
    item.append(element("p", "Golden: " + known.join(" | "), ""));
    item.append(element("p", [data.runs[run], type, id].filter(Boolean).join(" · "), "meta"));
    both.append(...sides.map(side));
    item.append(both);
    return item;
  }

  let items = [], page = 0;

  function show() {
    const pages = Math.max(1, Math.ceil(items.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("list").replaceChildren(...items.slice(page * PAGE, (page + 1) * PAGE).map(card));
    const what = comparing() ? "questions" : "rows";
    $("count").textContent = items.length.toLocaleString("en") + " " + what + ", page " + (page + 1) + " of " + pages;
    for (const button of document.querySelectorAll("[data-step]")) {
      const to = page + Number(button.dataset.step);
      button.disabled = to < 0 || to >= pages;
    }
  }

  function search() {
    $("by-other").disabled = $("by-method").value === "";
    outcomes();
    items = found();
    page = 0;
    show();
  }

  let waiting;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", search);
  $("by-text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 200);
  });
  for (const button of document.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.step);
      show();
      $("rows").scrollIntoView();
    });
  }
  form.hidden = false;
  search();
})();
