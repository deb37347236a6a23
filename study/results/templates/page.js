"use strict";
// Sorts and filters tables, switches arms, and keeps what was chosen while the page is renewed.
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
    for (const row of document.querySelectorAll("table.data tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
      all += 1;
    }
    document.getElementById("filtered").textContent = wanted ? `${shown} of ${all} rows` : "";
  }

  function choose(select) {
    for (const panel of document.querySelectorAll(`[data-of="${select.id}"]`)) {
      panel.hidden = panel.dataset.value !== select.value;
    }
  }

  function enhance() {
    document.querySelectorAll("table.data").forEach(makeSortable);
    for (const select of document.querySelectorAll("select[data-chooses]")) {
      const kept = state.chosen[select.id];
      if ([...select.options].some((option) => option.value === kept)) select.value = kept;
      choose(select);
      select.addEventListener("change", () => {
        state.chosen[select.id] = select.value;
        keep();
        choose(select);
      });
    }
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
