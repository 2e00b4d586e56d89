// Shows one question after the other and keeps the answers: in this browser, and in a file that the judge downloads.
"use strict";

const { version, sheet, items } = JSON.parse(document.getElementById("data").textContent);
const PLACE = `fedinverse-judge-${sheet}`;
const KEYS = { y: "yes", n: "no", "?": "unsure", u: "unsure" };
const VALUES = ["yes", "no", "unsure"];
const part = (id) => document.getElementById(id);
const known = new Set(items.map((item) => item.id));

let judge = "";
let answers = new Map(); // id -> answer
let current = 0;

const file = () => ({
  version,
  sheet,
  judge,
  answers: items.filter((item) => answers.has(item.id)).map((item) => ({ item: item.id, answer: answers.get(item.id) })),
});

const say = (text) => {
  part("message").textContent = text;
  part("message").hidden = !text;
};

// What a file, or this browser, held before; anything else is refused as a whole.
const adopt = (held) => {
  const fits = held && held.sheet === sheet && held.version === version && Array.isArray(held.answers);
  if (!fits || !held.answers.every((each) => known.has(each.item) && VALUES.includes(each.answer))) return false;
  judge = typeof held.judge === "string" ? held.judge.slice(0, 80) : "";
  answers = new Map(held.answers.map((each) => [each.item, each.answer]));
  part("judge").value = judge;
  part("go").textContent = answers.size ? `Go on (${answers.size} of ${items.length} answered)` : "Begin";
  return true;
};

const keep = () => {
  try {
    localStorage.setItem(PLACE, JSON.stringify(file()));
  } catch {
    say("This browser keeps nothing for this page. Download your answers before you close it.");
  }
};

const show = (id) => {
  for (const each of ["start", "ask", "done"]) part(each).hidden = each !== id;
};

const firstOpen = (from) => {
  for (let step = 0; step < items.length; step += 1) {
    const number = (from + step) % items.length;
    if (!answers.has(items[number].id)) return number;
  }
  return -1;
};

const ask = (number) => {
  current = number;
  const item = items[number];
  show("ask");
  part("image").src = item.image;
  part("beside").querySelectorAll("img").forEach((image, place) => { image.src = item.beside[place]; });
  part("place").textContent = `Question ${number + 1} of ${items.length}, ${answers.size} answered`;
  part("progress").value = answers.size;
  part("back").disabled = number === 0;
  part("skip").disabled = firstOpen(number + 1) < 0;
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", String(answers.get(item.id) === button.dataset.answer));
  }
};

const finish = () => {
  show("done");
  const count = (value) => [...answers.values()].filter((each) => each === value).length;
  part("summary").textContent =
    `${answers.size} of ${items.length} answered: ${count("yes")} yes, ${count("no")} no, ${count("unsure")} cannot tell.`;
};

const next = () => {
  if (answers.size === items.length && current === items.length - 1) finish();
  else if (current < items.length - 1) ask(current + 1);
  else ask(firstOpen(0));
};

const answer = (value) => {
  answers.set(items[current].id, value);
  keep();
  next();
};

const download = () => {
  const blob = new Blob([`${JSON.stringify(file(), null, 2)}\n`], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: `answers-${judge.replace(/[^\p{L}\p{N}_-]+/gu, "-").slice(0, 40) || "judge"}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

part("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  judge = part("judge").value.trim();
  if (!judge) return;
  keep();
  const open = firstOpen(0);
  if (open < 0) finish();
  else ask(open);
});
part("file").addEventListener("change", async (event) => {
  const [chosen] = event.target.files;
  if (!chosen) return;
  let held = null;
  try {
    held = JSON.parse(await chosen.text());
  } catch { /* said below */ }
  say(adopt(held) ? "" : "That file holds no answers to this page.");
});
for (const button of document.querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => answer(button.dataset.answer));
}
for (const button of document.querySelectorAll(".save")) button.addEventListener("click", download);
part("back").addEventListener("click", () => ask(current - 1));
part("skip").addEventListener("click", () => ask(firstOpen(current + 1)));
part("again").addEventListener("click", () => ask(0));
addEventListener("keydown", (event) => {
  if (part("ask").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const value = KEYS[event.key.toLowerCase()];
  if (value) answer(value);
  else if ((event.key === "ArrowLeft" || event.key === "Backspace") && current > 0) ask(current - 1);
  else if (event.key === "ArrowRight" && answers.has(items[current].id)) next();
  else return;
  event.preventDefault();
});

let held = null;
try {
  held = JSON.parse(localStorage.getItem(PLACE));
} catch { /* nothing kept, or not allowed to keep anything: said when it matters */ }
adopt(held);
