// What the pages can do better with a script: completion in the box, words at fault underlined
// while they stand there, points and rows that light up together. They work without it.
"use strict";

(() => {
  const box = document.getElementById("q");
  if (box) { editor(box); }
  const live = document.getElementById("live");
  if (live) { again(live); }
  together();

  function editor(area) {
    const form = document.getElementById("ask");
    const frame = area.parentElement;
    const list = document.createElement("ul");
    let found = [];
    let chosen = -1;
    let timer = 0;
    let asking = null;
    const told = document.getElementById("keys");
    told.textContent = "Ctrl+Enter asks · Ctrl+Space completes · Tab takes · Esc closes";
    Object.assign(list, { id: "options", className: "options", hidden: true });
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Completions");
    frame.append(list);
    for (const [name, value] of [["role", "combobox"], ["aria-controls", "options"],
      ["aria-autocomplete", "list"], ["aria-expanded", "false"]]) {
      area.setAttribute(name, value);
    }
    underline();

    area.addEventListener("input", () => { grow(); clear(); later(); });
    area.addEventListener("keydown", keys);
    area.addEventListener("blur", () => setTimeout(close, 150));
    area.addEventListener("scroll", () => {
      const fault = document.getElementById("fault");
      if (fault) { fault.scrollTop = area.scrollTop; }
      close();
    });
    grow();

    function keys(event) {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      } else if (event.key === " " && event.ctrlKey) {
        event.preventDefault();
        ask();
      } else if (list.hidden) {
        return;
      } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        const step = event.key === "ArrowDown" ? 1 : -1;
        choose((chosen + step + found.length) % found.length);
      } else if (event.key === "Tab" && !event.shiftKey) {
        event.preventDefault();
        take(found[Math.max(chosen, 0)]);
      } else if (event.key === "Enter" && chosen >= 0) {
        event.preventDefault();
        take(found[chosen]);
      } else if (event.key === "Escape") {
        event.preventDefault();
        close();
      } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        close();
      }
    }

    function later() {
      clearTimeout(timer);
      const before = area.value.slice(0, area.selectionStart);
      if (/[\w('"]$/.test(before)) { timer = setTimeout(ask, 150); } else { close(); }
    }

    async function ask() {
      const at = area.selectionStart;
      const before = area.value.slice(0, at);
      if (asking) { asking.abort(); }
      asking = new AbortController();
      try {
        const answer = await fetch("/complete?" + new URLSearchParams({ q: before }),
          { signal: asking.signal });
        if (!answer.ok) { close(); return; }
        const said = await answer.json();
        if (area.selectionStart !== at || document.activeElement !== area) { return; }
        show(said.completions.filter((one) => one.insert !== before.slice(at - one.replace)));
      } catch (error) {
        if (error.name !== "AbortError") { close(); }
      }
    }

    function show(completions) {
      found = completions;
      chosen = -1;
      list.replaceChildren(...found.map((one, number) => {
        const item = document.createElement("li");
        item.id = "option-" + number;
        item.setAttribute("role", "option");
        item.append(one.show);
        if (one.kind) {
          const kind = document.createElement("small");
          kind.textContent = one.kind;
          item.append(kind);
        }
        item.addEventListener("mousedown", (event) => { event.preventDefault(); take(one); });
        return item;
      }));
      if (!found.length) { close(); return; }
      list.hidden = false;
      area.setAttribute("aria-expanded", "true");
      const place = caret();
      list.style.top = place.top + "px";
      list.style.left = Math.max(0, Math.min(place.left, frame.clientWidth - list.offsetWidth)) + "px";
    }

    function choose(number) {
      chosen = number;
      [...list.children].forEach((item, place) => {
        item.setAttribute("aria-selected", String(place === number));
        if (place === number) { item.scrollIntoView({ block: "nearest" }); }
      });
      area.setAttribute("aria-activedescendant", "option-" + number);
    }

    function take(one) {
      const at = area.selectionStart;
      close();
      area.setRangeText(one.insert, at - one.replace, at, "end");
      grow();
      clear();
    }

    function close() {
      clearTimeout(timer);
      list.hidden = true;
      area.setAttribute("aria-expanded", "false");
      area.removeAttribute("aria-activedescendant");
    }

    // Where the cursor is: a copy of the text behind the box ends there.
    function caret() {
      const copy = behind(area.value.slice(0, area.selectionStart));
      const end = document.createElement("span");
      end.textContent = "\u200b";
      copy.append(end);
      const place = { top: end.offsetTop + end.offsetHeight + 2 - area.scrollTop, left: end.offsetLeft };
      copy.remove();
      return place;
    }

    function behind(...content) {
      const copy = document.createElement("div");
      copy.className = "behind";
      copy.setAttribute("aria-hidden", "true");
      copy.append(...content);
      copy.style.fontFamily = getComputedStyle(area).fontFamily;
      frame.prepend(copy);
      return copy;
    }

    function underline() {
      const fault = document.getElementById("mistake");
      if (!fault || fault.dataset.start === undefined) { return; }
      // the server counts characters, a script halves of surrogate pairs
      const letters = [...area.value];
      const start = Math.min(Number(fault.dataset.start), letters.length);
      const end = Math.max(Number(fault.dataset.end), start + 1);
      const mark = document.createElement("mark");
      mark.textContent = letters.slice(start, end).join("") || "\u00a0";
      behind(letters.slice(0, start).join(""), mark, letters.slice(end).join("")).id = "fault";
      const at = letters.slice(0, end).join("").length;
      area.focus();
      area.setSelectionRange(at, at);
    }

    function clear() {
      const fault = document.getElementById("fault");
      if (fault) { fault.remove(); }
      area.removeAttribute("aria-invalid");
    }

    function grow() {
      area.style.height = "auto";
      area.style.height = Math.min(area.scrollHeight + 2, 420) + "px";
    }
  }

  // Looks again at what changes by itself, as long as the page says so and is looked at.
  function again(part) {
    const seconds = Number(part.dataset.again);
    if (!seconds) { return; }
    setTimeout(async () => {
      if (document.hidden) { again(part); return; }
      try {
        const answer = await fetch(location.href);
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("live");
        if (answer.ok && fresh && !part.contains(document.activeElement)) {
          part.replaceWith(document.adoptNode(fresh));
          again(document.getElementById("live"));
          return;
        }
      } catch (error) { /* the server may be back the next time */ }
      again(part);
    }, seconds * 1000);
  }

  // A point and its row, which lead to the same model, light up together.
  function together() {
    const rows = new Map();
    for (const link of document.querySelectorAll("tbody a[href^='/model?']")) {
      rows.set(link.getAttribute("href"), link.closest("tr"));
    }
    for (const point of document.querySelectorAll("svg a")) {
      const row = rows.get(point.getAttribute("href"));
      if (!row) { continue; }
      for (const [event, on] of [["mouseenter", true], ["mouseleave", false], ["focus", true],
        ["blur", false]]) {
        point.addEventListener(event, () => row.classList.toggle("shown", on));
      }
    }
  }
})();
