/* The book's GRU without PyTorch: what the sampler and the neuron browser on the page run.

   One step reads one character. Each layer sees x, the character's embedding or the state of
   the layer below, and its own state h:

     reset      r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
     update     z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
     candidate  n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
     state      h' = (1 - z) * n + z * h

   As in PyTorch, one matrix holds the rows of r, then z, then n, and r is applied after the
   product with h. The weights are stored as float16; the sums here are float64. The book's
   tests compare every logit with PyTorch's in a real browser.

   V is the vocabulary, E the embedding, H the hidden state. */

window.charlm = (() => {
  "use strict";

  // ---- weights ----------------------------------------------------------------------------

  /** The number in 16 bits: one of sign, 5 of exponent, 10 of fraction (IEEE 754). */
  function halfToNumber(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    if (exponent === 0) return sign * fraction * 2 ** -24; // zero and the subnormal numbers
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }

  /** A tensor from base64 of float16, low byte first; a bias is a matrix of one column. */
  function readTensor({ shape, data }) {
    const bytes = atob(data);
    const values = new Float32Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      values[i] = halfToNumber(bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8));
    }
    return { rows: shape[0], columns: shape[1] ?? 1, values };
  }

  /** A model from what the book's build wrote: the fields of config.json and the tensors. */
  function readModel(saved) {
    const tensor = (name) => readTensor(saved.tensors[name]);
    const layers = [];
    for (let l = 0; l < saved.model.num_layers; l++) {
      layers.push({
        inputWeight: tensor(`core.weight_ih_l${l}`), // (3H, E), above the first layer (3H, H)
        inputBias: tensor(`core.bias_ih_l${l}`), // (3H)
        stateWeight: tensor(`core.weight_hh_l${l}`), // (3H, H)
        stateBias: tensor(`core.bias_hh_l${l}`), // (3H)
      });
    }
    return {
      vocab: saved.vocab, // the characters; a character's place is its id
      ids: new Map(saved.vocab.map((character, id) => [character, id])),
      hiddenSize: saved.model.hidden_size,
      layers,
      embedding: tensor("embedding.weight"), // (V, E)
      headWeight: tensor("head.weight"), // (V, H)
      headBias: tensor("head.bias"), // (V)
    };
  }

  // ---- one step ---------------------------------------------------------------------------

  const sigmoid = (a) => 1 / (1 + Math.exp(-a));

  /** W x + b. */
  function linear(weight, bias, x) {
    const out = new Float64Array(weight.rows);
    for (let row = 0, k = 0; row < weight.rows; row++) {
      let sum = bias.values[row];
      for (let column = 0; column < weight.columns; column++) sum += weight.values[k++] * x[column];
      out[row] = sum;
    }
    return out;
  }

  /** The next state of one layer, from its input x and its state h. */
  function gruCell(layer, x, h) {
    const fromInput = linear(layer.inputWeight, layer.inputBias, x); // (3H): r, z, n
    const fromState = linear(layer.stateWeight, layer.stateBias, h); // (3H): r, z, n
    const H = h.length;
    return h.map((old, i) => {
      const reset = sigmoid(fromInput[i] + fromState[i]);
      const update = sigmoid(fromInput[H + i] + fromState[H + i]);
      const candidate = Math.tanh(fromInput[2 * H + i] + reset * fromState[2 * H + i]);
      return (1 - update) * candidate + update * old;
    });
  }

  /** Before the first character: zeros, one array of H numbers per layer. */
  function zeroState(model) {
    return model.layers.map(() => new Float64Array(model.hiddenSize));
  }

  /** Reads one character: the V logits of the next one, and the state of every layer. */
  function step(model, id, state) {
    const E = model.embedding.columns;
    let x = model.embedding.values.subarray(id * E, (id + 1) * E);
    const next = model.layers.map((layer, l) => (x = gruCell(layer, x, state[l])));
    return { logits: linear(model.headWeight, model.headBias, x), state: next };
  }

  // ---- text in, text out ------------------------------------------------------------------

  /** Ids of a text. Capitals that the model does not know are read as small letters.

      Throws an Error that names the first character the vocabulary lacks. */
  function encode(model, text) {
    const ids = [];
    let lowered = false;
    for (const character of text) {
      const small = character.toLowerCase();
      const known = [character, small].find((c) => model.ids.has(c));
      if (known === undefined) {
        const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        throw new Error(
          `The model has never read “${character}” (U+${code}), character ${ids.length + 1} of ` +
            "this text; nothing was changed."
        );
      }
      lowered ||= known !== character;
      ids.push(model.ids.get(known));
    }
    return { ids, lowered };
  }

  /** Ids from the largest logit to the smallest; of equal ones the first comes first. */
  function ranking(logits) {
    return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  }

  /** Probabilities at a temperature, of the topK likeliest characters only (0: of all). */
  function probabilities(logits, temperature, topK) {
    const order = ranking(logits);
    const highest = logits[order[0]]; // taken off first, so that no exponential overflows
    const probs = new Float64Array(logits.length);
    for (const id of order.slice(0, topK || order.length)) {
      probs[id] = Math.exp((logits[id] - highest) / temperature);
    }
    const total = probs.reduce((a, b) => a + b);
    return probs.map((p) => p / total);
  }

  /** Random numbers in [0, 1), the same for the same seed: Marsaglia's xorshift (2003). */
  function seeded(seed) {
    let x = Math.imul(seed + 1, 2654435761) | 1; // never 0, where xorshift would stay
    const random = () => {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      return (x >>> 0) / 2 ** 32;
    };
    for (let i = 0; i < 16; i++) random(); // neighbouring seeds part company
    return random;
  }

  /** An id drawn from probabilities. */
  function draw(probs, random) {
    let left = random();
    const id = probs.findIndex((p) => (left -= p) < 0);
    return id >= 0 ? id : probs.lastIndexOf(Math.max(...probs)); // rounding left a crumb over
  }

  return { readModel, zeroState, step, encode, ranking, probabilities, seeded, draw };
})();
