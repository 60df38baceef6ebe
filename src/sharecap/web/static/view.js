// Keys, pages of the gallery that are emptied when they are far away, answers that stream. No state lives here.
"use strict";

const typing = (element) => element && element.matches("input:not([type=checkbox]), textarea, select");

function notice(text) {
  const line = document.getElementById("notice");
  line.textContent = text;
  line.hidden = false;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { line.hidden = true; }, 6000);
}

function step(selector, by) {
  const all = [...document.querySelectorAll(selector)];
  const here = all.indexOf(document.activeElement);
  const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : here + by];
  if (next) {
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches("[data-submit]")) {
    event.preventDefault();
    target.form.requestSubmit();
    return;
  }
  if (event.key === "Escape" && typing(target)) {
    const editor = document.getElementById("editor");
    if (editor && editor.contains(target)) editor.replaceChildren();
    target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(target) || document.querySelector("dialog[open]")) return;
  if ((event.key === "Enter" || event.key === " ") && target.matches("[role=button]")) {
    event.preventDefault();
    target.click();
    return;
  }
  if (event.key === "j" || event.key === "k") {
    const by = event.key === "j" ? 1 : -1;
    step(document.querySelector(".sentence") ? ".sentence" : ".card a", by);
    event.preventDefault();
    return;
  }
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!found || event.repeat) return;
  event.preventDefault();
  if (typing(found)) found.focus();
  else found.click();
});

document.addEventListener("click", (event) => {
  const close = event.target.closest("[data-close]");
  if (close) document.querySelector(close.dataset.close).replaceChildren();
  if (event.target.closest("[data-help]")) document.getElementById("keys").showModal();
});

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-filters]");
  if (form && event.target.matches("select")) form.requestSubmit();
});

// Empty fields stay out of the address.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-filters]")) return;
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[data-filters] [disabled]")) field.disabled = false;
});

document.addEventListener("htmx:responseError", (event) => notice(event.detail.xhr.responseText.slice(0, 300)));
document.addEventListener("htmx:sendError", () => notice("The server does not answer. Is it still running?"));

// Pages far above or below hold no pictures: a gallery of a million scrolls in constant memory.
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting, boundingClientRect } of entries) {
    if (!isIntersecting && target.childElementCount && boundingClientRect.height) {
      target.style.height = `${boundingClientRect.height}px`;
      target.replaceChildren();
    } else if (isIntersecting && !target.childElementCount && target.style.height) {
      htmx.ajax("GET", target.dataset.page, { target, swap: "innerHTML" }).then(() => { target.style.height = ""; });
    }
  }
}, { rootMargin: "250% 0px" });
const watch = (root) => root.querySelectorAll("[data-page]").forEach((page) => near.observe(page));
document.addEventListener("htmx:load", (event) => {
  const added = event.detail.elt;
  if (added.matches && added.matches("[data-page]")) near.observe(added);
  const field = added.querySelector && added.querySelector("[data-focus]");
  if (field) { field.focus(); field.setSelectionRange(field.value.length, field.value.length); }
  clock(document);
});
watch(document);

// How long a rater took.
function clock(root) {
  const form = root.querySelector("form[data-clock]");
  if (form && !form.dataset.began) form.dataset.began = String(performance.now());
}
document.addEventListener("htmx:configRequest", (event) => {
  const form = event.detail.elt.closest("form[data-clock]");
  if (form) event.detail.parameters.seconds = ((performance.now() - Number(form.dataset.began)) / 1000).toFixed(1);
});
document.addEventListener("htmx:beforeSwap", (event) => { if (event.detail.target.id === "question") window.scrollTo(0, 0); });

async function ask(form, which) {
  const place = form.querySelector(`[data-answer="${which}"]`);
  const chosen = form.elements[which];
  form.querySelector(`[data-name="${which}"]`).textContent = chosen.value === "" ? "" : chosen.selectedOptions[0].text;
  place.textContent = "";
  if (chosen.value === "") return;
  const body = new URLSearchParams({ model: chosen.value, image: form.elements.image.value, question: form.elements.question.value });
  const headers = JSON.parse(document.body.getAttribute("hx-headers"));
  try {
    const response = await fetch("/ask", { method: "POST", body, headers });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      place.textContent += value;
    }
  } catch {
    place.textContent += "\n[the server went away]";
  }
}
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-ask]");
  if (!form) return;
  event.preventDefault();
  ask(form, "model");
  ask(form, "other");
});
