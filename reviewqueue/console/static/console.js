// What the pages gain where scripts run: content that is revealed in place and
// hidden again, pictures, a lease that is kept while somebody works, and keys.
// Words of messages reach the page through textContent alone; the policy of
// the page forbids making HTML from strings.

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const node = (tag, className = "", text = "") => {
  const n = document.createElement(tag);
  if (className) n.className = className;
  if (text) n.textContent = text;
  return n;
};

const page = $("#case");
const caseID = page?.dataset.case;
const leaseToken = $("#reveal input[name=lease_token], #decide input[name=lease_token]")?.value;
let over = false; // the lease was lost
const idleLimit = 10 * 60_000; // without a key or a pointer, the lease is left to run out

for (const n of $$("[data-act]")) n.hidden = false;

// ---- the API

async function call(what, body) {
  const answer = await fetch(`/api/v1/cases/${encodeURIComponent(caseID)}/${what}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ lease_token: leaseToken, ...body }),
  });
  const skew = Date.parse(answer.headers.get("Date")) - Date.now() || 0;
  let content = null;
  try {
    content = await answer.json();
  } catch {
    // An answer without a body; its status says it all.
  }
  return { ok: answer.ok, status: answer.status, content, skew };
}

function say(text) {
  const box = $("[data-problem]");
  if (!box) return;
  box.textContent = text;
  box.hidden = !text;
}

// ---- revealing and hiding

const timers = new Map(); // slot → what stops its clock
let generation = 0; // what was asked for before the last "hide everything" stays hidden

function hide(slot) {
  timers.get(slot)?.();
  timers.delete(slot);
  const out = $(".out", slot);
  for (const img of $$("img", out)) URL.revokeObjectURL(img.src);
  out.replaceChildren();
}

function hideAll() {
  generation++;
  for (const slot of $$(".slot")) hide(slot);
}

function startClock(slot, out) {
  const left = node("span", "left");
  out.append(left);
  const until = Date.now() + Number(page.dataset.hide) * 1000;
  const tick = () => {
    const s = Math.ceil((until - Date.now()) / 1000);
    if (s <= 0) hide(slot);
    else left.textContent = `hidden again in ${s} s`;
  };
  tick();
  const id = setInterval(tick, 500);
  timers.set(slot, () => clearInterval(id));
}

// Characters that hide, or turn the text around them, are written as their
// number.
const odd = /[\p{C}\p{Zl}\p{Zp}]/u;

function words(text, head = "", named = false) {
  const box = node("div", named ? "words named" : "words");
  if (head) box.append(node("span", "soft", head));
  const p = node("p");
  p.dir = "auto";
  let run = "";
  const flush = () => {
    if (run) p.append(document.createTextNode(run));
    run = "";
  };
  for (const c of text) {
    if (c === "\n" || c === "\t" || !odd.test(c)) {
      run += c;
      continue;
    }
    flush();
    p.append(node("span", "odd", `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`));
  }
  flush();
  box.append(p);
  return box;
}

const pictures = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

function picture({ media_type: type, data }) {
  if (!pictures.has(type)) return node("p", "soft", `The console does not show ${type}.`);
  const raw = atob(data);
  const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
  const figure = node("figure");
  const frame = node("div", "frame");
  const img = node("img", "grey blur");
  img.alt = "the attachment";
  img.src = URL.createObjectURL(new Blob([bytes], { type }));
  frame.append(img);
  const bar = node("p");
  for (const [name, label] of [["blur", "Without blur"], ["grey", "In colour"]]) {
    const b = node("button", "quiet", label);
    b.type = "button";
    b.setAttribute("aria-pressed", "false");
    b.addEventListener("click", () => {
      b.setAttribute("aria-pressed", String(!img.classList.toggle(name)));
    });
    bar.append(b);
  }
  figure.append(frame, bar);
  return figure;
}

function present(value) {
  if (value === null || value === undefined) return [node("p", "soft", "There is nothing here: it was not kept.")];
  if (typeof value === "string") return [words(value)];
  if (Array.isArray(value)) {
    if (value.length === 0) return [node("p", "soft", "There are no messages around it.")];
    return value.map((m) => words(m.text, `${m.sender} · ${m.sent_at.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")}`, m.named));
  }
  return [picture(value)];
}

async function reveal(button) {
  const slot = button.closest(".slot");
  const form = $("#reveal");
  if (!form.reportValidity()) return;
  // One thing at a time: what was shown before goes first.
  hideAll();
  say("");
  const mine = generation;
  button.disabled = true;
  try {
    const { ok, status, content } = await call("reveal", {
      purpose: form.elements.purpose.value,
      basis: form.elements.basis.value.trim(),
      fields: [button.value],
    });
    if (mine !== generation) return;
    if (status === 409 || status === 401) return lost();
    if (!ok) return say(content?.detail || "This could not be revealed.");
    const out = $(".out", slot);
    out.replaceChildren(...present(content.fields[button.value]));
    startClock(slot, out);
  } catch {
    say("The service could not be reached. Nothing was shown.");
  } finally {
    button.disabled = over;
  }
}

for (const b of $$("button[name=field]")) {
  b.addEventListener("click", (e) => {
    e.preventDefault();
    reveal(b);
  });
}
$("#reveal")?.addEventListener("submit", (e) => {
  e.preventDefault();
  if (e.submitter?.name === "field") reveal(e.submitter);
});
$("[data-act=hide]")?.addEventListener("click", hideAll);
addEventListener("pagehide", hideAll);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hideAll();
});

