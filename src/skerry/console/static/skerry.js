// What a script adds: live pages, shortcuts, copy buttons. Everything works without it.
"use strict";

(() => {
  const say = (text) => {
    const place = document.getElementById("said");
    if (place) place.textContent = text;
  };

  // On a phone the menu is wider than the page: show where we are.
  const place = document.querySelector(".nav [aria-current]");
  if (place) place.parentElement.scrollLeft = place.offsetLeft - place.parentElement.clientWidth / 3;

  // ---- live: the stream says "changed", the page is fetched and its live parts are swapped ----

  const busy = (part) => {
    const at = document.activeElement;
    return at && part.contains(at) && at.matches("input, textarea, select, summary");
  };

  const openParts = (part) =>
    [...part.querySelectorAll("details[open][id]")].map((item) => item.id);

  const swap = (fresh) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (!other || other.innerHTML === part.innerHTML || busy(part)) continue;
      const at = document.activeElement;
      const focus = at && part.contains(at) ? at.getAttribute("href") : null;
      const open = openParts(part);
      part.replaceChildren(...document.adoptNode(other).childNodes);
      for (const id of open) {
        const item = document.getElementById(id);
        if (item) item.open = true;
      }
      if (focus) part.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
    }
  };

  let fetching = false;
  let again = false;
  const refresh = async () => {
    if (document.hidden || fetching) {
      again = true;
      return;
    }
    fetching = true;
    try {
      const answer = await fetch(location.href, { headers: { "x-skerry-live": "1" } });
      if (answer.redirected && new URL(answer.url).pathname === "/sign-in") {
        location.reload();
        return;
      }
      if (answer.ok) {
        swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
    } catch {
      // The line is down; the stream comes back by itself and asks again.
    } finally {
      fetching = false;
      if (again && !document.hidden) {
        again = false;
        setTimeout(refresh, 1000);
      }
    }
  };

  const listen = () => {
    const address = document.body.dataset.stream;
    if (!address || !("EventSource" in window)) return;
    const dot = document.querySelector(".livedot");
    const stream = new EventSource(address);
    stream.addEventListener("open", () => dot?.setAttribute("data-on", ""));
    stream.addEventListener("changed", refresh);
    stream.onerror = () => dot?.removeAttribute("data-on");
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && again) refresh();
    });
    addEventListener("pagehide", () => stream.close());
    // Times move on although nothing changed.
    setInterval(refresh, 30000);
  };

  // ---- copy ----------------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      const before = button.textContent;
      button.textContent = "Copied";
      say("Copied");
      setTimeout(() => (button.textContent = before), 1600);
    } catch {
      getSelection().selectAllChildren(source);
    }
  });

  // ---- forms ---------------------------------------------------------------------------------

  document.addEventListener("change", (event) => {
    const field = event.target.closest("[data-reload]");
    if (!field) return;
    const form = field.form;
    const kept = new URLSearchParams();
    for (const [key, value] of new FormData(form)) {
      if (key !== "csrf" && key !== "do" && typeof value === "string") kept.set(key, value);
    }
    location.href = `${field.dataset.reload}?${kept}`;
  });

  document.addEventListener("change", (event) => {
    if (event.target.closest("[data-send]")) event.target.form.requestSubmit();
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-line]");
    const editor = document.getElementById("editor");
    if (!link || !editor) return;
    event.preventDefault();
    const lines = editor.value.split("\n");
    const number = Math.min(Number(link.dataset.line), lines.length) - 1;
    const start = lines.slice(0, number).reduce((sum, line) => sum + line.length + 1, 0);
    editor.focus();
    editor.setSelectionRange(start, start + lines[number].length);
    editor.scrollTop = Math.max(0, number - 5) * parseFloat(getComputedStyle(editor).lineHeight);
  });

  document.addEventListener("keydown", (event) => {
    const editor = event.target.closest?.("#editor");
    if (editor && event.key === "Tab" && !event.shiftKey && !editor.dataset.leave) {
      event.preventDefault();
      editor.setRangeText("  ", editor.selectionStart, editor.selectionEnd, "end");
    }
    // Escape, then Tab leaves the editor, so that a keyboard is never caught in it.
    if (editor && event.key === "Escape") editor.dataset.leave = "1";
    else if (editor && event.key !== "Tab") delete editor.dataset.leave;
  });

  // ---- shortcuts -----------------------------------------------------------------------------

  const places = { o: "/", h: "/hosts", c: "/clusters", a: "/approvals", p: "/profiles", t: "/tokens", s: "/sites", e: "/events" };
  let leader = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select, [contenteditable]")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (!document.body.dataset.keys) return;
    const help = document.getElementById("help");
    if (leader && Date.now() - leader < 1500 && places[event.key]) {
      event.preventDefault();
      leader = 0;
      location.href = places[event.key];
    } else if (event.key === "g") {
      leader = Date.now();
    } else if (event.key === "/") {
      const filter = document.querySelector("[data-filter]");
      if (filter) {
        event.preventDefault();
        filter.focus();
        filter.select();
      }
    } else if (event.key === "?" && help) {
      event.preventDefault();
      if (help.open) help.close();
      else help.showModal();
    }
  });

  listen();
})();
