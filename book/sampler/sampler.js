/* The sampler: a text that grows by one character per frame, the ten likeliest next characters
   and the hidden state after every one. Needs gru.js and page.js; fills each
   <div class="charlm-sampler"></div>. */

(() => {
  "use strict";
  const lib = window.charlm;
  const KEEP = 120; // characters that can be looked back at
  const BARS = 10;
  const COLUMNS = 64; // cells in a row of the picture of the state

  const CONTROLS = `
    <form class="charlm-widget" aria-label="Sampler" novalidate>
      <label>Prompt
        <textarea name="prompt" rows="2" maxlength="600" spellcheck="false" autocapitalize="off"
          autocomplete="off" autocorrect="off">the man of the future</textarea></label>
      <div class="charlm-row">
        <label>Temperature <strong class="charlm-shown"></strong>
          <input type="range" name="temperature" min="0.2" max="1.5" step="0.05" value="0.8">
        </label>
        <label>Choose among
          <select name="topK">
            <option value="0">all characters</option>
            <option value="20">the 20 likeliest</option>
            <option value="5">the 5 likeliest</option>
            <option value="1">the likeliest (greedy)</option>
          </select></label>
        <label>Length
          <input type="number" name="length" min="1" max="2000" value="300"></label>
        <label>Seed
          <input type="number" name="seed" min="0" max="999999" value="0"></label>
      </div>
      <div class="charlm-row charlm-buttons">
        <button name="write">Write</button>
        <button type="button" name="one">One character</button>
        <button type="button" name="stop">Stop</button>
        <button type="button" name="clear">Clear</button>
      </div>
      <p class="charlm-caption">Write goes on with the text; a new prompt or seed begins a new one.
        The same seed and settings give the same text.</p>
      <p class="charlm-status" role="status"></p>
    </form>`;

  const VIEWS = `
    <div class="charlm-widget">
      <div class="charlm-text" role="group" aria-label="The text" tabindex="0"></div>
      <label>Look back <small>at the last ${KEEP} characters; or point at one, or tap it</small>
        <input type="range" name="back" min="0" max="0" value="0"></label>
      <p class="charlm-caption">Next after <strong class="charlm-place"></strong>
        <span class="charlm-hint"></span></p>
      <ol class="charlm-bars" aria-label="The likeliest next characters"></ol>
      <p class="charlm-caption">Hidden state after it <span class="charlm-cell"></span></p>
      <canvas class="charlm-strip" role="img"></canvas>
      <p class="charlm-legend"><span>−1</span><i></i><span>1</span></p>
    </div>`;

  const BAR = `<li><span class="charlm-key" role="img"></span><span class="charlm-bar"></span>
    <span class="charlm-percent"></span></li>`;

  // ---- writing ----------------------------------------------------------------------------

  /** The controls as numbers; throws an Error that names the one that holds none. */
  function readSettings(fields) {
    const { prompt, temperature, topK } = fields;
    const settings = {
      prompt: prompt.value,
      temperature: Number(temperature.value),
      topK: Number(topK.value),
    };
    for (const name of ["length", "seed"]) {
      const { value, min, max } = fields[name];
      settings[name] = value.trim() === "" ? NaN : Number(value);
      const fits = settings[name] >= Number(min) && settings[name] <= Number(max);
      if (!fits || !Number.isInteger(settings[name])) {
        throw new Error(`The ${name} must be a whole number from ${min} to ${max}.`);
      }
    }
    return settings;
  }

  /** Empties the text and reads the prompt into a fresh state. Nothing changes if it can't. */
  function begin(s, { prompt, seed }) {
    if (!prompt) throw new Error("The prompt is empty: give the model at least one character.");
    const { ids, lowered } = lib.encode(s.model, prompt);
    clear(s);
    Object.assign(s, { prompt, seed, lowered, random: lib.seeded(seed) });
    for (const id of ids) read(s, id, "charlm-given");
  }

  /** The model reads one character; the page shows it and keeps what the model made of it. */
  function read(s, id, className) {
    const character = s.model.vocab[id];
    const { logits, state } = lib.step(s.model, id, s.state);
    s.state = state;
    s.steps.push({ character, logits, hidden: state.at(-1), place: s.count });
    s.count += 1;
    const span = document.createElement("span");
    span.className = className;
    span.textContent = character;
    if (character === "\n") span.dataset.sign = lib.sign(character); // shown when marked
    s.view.text.append(span);
    if (s.steps.length > KEEP) settle(s);
  }

  /** Lets go of the oldest character that could be looked at; its text stays. */
  function settle(s) {
    s.steps.shift();
    const span = s.view.text.children[s.settled];
    const before = span.previousElementSibling;
    span.classList.remove("charlm-marked");
    if (before?.className === span.className) {
      before.append(span.textContent);
      span.remove();
    } else {
      s.settled += 1; // the first one, or the first after the prompt
    }
  }

  /** Draws one character from the settings of this moment. */
  function write(s) {
    const { temperature, topK } = s.settings;
    const probs = lib.probabilities(s.steps.at(-1).logits, temperature, topK);
    read(s, lib.draw(probs, s.random), "charlm-drawn");
  }

  function clear(s) {
    stop(s);
    s.view.text.textContent = "";
    const state = lib.zeroState(s.model);
    Object.assign(s, { state, steps: [], count: 0, settled: 0, pinned: null, hovered: null });
  }

  function stop(s) {
    cancelAnimationFrame(s.frame);
    s.frame = 0;
  }

  /** Writes `left` more characters: one per frame, or as many as fit where motion is unwelcome. */
  function animate(s, left) {
    const began = performance.now();
    do {
      write(s);
      left -= 1;
    } while (left > 0 && s.calm && performance.now() - began < 12);
    s.pinned = null;
    if (left > 0) s.frame = requestAnimationFrame(() => animate(s, left));
    else finish(s);
    if (s.calm && left > 0) return;
    show(s);
    reveal(s);
  }

  function halt(s) {
    if (!s.frame) return;
    finish(s);
    show(s);
  }

  function empty(s) {
    clear(s);
    show(s);
    lib.say(s.view.status, "The text is empty. Write begins again with the prompt.");
  }

  function finish(s) {
    stop(s);
    lib.say(s.view.status, `The text has ${s.count} characters.${note(s)}`);
  }

  const note = (s) =>
    s.lowered ? " Capitals were read as small letters, the only ones it knows." : "";

  /** Write or One character: goes on with the text, or begins it if prompt or seed are new. */
  function go(s, wanted) {
    stop(s);
    try {
      s.settings = readSettings(s.fields);
      const { prompt, seed } = s.settings;
      if (!s.steps.length || prompt !== s.prompt || seed !== s.seed) begin(s, s.settings);
    } catch (error) {
      lib.say(s.view.status, error.message, true);
      return;
    }
    const left = wanted ?? s.settings.length;
    if (left > 1) lib.say(s.view.status, `Writing ${left} characters.${note(s)}`);
    animate(s, left);
  }

  // ---- showing ----------------------------------------------------------------------------

  /** Bars, state and mark for the character that is looked at: pointed at, chosen, or the last. */
  function show(s) {
    const last = s.steps.length - 1;
    const at = Math.max(0, Math.min(last, s.hovered ?? s.pinned ?? last));
    const { text, back, box, place } = s.view;
    back.max = Math.max(0, last);
    back.value = s.pinned ?? last;
    text.querySelector(".charlm-marked")?.classList.remove("charlm-marked");
    box.classList.toggle("charlm-empty", last < 0);
    if (last < 0) return;
    spanOf(s, at).classList.add("charlm-marked");
    showBars(s, s.steps[at], s.steps[at + 1]);
    showState(s, s.steps[at].hidden);
    back.setAttribute("aria-valuetext", summary(s, at));
    s.view.strip.setAttribute("aria-label", `Hidden state after ${ending(s, at)}`);
    const lately = s.steps.slice(Math.max(0, at - 11), at + 1);
    place.textContent = `…${lately.map((x) => lib.sign(x.character)).join("")}`;
  }

  /** Scrolls the text, not the page, until the marked character can be seen. */
  function reveal({ view: { text } }) {
    const { offsetTop, offsetHeight } = text.querySelector(".charlm-marked");
    const lowest = offsetTop + offsetHeight + 10 - text.clientHeight;
    text.scrollTop = Math.max(lowest, Math.min(offsetTop - 10, text.scrollTop));
  }

  const spanOf = (s, at) => s.view.text.children[s.settled + at];
  const ending = (s, at) =>
    `character ${s.steps[at].place + 1}, ${lib.spoken(s.steps[at].character)}`;

  /** What a screen reader says of a place: the character and its three likeliest successors. */
  function summary(s, at) {
    const { logits } = s.steps[at];
    const { temperature, topK } = s.settings;
    const probs = lib.probabilities(logits, temperature, topK);
    const likely = lib.ranking(logits).slice(0, 3);
    const words = likely.map((id) => `${lib.spoken(s.model.vocab[id])} ${percent(probs[id])}`);
    return `${ending(s, at)}; next: ${words.join(", ")}`;
  }

  const percent = (p) => `${(100 * p).toFixed(1)} %`;

  /** The likeliest characters, at the temperature and among the characters that are set now. */
  function showBars(s, { logits }, next) {
    const probs = lib.probabilities(logits, s.settings.temperature, s.settings.topK);
    const order = lib.ranking(logits);
    s.view.hint.textContent = next ? "· bold and green: the character that came" : "";
    s.view.bars.forEach((bar, i) => {
      const character = s.model.vocab[order[i]];
      const [key, length, number] = bar.children;
      key.textContent = lib.sign(character);
      key.setAttribute("aria-label", lib.spoken(character));
      length.style.setProperty("--p", probs[order[i]]);
      number.textContent = percent(probs[order[i]]);
      bar.classList.toggle("charlm-came", character === next?.character);
    });
  }

  /** The hidden state as a picture: one pixel per unit, made large by the style sheet. */
  function showState(s, hidden) {
    const { strip } = s.view;
    const rows = Math.ceil(hidden.length / COLUMNS);
    const picture = new ImageData(COLUMNS, rows);
    hidden.forEach((value, unit) => {
      picture.data.set([...lib.mix(s.colours, value), 255], 4 * unit);
    });
    strip.width = COLUMNS;
    strip.height = rows;
    strip.getContext("2d").putImageData(picture, 0, 0);
    s.hidden = hidden;
  }

  /** Names the unit under the pointer and its value. */
  function nameCell(s, event) {
    const { left, top, width, height } = s.view.strip.getBoundingClientRect();
    const column = Math.floor(((event.clientX - left) / width) * COLUMNS);
    const row = Math.floor(((event.clientY - top) / height) * s.view.strip.height);
    const unit = row * COLUMNS + column;
    const value = s.hidden?.[unit];
    s.view.cell.textContent = value === undefined ? "" : `· unit ${unit}: ${lib.decimals(value)}`;
  }

  // ---- wiring -----------------------------------------------------------------------------

  function listen(s) {
    const { prompt, one, stop, clear, temperature, topK } = s.fields;
    prompt.form.addEventListener("submit", (event) => {
      event.preventDefault(); // Write, or Enter in one of the small fields
      go(s);
    });
    one.addEventListener("click", () => go(s, 1));
    stop.addEventListener("click", () => halt(s));
    clear.addEventListener("click", () => empty(s));
    temperature.addEventListener("input", () => retune(s));
    topK.addEventListener("input", () => retune(s));
    listenToViews(s);
  }

  /** A new temperature or choice shows at once, also in the middle of writing. */
  function retune(s) {
    const { temperature, topK } = s.fields;
    s.settings.temperature = Number(temperature.value);
    s.settings.topK = Number(topK.value);
    s.view.shown.textContent = s.settings.temperature.toFixed(2);
    show(s);
  }

  function listenToViews(s) {
    const { text, back, strip, cell } = s.view;
    const placeOf = (event) => {
      const at = Array.prototype.indexOf.call(text.children, event.target) - s.settled;
      return event.target !== text && at >= 0 ? at : null;
    };
    const look = (change) => {
      Object.assign(s, change);
      show(s);
    };
    text.addEventListener("pointerover", (event) => look({ hovered: placeOf(event) }));
    text.addEventListener("pointerleave", () => look({ hovered: null }));
    text.addEventListener("click", (event) => look({ pinned: placeOf(event) }));
    back.addEventListener("input", () => {
      look({ pinned: Number(back.value) });
      reveal(s);
    });
    strip.addEventListener("pointermove", (event) => nameCell(s, event));
    strip.addEventListener("pointerleave", () => (cell.textContent = ""));
    lib.onThemeChange(() => look({ colours: lib.readColours(s.view.box) }));
  }

  function build(box, model) {
    box.innerHTML = CONTROLS + VIEWS;
    const find = (selector) => box.querySelector(selector);
    find(".charlm-bars").innerHTML = BAR.repeat(Math.min(BARS, model.vocab.length));
    const view = { box, status: find(".charlm-status"), bars: [...box.querySelectorAll("li")] };
    for (const name of ["text", "place", "cell", "strip", "shown", "hint"]) {
      view[name] = find(`.charlm-${name}`);
    }
    view.back = find("[name=back]");
    const inputs = Array.from(find("form").elements);
    const fields = Object.fromEntries(inputs.map((field) => [field.name, field]));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const s = { model, fields, view, calm, colours: lib.readColours(box), frame: 0 };
    s.settings = readSettings(s.fields);
    begin(s, s.settings);
    listen(s);
    retune(s);
  }

  lib.fill("charlm-sampler", build);
})();
