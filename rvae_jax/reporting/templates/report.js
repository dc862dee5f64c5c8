// A tap on a picture shows it large, with its rows' labels; another one, or Escape, closes it.
const dialog = document.querySelector("dialog");
const shown = dialog.querySelector("div");
document.addEventListener("click", ({ target }) => {
  if (dialog.open) {
    dialog.close();
  } else if (target.closest(".picture button")) {
    shown.replaceChildren(target.closest(".picture").cloneNode(true));
    dialog.showModal();
    dialog.scrollTo(0, 0);
  }
});
