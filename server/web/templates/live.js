"use strict";
(() => {
  const live = document.getElementById("live");
  const skew = Number(document.documentElement.dataset.now) - Date.now() / 1000;
  const now = () => Date.now() / 1000 + skew;
  const key = document.body.querySelector("#node") ? decodeURIComponent(location.pathname.split("/")[2]) : "";
  let busy = false;
  let again = false;

  const say = (words, kind) => {
    if (live.textContent !== words) live.textContent = words;
    live.className = kind;
  };

  // As format_age in page.py has it.
  const age = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
  };
  const tick = () => {
    for (const one of document.querySelectorAll("time[data-t]")) {
      const words = age(now() - Number(one.dataset.t));
      if (one.textContent !== words) one.textContent = words;
    }
  };

  // What is selected is left alone: somebody is copying a MAC.
  const isReading = () => {
    const selection = getSelection();
    return selection.rangeCount > 0 && !selection.isCollapsed
      && document.getElementById("main").contains(selection.anchorNode);
  };

  const replace = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    // A list that stands open would close.
    if (document.activeElement.tagName === "SELECT" && old.contains(document.activeElement)) return;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = [...old.querySelectorAll("pre, .scroll")].map((one) => [one.scrollTop, one.scrollLeft]);
    const top = [old.scrollTop, old.scrollLeft];
    const rows = old.querySelector("[data-rows]");
    const freshRows = fresh.querySelector("[data-rows]");
    if (rows && freshRows && old.children.length === fresh.children.length) {
      const have = new Map([...rows.children].map((row) => [row.id, row]));
      const next = [...freshRows.children].map((row) => {
        const mine = have.get(row.id);
        return mine && mine.isEqualNode(row) ? mine : document.adoptNode(row);
      });
      rows.replaceChildren(...next);
      freshRows.replaceWith(rows);
    }
    old.replaceChildren(...[...fresh.childNodes].map((child) => document.adoptNode(child)));
    old.className = fresh.className;
    [...old.querySelectorAll("pre, .scroll")].forEach((one, number) => {
      if (scrolled[number]) [one.scrollTop, one.scrollLeft] = scrolled[number];
    });
    [old.scrollTop, old.scrollLeft] = top;
    if (focused && document.activeElement !== focused) {
      const href = focused.getAttribute("href");
      const same = focused.isConnected ? focused
        : href && [...old.querySelectorAll("a")].find((one) => one.getAttribute("href") === href);
      if (same) same.focus({preventScroll: true});
    }
  };

  const refresh = async (asked) => {
    if (document.hidden || (isReading() && !asked)) {
      again = true;
      return;
    }
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    const began = performance.now();
    const url = location.href;
    try {
      const answer = await fetch(url, {cache: "no-store"});
      if (answer.status === 401) location.reload();
      if (answer.ok && url === location.href) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
          const other = fresh.getElementById(old.id);
          if (other) replace(old, other);
        }
        document.title = fresh.title;
        tick();
      }
    } catch (error) {
      // The stream below says that the server is not there, and when it is again.
    }
    // A server or a network that is slow is asked less often.
    setTimeout(() => {
      busy = false;
      if (again) refresh(false);
    }, asked ? 50 : Math.max(1000, 10 * (performance.now() - began)));
  };

  const find = document.getElementById("find");
  if (find) {
    let typing = 0;
    const look = (name = "q") => {
      const url = new URL(location.href);
      const wanted = find.elements[name].value.trim();
      if (wanted) url.searchParams.set(name, wanted); else url.searchParams.delete(name);
      url.searchParams.delete("page");
      if (url.href === location.href) return;
      history.replaceState(null, "", url);
      refresh(true);
    };
    document.addEventListener("change", (event) => {
      if (event.target.tagName !== "SELECT" || event.target.form !== find) return;
      look(event.target.name);
      event.target.blur();
    });
    find.addEventListener("input", (event) => {
      if (event.target.tagName === "SELECT") return;
      clearTimeout(typing);
      typing = setTimeout(look, 200);
    });
    find.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(typing);
      look();
    });
  }

  // Without TLS a browser gives pages no clipboard but this one.
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) throw new Error("not copied");
  };

  const forget = async (path) => {
    if (!confirm("Forget this machine: its timeline and its log?")) return;
    try {
      const answer = await fetch(path, {method: "DELETE"});
      if (answer.ok) location.href = "/"; else alert(await answer.text());
    } catch (error) {
      alert("no connection to the server");
    }
  };

  const change = async (button) => {
    let path = button.dataset.change;
    if (button.dataset.ask) {
      const words = prompt(button.dataset.ask, button.dataset.value);
      if (words === null) return;
      path += encodeURIComponent(words);
    }
    try {
      const answer = await fetch(path, {method: "PUT"});
      if (answer.ok) location.reload(); else alert(await answer.text());
    } catch (error) {
      alert("no connection to the server");
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy], button[data-forget], button[data-change]");
    if (!button) return;
    if (button.dataset.change) {
      change(button);
      return;
    }
    if (button.dataset.forget) {
      forget(button.dataset.forget);
      return;
    }
    const tell = (words) => {
      button.textContent = words;
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    };
    copy(button.dataset.copy).then(() => tell("copied"), () => tell("no"));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !find
      || ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (event.key === "/") {
      event.preventDefault();
      find.elements.q.focus();
    } else if (event.key === "j" || event.key === "k") {
      const links = [...document.querySelectorAll("#rows a")];
      const at = links.indexOf(document.activeElement);
      const next = links[event.key === "j" ? at + 1 : Math.max(0, at - 1)];
      if (next) next.focus();
    }
  });

  document.documentElement.classList.add("js");
  const follow = () => {
    const stream = new EventSource("/api/changes" + (key ? `?node=${encodeURIComponent(key)}` : ""));
    stream.onopen = () => {
      say("live", "on");
      refresh(false);
    };
    stream.onmessage = () => refresh(false);
    stream.onerror = () => {
      say("no connection to the server; trying again", "lost");
      // Refused (too many follow), not cut: the browser does not try again by itself.
      if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 10000);
    };
    addEventListener("pagehide", () => stream.close(), {once: true});
  };

  follow();
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  document.addEventListener("visibilitychange", () => refresh(false));
  document.addEventListener("selectionchange", () => { if (again && !isReading()) refresh(false); });
  setInterval(tick, 1000);
  setInterval(() => refresh(false), 15000);
})();