const basisOf = { safety_review: caseID };
$("#purpose")?.addEventListener("change", (e) => {
  const basis = $("#basis");
  const reports = $$("#bases option").map((o) => o.value).filter((v) => v !== caseID);
  basis.value = basisOf[e.target.value] ?? (e.target.value === "user_report" && reports.length === 1 ? reports[0] : "");
  if (!basis.value) basis.focus();
});

// ---- the lease

let lastTouch = Date.now();
for (const kind of ["keydown", "pointerdown", "pointermove", "wheel"]) {
  addEventListener(kind, () => { lastTouch = Date.now(); }, { passive: true });
}

function lost() {
  over = true;
  hideAll();
  for (const b of $$(".desk button, .lease button, .slot button")) b.disabled = true;
  $(".lease .soft").textContent = "";
  $("[data-lease-left]").textContent = "lease over";
  say("You no longer hold this case: its lease ran out, or it was decided elsewhere.");
}

if (page?.dataset.leaseSeconds && leaseToken) {
  const lease = $(".lease");
  let ends = Date.now() + Number(page.dataset.leaseSeconds) * 1000;
  const length = Math.max(ends - Date.now(), 15_000);
  let next = Date.now() + length / 3;
  const show = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    $("[data-lease-left]").textContent = s < 90 ? `${s} s` : `${Math.floor(s / 60)} min`;
    lease.classList.toggle("short", s < 60);
  };
  setInterval(async () => {
    if (over) return;
    const now = Date.now();
    show(ends - now);
    if (now >= ends) return lost();
    if (now < next || document.hidden || now - lastTouch > idleLimit) return;
    next = now + length / 3;
    try {
      const { ok, status, content, skew } = await call("heartbeat", {});
      if (status === 409 || status === 401) return lost();
      if (ok) ends = Date.parse(content.lease_expires_at) - skew;
    } catch {
      // The clock goes on; the next beat may get through.
    }
  }, 1000);
}

// ---- deciding

const choices = $$("#decide input[name=decision]");
choices.forEach((c, i) => c.closest("label").append(node("kbd", "", String(i + 1))));
const send = $("[data-send]");
function arm() {
  const chosen = choices.find((c) => c.checked);
  if (chosen && send) send.textContent = `Send “${chosen.value}”`;
}
for (const c of choices) c.addEventListener("change", arm);
for (const f of $$("#claim, #decide")) {
  f.addEventListener("submit", (e) => {
    if (f.dataset.sent) e.preventDefault();
    f.dataset.sent = "1";
  });
}
addEventListener("pageshow", () => {
  for (const f of $$("form[data-sent]")) delete f.dataset.sent;
});

// ---- keys

const rows = () => $$("[data-row]").filter((r) => r.offsetParent !== null);
let at = -1;
function move(by) {
  const all = rows();
  if (all.length === 0) return;
  all[at]?.classList.remove("at");
  at = Math.min(all.length - 1, Math.max(0, at + by));
  all[at].classList.add("at");
  ($("a", all[at]) ?? all[at]).focus({ preventScroll: true });
  all[at].scrollIntoView({ block: "nearest" });
}

const help = $("#help");
const keys = {
  j: () => move(1),
  k: () => move(-1),
  c: () => $("#claim")?.requestSubmit(),
  p: () => $("#purpose")?.focus(),
  r: () => {
    if (at < 0) move(1);
    const b = $("button[data-reveal]", rows()[at] ?? document) ?? $("button[name=field]", rows()[at] ?? document);
    if (b && !b.disabled) reveal(b);
  },
  "?": () => help.showModal(),
};
["1", "2", "3"].forEach((key, i) => {
  keys[key] = () => {
    if (!choices[i] || over) return;
    choices[i].checked = true;
    arm();
    send.focus();
  };
});
$("[data-act=help]")?.addEventListener("click", keys["?"]);

addEventListener("keydown", (e) => {
  if (e.key === "Escape") {
    hideAll();
    return;
  }
  if (e.ctrlKey || e.altKey || e.metaKey || e.repeat && !"jk".includes(e.key)) return;
  if (help?.open || e.target.closest?.("input:not([type=radio]), textarea, select")) return;
  const act = keys[e.key];
  if (!act) return;
  e.preventDefault();
  act();
});
