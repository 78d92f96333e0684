"use strict";
for (const box of document.querySelectorAll(".masked")) {
  const button = box.querySelector("button");
  const text = box.querySelector(".text");
  const closed = button.innerHTML;
  button.addEventListener("click", () => {
    const open = text.hidden;
    const bytes = Uint8Array.from(atob(box.dataset.text), (c) => c.charCodeAt(0));
    text.textContent = open ? new TextDecoder().decode(bytes) : "";
    text.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    if (open) button.textContent = "mask again";
    else button.innerHTML = closed;
  });
}
