"use strict";
(() => {
  const token = document.getElementById("token");
  const show = document.getElementById("show");
  const put = (open) => {
    token.type = open ? "text" : "password";
    show.textContent = open ? "Hide" : "Show";
    show.setAttribute("aria-label", `${show.textContent} the token`);
  };
  show.hidden = false;
  show.addEventListener("click", () => {
    const at = [token.selectionStart, token.selectionEnd];
    put(token.type === "password");
    token.focus();
    token.setSelectionRange(...at);
  });
  // Browsers keep it as a password then, and what stands in the field's history is none.
  token.form.addEventListener("submit", () => put(false));
  // A page that comes back from the browser's memory.
  addEventListener("pageshow", () => put(false));
})();
