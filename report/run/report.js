// What the page can do beyond showing itself: read figures off a chart, enlarge a class, open folds for printing.
// Lines are switched by style alone. Everything is on the page without this script.
"use strict";

const percent = (share) => `${Math.round(100 * share)} %`;
const figures = JSON.parse(document.getElementById("figures").textContent);

for (const chart of document.querySelectorAll("[data-chart]")) { // membership's curves have no rounds to choose
  const arms = figures[chart.dataset.chart];
  const slider = chart.querySelector("input[type=range]");
  const round = chart.querySelector("output");
  const rounds = slider.dataset.rounds.split(" ").map(Number); // those attacked: the others have no figures

  const show = (number) => {
    slider.value = rounds.indexOf(number);
    slider.setAttribute("aria-valuetext", `round ${number}`);
    round.textContent = number;
    for (const cell of chart.querySelectorAll("[data-figure]")) {
      const found = arms[cell.dataset.figure][number];
      cell.textContent = found ? "" : "–";
      if (!found) continue;
      const [value, low, high] = found;
      cell.append(Object.assign(document.createElement("b"), { textContent: percent(value) }));
      if (low < high) {
        const bounds = `[${Math.round(100 * low)}, ${Math.round(100 * high)}]`;
        cell.append(" ", Object.assign(document.createElement("span"), { className: "soft", textContent: bounds }));
      }
    }
    for (const plot of chart.querySelectorAll(".plot")) {
      const left = Number(plot.dataset.left);
      const right = Number(plot.dataset.right);
      const first = Number(plot.dataset.first);
      const last = Number(plot.dataset.last);
      const x = left + ((right - left) * (number - first)) / Math.max(1, last - first);
      const guide = plot.querySelector(".guide");
      guide.setAttribute("x1", x);
      guide.setAttribute("x2", x);
    }
  };

  const point = (event) => {
    const plot = event.currentTarget;
    const box = plot.getBoundingClientRect();
    const left = Number(plot.dataset.left);
    const right = Number(plot.dataset.right);
    const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
    const first = Number(plot.dataset.first);
    const pointed = first + ((x - left) / (right - left)) * (Number(plot.dataset.last) - first);
    const off = (number) => Math.abs(number - pointed);
    show(rounds.reduce((best, number) => (off(number) < off(best) ? number : best)));
  };

  slider.hidden = rounds.length < 2;
  slider.addEventListener("input", () => show(rounds[Number(slider.value)]));
  for (const plot of chart.querySelectorAll(".plot")) {
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
  }
}

const dialog = document.getElementById("enlarged");
const buttons = [...document.querySelectorAll(".enlarge")];
let current = 0;

const enlarge = (place) => {
  current = (place + buttons.length) % buttons.length;
  const cell = buttons[current].closest(".cell");
  const recognised = cell.querySelector(".success").textContent;
  dialog.querySelector("h2").textContent = `${buttons[current].dataset.name}: ${recognised} recognised`;
  const large = dialog.querySelector(".large");
  const content = [cell.querySelector(".pictures"), cell.querySelector(".remark")].filter(Boolean);
  large.replaceChildren(...content.map((part) => part.cloneNode(true)));
  for (const picture of large.querySelectorAll("figure")) {
    picture.querySelector("figcaption").firstChild.textContent = picture.querySelector("img").alt;
  }
  if (!dialog.open) dialog.showModal();
};

buttons.forEach((button, place) => button.addEventListener("click", () => enlarge(place)));
for (const step of dialog.querySelectorAll("[data-step]")) {
  step.addEventListener("click", () => enlarge(current + Number(step.dataset.step)));
}
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) enlarge(current + step);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => buttons[current].focus());

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open], .more, .aside)")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
});
