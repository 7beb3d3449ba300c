"use strict";
// Pictures near the window are decoded, the others stay lines of text.
const kept = document.getElementById("store").textContent.split("\n");
const load = (image) => {
  image.src = `data:image/${kept[image.dataset.at]}`;
  image.removeAttribute("data-at");
};
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        entry.target.querySelectorAll("img[data-at]").forEach(load);
        watcher.unobserve(entry.target);
      }
    }
  },
  { rootMargin: "300px" },
);
document.getElementById("scriptless")?.remove();
const cards = [...document.querySelectorAll("#cards > .card")];
cards.forEach((card) => watcher.observe(card));

// Choosing by class, split and reason.
const choices = document.getElementById("choices");
const chosen = () => cards.filter((card) => !card.hidden);
const choose = () => {
  const wanted = Object.fromEntries(new FormData(choices));
  const fits = (card) =>
    (!wanted.class || card.dataset.class.split(" ").includes(wanted.class)) &&
    (!wanted.part || card.dataset.part === wanted.part) &&
    (!wanted.kind || (card.dataset.kind || "").split("|").includes(wanted.kind));
  cards.forEach((card) => (card.hidden = !fits(card)));
  const count = chosen().length;
  document.getElementById("shown").textContent =
    count === cards.length ? `${count.toLocaleString("en")} photos` : `${count.toLocaleString("en")} of ${cards.length.toLocaleString("en")} photos`;
};
if (choices) {
  choices.addEventListener("change", choose);
  choices.addEventListener("submit", (event) => event.preventDefault());
  for (const link of document.querySelectorAll("[data-choose]")) {
    link.addEventListener("click", () => {
      choices.elements.class.value = link.dataset.choose;
      choose();
    });
  }
}
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  chosen()
    .slice(0, Number(document.body.dataset.paper))
    .forEach((card) => card.querySelectorAll("img[data-at]").forEach(load));
});

// One photo, large: buttons and arrows go on to the next.
const viewer = document.getElementById("viewer");
if (viewer) {
  const large = document.getElementById("large");
  const steps = viewer.querySelectorAll("[data-step]");
  let at = null;
  const beside = (step) => {
    const listed = chosen();
    return listed[listed.indexOf(at) + Number(step)];
  };
  const show = (card) => {
    at = card;
    card.querySelectorAll("img[data-at]").forEach(load);
    const copy = [...card.children].map((part) => {
      if (!part.classList.contains("pictures")) return part.cloneNode(true);
      const pictures = document.createElement("div");
      pictures.className = "pictures";
      pictures.append(...[...part.children].map((picture) => picture.cloneNode(true)));
      return pictures;
    });
    large.replaceChildren(...copy);
    document.getElementById("place").textContent = `${chosen().indexOf(card) + 1} of ${chosen().length}`;
    steps.forEach((button) => (button.disabled = !beside(button.dataset.step)));
    if (!viewer.open) viewer.showModal();
  };
  document.getElementById("cards").addEventListener("click", (event) => {
    const button = event.target.closest("button.pictures");
    if (button) show(button.closest(".card"));
  });
  document.getElementById("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  viewer.addEventListener("close", () => at && at.querySelector("button.pictures").focus());
  viewer.addEventListener("keydown", (event) => {
    const next = beside({ ArrowRight: 1, ArrowLeft: -1 }[event.key]);
    if (next) show(next);
  });
  steps.forEach((button) => button.addEventListener("click", () => show(beside(button.dataset.step))));
}

// Tables by any column: the largest or the first word on top, the other way round at the next click, what is empty last.
for (const head of document.querySelectorAll("th > button.sort")) {
  head.addEventListener("click", () => {
    const cell = head.parentElement;
    const body = cell.closest("table").tBodies[0];
    const text = (row) => row.cells[cell.cellIndex].dataset.value ?? "";
    const words = [...body.rows].some((row) => Number.isNaN(Number(text(row))));
    const before = cell.getAttribute("aria-sort");
    const rising = before ? before === "descending" : words;
    cell.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const compare = (a, b) => {
      const [one, other] = [text(a), text(b)];
      if (one === "" || other === "") return (one === "") - (other === "");
      return (rising ? 1 : -1) * (words ? one.localeCompare(other) : Number(one) - Number(other));
    };
    body.append(...[...body.rows].sort(compare));
  });
}
