"use strict";
// Sorts and filters, switches arms, and keeps what was chosen while the page is renewed.
(() => {
  const KEY = "page " + location.pathname;
  let state = { filter: "", sorted: {}, chosen: {}, open: {} };
  try { state = JSON.parse(sessionStorage.getItem(KEY)) || state; } catch { /* none is kept */ }

  function keep() {
    try { sessionStorage.setItem(KEY, JSON.stringify(state)); } catch { /* nor can be */ }
  }

  function number(text) {
    const found = text.replaceAll("−", "-").match(/^[<[\s]*([-+]?\d+(\.\d+)?)/);
    return found ? Number(found[1]) : NaN;
  }

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const of = (row) => row.cells[column].textContent.trim();
    const missing = (text) => text === "–" || text === "";
    const known = rows.map(of).filter((text) => !missing(text));
    const numeric = known.every((text) => !Number.isNaN(number(text)));
    const compare = (a, b) =>
      numeric ? number(a) - number(b) : a.localeCompare(b, undefined, { numeric: true });
    rows.sort((first, second) => {
      const [a, b] = [of(first), of(second)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return direction * compare(a, b);
    });
    body.append(...rows);
    for (const [i, header] of [...headers(table)].entries()) {
      if (i === column) {
        header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      } else {
        header.removeAttribute("aria-sort");
      }
    }
  }

  function headers(table) {
    return table.tHead.rows[table.tHead.rows.length - 1].cells;
  }

  function makeSortable(table) {
    const name = table.closest(".scroll").getAttribute("aria-label");
    for (const [column, header] of [...headers(table)].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      button.addEventListener("click", () => {
        const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        state.sorted[name] = [column, direction];
        keep();
        sort(table, column, direction);
      });
      header.replaceChildren(button);
    }
    const [column, direction] = state.sorted[name] || [];
    if (column < headers(table).length) sort(table, column, direction);
  }

  function filter() {
    const wanted = state.filter.trim().toLowerCase();
    let shown = 0, all = 0;
    for (const row of document.querySelectorAll("table.data tbody tr, .card")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
      all += 1;
    }
    document.getElementById("filtered").textContent = wanted ? `${shown} of ${all}` : "";
  }

  // The difference of two confusion matrices of the same videos and classes.
  function subtracted(ours, theirs) {
    const table = ours.querySelector("table").cloneNode(true);
    const names = (panel) => [...panel.querySelectorAll("tbody th")].map((one) => one.textContent);
    if (names(ours).join("\n") !== names(theirs).join("\n")) {
      const note = document.createElement("p");
      note.textContent = "These arms judged different videos.";
      return note;
    }
    const share = (cell) => Number(cell.style.getPropertyValue("--share"));
    const cells = [...table.querySelectorAll("tbody td")];
    const others = theirs.querySelectorAll("tbody td");
    const values = cells.map((cell, i) => share(cell) - share(others[i]));
    const most = Math.max(0.1, ...values.map(Math.abs));
    for (const [i, cell] of cells.entries()) {
      cell.style.setProperty("--share", Math.abs(values[i]) / most);
      cell.classList.toggle("less", values[i] < 0);
      cell.textContent = Math.abs(values[i]) < 0.005 ? "" : told(100 * values[i], 0, true);
    }
    return table;
  }

  function told(value, digits, signed) {
    const text = Math.abs(value).toFixed(digits);
    return (value < 0 && Number(text) ? "−" : signed ? "+" : "") + text;
  }

  // Rows of [number of a class, [value, low, high] of each series], as text and as lines and marks.
  function drawChart(table, chart, rows) {
    const every = rows.flatMap(([, ...marks]) => marks.flat()).filter((one) => one !== null);
    const [low, high] = [Math.min(0, ...every), Math.max(0, ...every)];
    const at = (value) => `${2 + 96 * (value - low) / (high - low || 1)}%`;
    const text = (value) => told(value, chart.digits, chart.signed && value !== 0);
    table.tHead.querySelector(".scale").replaceChildren(...[low, high].map((end) => {
      const label = document.createElement("span");
      label.textContent = text(end);
      return label;
    }));
    table.tBodies[0].replaceChildren(...rows.map(([place, ...marks]) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = chart.classes[place];
      row.append(name);
      for (const [value, least, most] of marks) {
        row.insertCell().textContent = text(value);
        row.insertCell().textContent = least === null ? "–" : `[${text(least)}, ${text(most)}]`;
      }
      for (const cell of row.cells) if (cell !== name) cell.className = "n";
      const drawing = shape("svg", { "aria-hidden": "true" });
      drawing.append(shape("line", { x1: at(0), x2: at(0), y1: 0, y2: 20, class: "zero" }));
      for (const [i, [value, least, most]] of marks.entries()) {
        const y = 20 * (i + 1) / (marks.length + 1);
        const clear = chart.signed && (least > 0 || most < 0);
        const group = shape("g", { class: chart.signed ? clear ? value > 0 ? "more" : "fewer" : ""
          : `series${i}` });
        if (least !== null) group.append(shape("line", { x1: at(least), x2: at(most), y1: y, y2: y }));
        group.append(shape("circle", { cx: at(value), cy: y, r: 4 }));
        drawing.append(group);
      }
      row.insertCell().append(drawing);
      return row;
    }));
  }

  function shape(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // What a choice changes, by the kind of what it stands in.
  const changes = {
    confusions(group, arm, less) {
      const panels = [...group.querySelectorAll("[data-value]")];
      const [ours, theirs] = [arm, less].map((value) =>
        panels.find((panel) => panel.dataset.value === value));
      for (const panel of panels) panel.hidden = less !== "" || panel !== ours;
      const difference = group.querySelector("[data-difference]");
      difference.hidden = less === "";
      if (less === "") return;
      const name = (panel) => panel.getAttribute("aria-label");
      difference.setAttribute("aria-label", `${name(ours)} less ${name(theirs)}`);
      difference.replaceChildren(subtracted(ours, theirs));
    },
    chart(group, ...chosen) {
      const chart = JSON.parse(group.dataset.chart);
      const turned = chart.rows[[...chosen].reverse().join(" ")] || [];
      const negative = ([value, low, high]) => [value, high, low].map((v) => v === null ? v : -v);
      drawChart(group.querySelector("table"), chart, chart.rows[chosen.join(" ")] ||
        turned.map(([place, ...marks]) => [place, ...marks.map(negative)]).reverse());
    },
    cards(group, right, wrong) {
      const list = group.querySelector(".cards");
      const shares = (card) => card.dataset.right.trim().split(" ").map(Number);
      const gain = (card) => {
        const of = shares(card);
        return (right ? of[right] : Math.max(...of)) - (wrong ? of[wrong] : Math.min(...of));
      };
      list.append(...[...list.children].sort((a, b) => gain(b) - gain(a)));
    },
  };

  function makeChoosable(group) {
    const selects = [...group.querySelectorAll("select")];
    const change = () => changes[group.dataset.kind](group, ...selects.map((one) => one.value));
    for (const select of selects) {
      const kept = state.chosen[select.id];
      if ([...select.options].some((option) => option.value === kept)) select.value = kept;
      select.addEventListener("change", () => {
        state.chosen[select.id] = select.value;
        keep();
        change();
      });
    }
    change();
  }

  function enhance() {
    document.querySelectorAll("table.data").forEach(makeSortable);
    document.querySelectorAll("[data-kind]").forEach(makeChoosable);
    for (const details of document.querySelectorAll("details")) {
      const name = details.querySelector("summary").textContent;
      if (name in state.open) details.open = state.open[name];
      details.addEventListener("toggle", () => {
        state.open[name] = details.open;
        keep();
      });
    }
    filter();
  }

  const input = document.getElementById("filter");
  document.querySelector(".tools").hidden = false;
  input.value = state.filter;
  input.addEventListener("input", () => {
    state.filter = input.value;
    keep();
    filter();
  });
  enhance();
  const seconds = Number(document.body.dataset.poll);
  if (!seconds) return;

  let tag = "";
  async function renew() {
    const note = document.getElementById("connection");
    try {
      const answer = await fetch(location.href, { headers: { "If-None-Match": tag } });
      if (answer.status !== 304) {
        const text = await answer.text();
        if (!answer.ok) throw new Error(text);
        tag = answer.headers.get("ETag");
        const next = new DOMParser().parseFromString(text, "text/html");
        const focused = focusedPath();
        document.getElementById("content").replaceWith(next.getElementById("content"));
        document.title = next.title;
        enhance();
        if (focused) document.querySelector(focused)?.focus({ preventScroll: true });
      }
      note.hidden = true;
    } catch (error) {
      note.textContent = `This page is no longer renewed: ${error.message}`;
      note.hidden = false;
    }
    setTimeout(renew, 1000 * seconds);
  }

  // Where the focus is, so that it stays there when the content is replaced.
  function focusedPath() {
    let element = document.activeElement;
    if (!element || !element.closest("#content")) return "";
    const path = [];
    for (; element.id !== "content"; element = element.parentElement) {
      path.unshift(`:nth-child(${[...element.parentElement.children].indexOf(element) + 1})`);
    }
    return ["#content", ...path].join(" > ");
  }
  setTimeout(renew, 1000 * seconds);
})();
