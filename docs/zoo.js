// Sorts the cards of the zoo, and tables by a click on the head of a column. No library, nothing is fetched.

const number = (text) => {
  const found = text.replaceAll(",", "").match(/-?\d+(\.\d+)?/);
  return found ? Number(found[0]) : null;
};

// Of two values, what has none comes last, whichever way the others go.
const compare = (a, b, direction) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "string" ? a.localeCompare(b) : a - b);
};

function sortCards(cards, key, direction) {
  const value = (card) => (["name", "task"].includes(key) ? card.dataset[key] : number(card.dataset[key]));
  const sorted = [...cards.children].sort((a, b) => compare(value(a), value(b), direction));
  cards.append(...sorted);
}

function control(label, options, change) {
  const select = document.createElement("select");
  for (const [value, text] of options) select.add(new Option(text, value));
  select.addEventListener("change", () => change(select.value));
  const around = document.createElement("label");
  around.append(`${label} `, select);
  return around;
}

function addControls(cards) {
  const tasks = [...new Set([...cards.children].map((card) => card.dataset.task))];
  const show = control("Task", [["", "all"], ...tasks.map((task) => [task, task])], (task) => {
    for (const card of cards.children) card.hidden = task !== "" && card.dataset.task !== task;
  });
  const orders = [["name 1", "name"], ["task 1", "task"], ["parameters 1", "fewest parameters"],
    ["parameters -1", "most parameters"], ["accuracy -1", "highest accuracy"], ["nfe 1", "fewest evaluations (NFE)"],
    ["nfe -1", "most evaluations (NFE)"]];
  const order = control("Sort by", orders, (value) => {
    const [key, direction] = value.split(" ");
    sortCards(cards, key, Number(direction));
  });
  const bar = document.createElement("div");
  bar.className = "zoo-controls";
  bar.append(show, order);
  cards.before(bar);
}

function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead th")];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.dataset.sortable = "";
    head.tabIndex = 0;
    const sort = () => {
      const direction = head.ariaSort === "ascending" ? -1 : 1;
      const texts = [...body.rows].map((row) => row.cells[column].textContent.trim());
      const numeric = texts.every((text) => text === "" || /^[\d,.]+/.test(text)) && texts.some((text) => text !== "");
      const value = (row) => {
        const text = row.cells[column].textContent.trim();
        return numeric ? number(text) : text || null;
      };
      body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), direction)));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = direction > 0 ? "ascending" : "descending";
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

document.querySelectorAll(".zoo-cards").forEach(addControls);
if (/\/results\.html$/.test(location.pathname)) document.querySelectorAll(".md-content table").forEach(makeSortable);
