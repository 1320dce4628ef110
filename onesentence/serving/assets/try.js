"use strict";

const KINDS = { number: "number not in the article", name: "name not in the article" };
const STATUS = { empty: "empty output", echo: "echo of the prompt" };
const RELOAD = 1_000; // milliseconds between two looks whether the model is ready

const at = (id) => document.getElementById(id);
const plain = (segments) => segments.map(([text]) => text).join("");
const count = (number, word) => `${number.toLocaleString("en-GB")} ${word}${number === 1 ? "" : "s"}`;
const main = at("content");

/** A new element with text in it; text is never read as markup. */
function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

/** Put segments into `place`, with marks; what a mark means follows it for screen readers. */
function fill(place, segments) {
  place.replaceChildren(...(plain(segments) ? [] : [make("em", "(empty)")]));
  for (const [text, kinds] of segments) {
    place.append(kinds ? make("mark", text, kinds) : text);
    const notes = kinds.split(" ").filter((kind) => kind in KINDS);
    if (notes.length) {
      place.append(make("span", ` (${notes.map((kind) => KINDS[kind]).join(", ")})`, "unseen"));
    }
  }
}

/** Reload the page once the service has its models. */
async function awaitModels() {
  try {
    const answer = await fetch("health");
    if (answer.ok) {
      location.reload();
      return;
    }
  } catch {
    // The service has stopped, or starts anew: look again.
  }
  setTimeout(awaitModels, RELOAD);
}

/** The summary that one model writes. Throws an Error whose message is for the reader. */
async function ask(model, article, signal) {
  const headers = { "Content-Type": "application/json" };
  if (at("key")) {
    headers.Authorization = `Bearer ${at("key").value}`;
  }
  const body = JSON.stringify({ article, model, marks: true });
  let answer, value;
  try {
    answer = await fetch("summarize", { method: "POST", headers, body, signal });
    value = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Error("The service does not answer. Is it running?", { cause: error });
  }
  if (!answer.ok) {
    throw new Error(value.error.message);
  }
  return value.summaries[0];
}

/** Put a model's summary into its card. */
function show(card, summary) {
  fill(card.querySelector(".output"), summary.marks.text);
  const rows = [];
  if (summary.status in STATUS) {
    rows.push(["failure", STATUS[summary.status]]);
  }
  if (!summary.stopped) {
    rows.push(["end", "cut off at the limit of new tokens"]);
  }
  if (summary.unsupported.length) {
    rows.push(["not in the article", summary.unsupported.join(", ")]);
  }
  rows.push(["read", count(summary.input_tokens, "token")], ["written", count(summary.output_tokens, "token")]);
  if (summary.document_tokens_cut) {
    rows.push(["cut", `${count(summary.document_tokens_cut, "token")} at the article's end did not fit the prompt`]);
  }
  card.querySelector(".details").replaceChildren(
    ...rows.map(([label, text]) => {
      const row = make("div");
      row.append(make("dt", label), make("dd", text));
      return row;
    }),
  );
}

let running = null; // the AbortController of the request in progress

function report(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

/** The article's size is shown below it; the number of characters is returned. */
function measure() {
  const size = [...at("article").value].length;
  const most = Number(main.dataset.characters);
  at("size").textContent = `${size.toLocaleString("en-GB")} of ${most.toLocaleString("en-GB")} characters`;
  at("size").classList.toggle("over", size > most);
  return size;
}

function clear() {
  running?.abort();
  running = null;
  report("");
  at("status").textContent = "";
  at("results").hidden = true;
}

/** Ask every model for its summary, and show each when it comes. */
async function summarize() {
  const article = at("article").value;
  const cards = [...document.querySelectorAll("[data-model]")];
  clear();
  if (!article.trim()) {
    report("Paste an article first.");
    at("article").focus();
    return;
  }
  if (measure() > Number(main.dataset.characters)) {
    report(`The article is too long: ${at("size").textContent}.`);
    at("article").focus();
    return;
  }
  const own = new AbortController();
  running = own;
  at("status").textContent = "Summarizing…";
  at("results").hidden = false;
  fill(at("document"), [[article, ""]]);
  const work = cards.map(async (card, place) => {
    card.setAttribute("aria-busy", "true");
    card.querySelector(".output").textContent = "…";
    card.querySelector(".details").replaceChildren();
    const summary = await ask(card.dataset.model, article, own.signal);
    show(card, summary);
    card.setAttribute("aria-busy", "false");
    if (place === 0) {
      fill(at("document"), summary.marks.document);
    }
  });
  const failures = (await Promise.allSettled(work)).filter((end) => end.status === "rejected");
  if (running !== own) {
    return; // another request, or the Clear button, took its place
  }
  running = null;
  if (failures.length) {
    clear();
    report(failures[0].reason.message);
    return;
  }
  at("status").textContent = `${count(cards.length, "summary").replace("summarys", "summaries")} below.`;
}

if (at("form")) {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    summarize();
  });
  at("clear").addEventListener("click", () => {
    clear();
    at("article").value = "";
    measure();
    at("article").focus();
  });
  at("article").addEventListener("input", measure);
  at("article").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      at("form").requestSubmit();
    }
  });
  measure(); // a browser may have kept the text over a reload
} else {
  awaitModels();
}
