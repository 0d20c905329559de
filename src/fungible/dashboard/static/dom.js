// The only ways this page touches the document. Text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Change text only where it differs: selections, focus and screen readers stay undisturbed. */
export function set(node, text, className) {
  if (node.textContent !== text) node.textContent = text;
  if (className !== undefined && node.className !== className) node.className = className;
  return node;
}

export function attr(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** One child per item, reused by key and kept in the order of the items. */
export function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = old.get(key);
    if (node) old.delete(key);
    else {
      node = create(item);
      node.dataset.key = key;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update(node, item);
  }
  for (const node of old.values()) node.remove();
}

/** A table row of plain cells; `cells` are [text, class] pairs. */
export function cells(row, values) {
  while (row.children.length < values.length) row.append(el("td"));
  values.forEach(([text, className = ""], index) => set(row.children[index], text, className));
}

/** Show `empty` with what to do instead of `full`. */
export function emptied(empty, full, message, command = "") {
  const isEmpty = message !== "";
  empty.hidden = !isEmpty;
  for (const node of full) node.classList.toggle("without", isEmpty);
  const key = message + command;
  if (!isEmpty || empty.dataset.key === key) return;
  empty.dataset.key = key;
  empty.replaceChildren(el("p", "", message));
  if (!command) return;
  const code = el("code", "", command);
  const box = el("pre");
  box.tabIndex = 0;
  box.append(code);
  const copy = el("button", "copy", "copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      set(copy, "copied");
    } catch {
      // Without clipboard access, select it so that the keyboard can copy.
      getSelection().selectAllChildren(code);
      set(copy, "selected");
    }
  });
  empty.append(box, copy);
}
