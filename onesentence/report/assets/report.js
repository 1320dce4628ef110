"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const PAGE_SIZE = 20; // examples put on the page at once
const LONG = { characters: 700, lines: 12 }; // an article above either limit is folded
const STATUS = { empty: "empty output", echo: "echo of the prompt" };
const KINDS = { number: "number not in the article", name: "name not in the article" };
const FORMAT = "one-sentence ratings 1"; // `onesentence rate` reads only this format
const CHOICES = { a: "A", e: "equal", b: "B" }; // key: value of a radio button

const at = (id) => document.getElementById(id);
const plain = (segments) => segments.map(([text]) => text).join("");
const shown = (value, digits) =>
  value === null
    ? "none"
    : value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: 2 });

/** A new element with text in it; text is never read as markup. */
function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

/** Put segments into `place`, with marks: copied words, and numbers and names that are not in the article. */
function fill(place, segments) {
  if (!plain(segments)) {
    place.replaceChildren(make("em", "(empty)"));
    return;
  }
  place.replaceChildren();
  for (const [text, kinds] of segments) {
    place.append(kinds ? make("mark", text, kinds) : text);
    const notes = kinds.split(" ").filter((kind) => kind in KINDS);
    if (notes.length) {
      place.append(make("span", ` (${notes.map((kind) => KINDS[kind]).join(", ")})`, "unseen"));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// The examples

const folded = (text) => text.toLowerCase().replace(/\s+/g, " ");
const examples = page.items.map((item) => {
  const texts = [item.document, item.reference, ...Object.values(item.outputs)].map(plain);
  return { item, haystack: folded([item.id, ...texts].join("\n")) };
});
let matches = []; // items that match search and filters, in the chosen order
let placed = 0; // how many of them are on the page

function summaryCard(label, segments, status, scores) {
  const card = at("summary-template").content.cloneNode(true);
  const heading = card.querySelector("h4");
  heading.textContent = label;
  if (status in STATUS) {
    heading.append(" ", make("span", STATUS[status], "tag bad"));
  }
  fill(card.querySelector(".text"), segments);
  const line = card.querySelector(".scores");
  scores.forEach(([name, value, unit], k) => {
    const score = make("span", `${name} `);
    const last = unit !== scores[k + 1]?.[2]; // neighbours with the same unit show it once, after the last
    score.append(make("strong", shown(value, 2)), last && unit ? ` (${unit})` : "");
    line.append(score);
  });
  return card;
}

function exampleCard(item, index) {
  const card = at("example-template").content.cloneNode(true);
  const heading = card.querySelector("h3");
  heading.textContent = item.id;
  heading.id = `example-${index}`;
  card.querySelector("article").setAttribute("aria-labelledby", heading.id);
  const labels = new Map(page.groups);
  card.querySelector(".tags").append(...item.groups.map((key) => make("li", labels.get(key), "tag")));
  const details = [
    ...page.facets.map(([key, label]) => [label, item.facets[key]]),
    ...page.sorts.map(([key, label]) => [label, shown(item.values[key], 0)]),
  ];
  for (const [label, value] of details) {
    const pair = make("div");
    pair.append(make("dt", label), make("dd", value));
    card.querySelector(".details").append(pair);
  }
  card.querySelector(".note").textContent = item.note;

  const text = card.querySelector(".text");
  const button = card.querySelector(".expand");
  const article = plain(item.document);
  fill(text, item.document);
  if (article.length > LONG.characters || article.split("\n").length > LONG.lines) {
    text.classList.add("folded");
    button.hidden = false;
    button.addEventListener("click", () => {
      const open = !text.classList.toggle("folded");
      button.textContent = open ? "Show less of the article" : "Show the whole article";
      button.setAttribute("aria-expanded", String(open));
    });
  }
  card.querySelector(".summaries").append(
    summaryCard("Reference", item.reference, "ok", []),
    ...page.systems.map(([key, label]) => summaryCard(label, item.outputs[key], item.status[key], item.scores[key])),
  );
  return card;
}

/** Whether an item has the chosen group and the chosen value of every facet. */
function chosen(item) {
  const group = at("group").value;
  return (
    (group === "" || item.groups.includes(page.groups[group][0])) &&
    page.facets.every(([key], k) => {
      const choice = at(`facet-${k}`).value;
      return choice === "" || item.facets[key] === page.facet_values[key][choice];
    })
  );
}

/** Items in the chosen order; those without a value come last in both directions. */
function sorted(items) {
  const choice = at("sort").value;
  if (choice === "") {
    return at("direction").value === "1" ? items : items.toReversed();
  }
  const [key] = page.sorts[choice];
  const direction = Number(at("direction").value);
  const [without, having] = [items.filter((i) => i.values[key] === null), items.filter((i) => i.values[key] !== null)];
  return [...having.sort((left, right) => direction * (left.values[key] - right.values[key])), ...without];
}

function placeMore() {
  const next = matches.slice(placed, placed + PAGE_SIZE);
  at("list").append(...next.map((item, k) => exampleCard(item, placed + k)));
  placed += next.length;
  at("more").hidden = placed === matches.length;
  at("count").textContent = matches.length
    ? `${placed} of ${matches.length} matching examples shown (${page.items.length} in all)`
    : `No example matches (${page.items.length} in all)`;
}

function search() {
  const wanted = folded(at("search").value.trim());
  const matching = examples.filter(({ item, haystack }) => haystack.includes(wanted) && chosen(item));
  matches = sorted(matching.map(({ item }) => item));
  placed = 0;
  at("list").replaceChildren();
  placeMore();
}

let waiting;
at("search").addEventListener("input", () => {
  clearTimeout(waiting); // otherwise a screen reader would read out a count after every letter
  waiting = setTimeout(search, 150);
});
at("controls").addEventListener("change", (event) => {
  if (event.target !== at("search")) {
    search(); // not for the search field: leaving it by a click on the list must not redraw the list
  }
});
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("controls").addEventListener("reset", () => setTimeout(search)); // the fields are cleared after this event
at("more").addEventListener("click", () => {
  const first = placed;
  placeMore();
  at(`example-${first}`).focus(); // the button moves down or disappears
});

/** Show the full entry of an item, whatever was searched for before. */
function reveal(item) {
  const place = matches.indexOf(item);
  while (placed <= place) {
    placeMore();
  }
  const heading = at(`example-${place}`);
  heading.focus({ preventScroll: true });
  heading.closest("article").scrollIntoView();
}

for (const link of document.querySelectorAll("[data-item]")) {
  link.addEventListener("click", () => {
    clearTimeout(waiting);
    at("controls").reset();
    setTimeout(() => reveal(page.items[link.dataset.item])); // after the search that a reset starts
  });
}

// Paper has nothing to click on: it gets every fold open.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((part) => part.setAttribute("open", ""));
});
addEventListener("afterprint", () => closed.forEach((part) => part.removeAttribute("open")));

at("explorer").hidden = false;
search();

// ---------------------------------------------------------------------------------------------------------
// Blind rating. Only `session` knows which side is which system; the document never does.

const { test, items: toRate, pairs, criteria } = page.rating;
const byId = new Map(page.items.map((item) => [item.id, item]));
const groups = [...document.querySelectorAll(".criterion")]; // one for each of `criteria`
let session = null;

/** A 32-bit number of a text (FNV-1a). */
function hashOf(text) {
  let hash = 0x811c9dc5;
  for (let k = 0; k < text.length; k += 1) {
    hash = Math.imul(hash ^ text.charCodeAt(k), 0x01000193);
  }
  return hash;
}

/** Random numbers in [0, 1) that `seed` determines (mulberry32). */
function randomFrom(seed) {
  let state = hashOf(seed);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled(values, random) {
  const result = [...values];
  for (let k = result.length - 1; k > 0; k -= 1) {
    const other = Math.floor(random() * (k + 1));
    [result[k], result[other]] = [result[other], result[k]];
  }
  return result;
}

/** The items in random order, with the pair's first system on side A in half of them (give or take one). */
function plan(seed) {
  const random = randomFrom(seed);
  const first = random() < 0.5;
  const swaps = shuffled(toRate.map((_, k) => (k % 2 === 0) === first), random);
  return shuffled(toRate, random).map((id, k) => ({ id, swapped: swaps[k] }));
}

/** The value that the browser saved under `key`, or null: storage may be blocked or damaged. */
function recall(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function save(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    at("unsaved").hidden = false;
  }
}

const lastKey = JSON.stringify([FORMAT, test]);
const sides = () => {
  const [left, right] = session.pair;
  return session.order[session.place].swapped ? { A: right, B: left } : { A: left, B: right };
};
const textOf = (id, system) => plain(system === "reference" ? byId.get(id).reference : byId.get(id).outputs[system]);
const currentId = () => session.order[session.place].id;
const ratedIds = () => toRate.filter((id) => session.ratings.has(id));

function showRating(open) {
  for (const part of document.querySelectorAll(".report")) {
    part.hidden = open;
  }
  at("rating").hidden = !open;
  at("start").hidden = false;
  at("task").hidden = true;
  document.title = open ? "Blind rating" : title;
  session = null;
}

function begin(rater, pair) {
  const seed = JSON.stringify([FORMAT, test, ...pair, rater]);
  // The key holds the texts, so that outputs of another model on the same articles start without ratings.
  const key = `${seed} ${hashOf(JSON.stringify(toRate.map((id) => pair.map((system) => textOf(id, system)))))}`;
  const { place, ratings } = recall(key) ?? { place: 0, ratings: [] };
  session = { rater, pair, key, place, ratings: new Map(ratings), order: plan(seed), criterion: 0 };
  save(lastKey, { rater, pair: pairs.indexOf(pair) });
  at("start").hidden = true;
  at("task").hidden = false;
  go(place);
}

function go(place) {
  session.place = Math.min(Math.max(place, 0), toRate.length - 1);
  const { A, B } = sides();
  fill(at("rating-document"), [[plain(byId.get(currentId()).document), ""]]);
  at("read").scrollTop = 0;
  fill(at("text-a"), [[textOf(currentId(), A), ""]]); // without the marks
  fill(at("text-b"), [[textOf(currentId(), B), ""]]);
  showProgress();
  showCriterion(0);
  at("announcement").textContent = "";
  at("progress").focus();
  scrollTo(0, 0);
}

/** Show and save the ratings of the current item. */
function showProgress() {
  const { A, B } = sides();
  const rating = session.ratings.get(currentId()) ?? {};
  criteria.forEach(([criterion], k) => {
    const side = { [A]: "A", [B]: "B", equal: "equal" }[rating[criterion]];
    for (const radio of groups[k].querySelectorAll("input")) {
      radio.checked = radio.value === side;
    }
  });
  at("progress").textContent = `Item ${session.place + 1} of ${toRate.length}, ${ratedIds().length} rated`;
  at("previous").disabled = session.place === 0;
  at("next").disabled = session.place === toRate.length - 1;
  at("download").disabled = !ratedIds().length;
  save(session.key, { place: session.place, ratings: [...session.ratings] });
}

function showCriterion(index) {
  session.criterion = Math.min(Math.max(index, 0), criteria.length - 1);
  groups.forEach((group, k) => group.classList.toggle("current", k === session.criterion));
}

function moveTo(index) {
  showCriterion(index);
  const group = groups[session.criterion];
  (group.querySelector(":checked") ?? group.querySelector("input")).focus();
}

function rate(index, choice) {
  const winner = choice === "equal" ? "equal" : sides()[choice];
  session.ratings.set(currentId(), { ...session.ratings.get(currentId()), [criteria[index][0]]: winner });
  at("announcement").textContent = `${criteria[index][1]}: ${choice === "equal" ? "equal" : `${choice} better`}`;
  showProgress();
}

/** Save the ratings as `onesentence rate` reads them: keys sorted, items in the report's order, no date. */
function download() {
  const inOrder = (object) => Object.fromEntries(Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1)));
  const ratings = ratedIds().map((id) => inOrder({ id, ...session.ratings.get(id) }));
  const file = inOrder({ format: FORMAT, rater: session.rater, test, pair: session.pair, ratings });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(file, null, 2)}\n`], { type: "application/json" }));
  link.download = `ratings-${session.rater.replace(/[^\p{L}\p{N}_-]+/gu, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a browser may still ask where to save it
}

/** Handle the keys of the rating. Before it starts, all keys pass: the name field needs them as text. */
function onKey(event) {
  const scrolls = at("read").contains(event.target) && /^Arrow(Up|Down)$/.test(event.key);
  if (!session || !at("use-keys").checked || scrolls || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const choice = CHOICES[event.key.toLowerCase()];
  const moves = {
    ArrowUp: () => moveTo(session.criterion - 1),
    ArrowDown: () => moveTo(session.criterion + 1),
    ArrowLeft: () => go(session.place - 1),
    ArrowRight: () => go(session.place + 1),
  };
  if (choice && !event.repeat) {
    rate(session.criterion, choice);
    moveTo(session.criterion + 1);
  } else if (event.key in moves) {
    event.preventDefault(); // of a radio button, whose arrow keys would change the rating
    moves[event.key]();
  }
}

const title = document.title;
at("rate").hidden = !toRate.length;
at("rate").addEventListener("click", () => {
  showRating(true);
  const last = recall(lastKey);
  if (last) {
    at("rater").value = last.rater;
    at("pair").value = last.pair;
  }
  at("rater").focus();
});
at("leave").addEventListener("click", () => {
  showRating(false);
  at("rate").focus();
});
at("start").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(at("rater").value.trim(), pairs[at("pair").value]);
});
groups.forEach((group, k) => {
  group.addEventListener("focusin", () => showCriterion(k));
  group.addEventListener("change", (event) => rate(k, event.target.value));
});
at("previous").addEventListener("click", () => go(session.place - 1));
at("next").addEventListener("click", () => go(session.place + 1));
at("clear").addEventListener("click", () => {
  session.ratings.delete(currentId());
  showProgress();
});
at("download").addEventListener("click", download);
document.addEventListener("keydown", onKey);
