// SHA-256 (FIPS 180-4). The browser's own is missing where a page comes by plain http.

// The digest of a text's UTF-8 bytes, as 64 hex digits.
function sha256(text) {
  const words = paddedWords(new TextEncoder().encode(text));
  let state = PRIMES.slice(0, 8).map((prime) => fractionBits(Math.sqrt(prime)));
  for (let at = 0; at < words.length; at += 16) state = compressBlock(state, words.subarray(at, at + 16));
  return state.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

// The standard's constants are the first 32 bits of the fractions of roots of the first 64 primes.
const PRIMES = [...Array(312).keys()].slice(2).filter((n) => [2, 3, 5, 7, 11, 13, 17].every((p) => n % p || n === p));
const fractionBits = (root) => ((root % 1) * 2 ** 32) | 0;
const ROUND_ADDENDS = PRIMES.map((prime) => fractionBits(Math.cbrt(prime)));

// The bytes, a single bit, zeros, and the length in bits, in 32-bit words of whole blocks of 64 bytes.
function paddedWords(bytes) {
  const view = new DataView(new ArrayBuffer(64 * Math.ceil((bytes.length + 9) / 64)));
  bytes.forEach((byte, i) => view.setUint8(i, byte));
  view.setUint8(bytes.length, 0x80);
  view.setBigUint64(view.byteLength - 8, 8n * BigInt(bytes.length));
  return Uint32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getUint32(4 * i));
}

const rotateRight = (word, by) => (word >>> by) | (word << (32 - by));

// The state after one block of 16 words; the letters are the standard's.
function compressBlock(state, block) {
  const w = new Int32Array(64);
  w.set(block);
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t++) {
    if (t >= 16) {
      const [x, y] = [w[t - 15], w[t - 2]];
      const early = rotateRight(x, 7) ^ rotateRight(x, 18) ^ (x >>> 3);
      w[t] = w[t - 16] + early + w[t - 7] + (rotateRight(y, 17) ^ rotateRight(y, 19) ^ (y >>> 10));
    }
    const chosen = (e & f) ^ (~e & g);
    const first = h + (rotateRight(e, 6) ^ rotateRight(e, 11) ^ rotateRight(e, 25)) + chosen + ROUND_ADDENDS[t] + w[t];
    const majority = (a & b) ^ (a & c) ^ (b & c);
    const second = (rotateRight(a, 2) ^ rotateRight(a, 13) ^ rotateRight(a, 22)) + majority;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  return [a, b, c, d, e, f, g, h].map((word, i) => (word + state[i]) | 0);
}
